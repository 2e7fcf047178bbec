"""Worker processes: they share the work and keep the order; their death and their delay are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mdl_toolkit.data import child_process
from mdl_toolkit.data.audio.load import AudioLimits, load_waveform
from mdl_toolkit.data.conversion import pool as pool_module
from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.conversion.pool import WorkerPool
from mdl_toolkit.data.conversion.worker import ClipJob, LoadOptions
from mdl_toolkit.errors import MdlError
from support.data.clips import TINY, convert_settings, small_task, tone, write_csv, write_wav
from support.data.dataworkers import with_code
from support.data.recordings import bursts, mp3_bytes

OPTIONS = LoadOptions(AudioLimits(), 16000, "pcm16")


def _name(number: int) -> str:
    return f"rows.csv row {number}"


def _jobs(folder: Path, rows: int, chunk: int) -> list[list[ClipJob]]:
    for i in range(rows):
        write_wav(folder / f"{i}.wav", tone(0.01 * (i + 1)))
    jobs = [ClipJob(i + 2, str(folder / f"{i}.wav"), None, None) for i in range(rows)]
    return [jobs[i : i + chunk] for i in range(0, rows, chunk)]


@pytest.fixture
def waiting_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A clip that a worker starts to read and never finishes, as on a network drive that has gone."""
    path = tmp_path / "hangs.wav"
    write_wav(path, tone(0.1))
    code = textwrap.dedent(
        f"""
        import mdl_toolkit.data.conversion.worker as worker, time
        real = worker.load
        def load(job, options):
            if "hangs" in job.source:
                open({str(tmp_path / "reached")!r}, "w").close()
                time.sleep(600)
            return real(job, options)
        worker.load = load
        """
    )
    monkeypatch.setattr(child_process, "_CODE", with_code(child_process._CODE, code))
    return path


def _reached(tmp_path: Path) -> None:
    for _ in range(1000):
        if (tmp_path / "reached").exists():
            return
        time.sleep(0.02)
    raise AssertionError("no worker has come to it")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("chunk", [1, 4])
def test_results_come_in_the_order_of_the_jobs(tmp_path: Path, workers: int, chunk: int):
    chunks = _jobs(tmp_path, 11, chunk)
    with WorkerPool(workers) as pool:
        results = [result for part in pool.run(iter(chunks), OPTIONS, _name) for result in part]
    assert [result.samples for result in results] == [160 * (i + 1) for i in range(11)]
    for i, result in enumerate(results):
        pcm = np.frombuffer(result.audio, dtype="<i2")
        np.testing.assert_allclose(pcm / 32768, tone(0.01 * (i + 1)), atol=1 / 32768)


def test_workers_share_the_work(tmp_path: Path):
    chunks = _jobs(tmp_path, 40, 1)
    with WorkerPool(1) as pool:
        pool.grow(2)
        pids = [worker.process.pid for worker in pool._workers]
        given = dict.fromkeys(pids, 0)
        real = pool._give

        def give(worker, *args):
            given[worker.process.pid] += 1
            return real(worker, *args)

        pool._give = give  # type: ignore[method-assign]
        assert len(list(pool.run(iter(chunks), OPTIONS, _name))) == 40
    assert min(given.values()) >= 5 and sum(given.values()) == 40


def test_chunks_that_are_empty_or_large(tmp_path: Path):
    chunks = _jobs(tmp_path, 4, 2)
    long_names = [[ClipJob(9, "x" * 3000 + str(i), None, None) for i in range(50)] for _ in range(6)]
    with WorkerPool(1) as pool:
        results = list(pool.run(iter([[], chunks[0], [], *long_names, chunks[1]]), OPTIONS, _name))
    assert [len(part) for part in results] == [0, 2, 0, 50, 50, 50, 50, 50, 50, 2]
    assert all(result.problem for part in results[3:9] for result in part)


def test_a_killed_worker_is_an_error_that_names_its_rows(tmp_path: Path, waiting_clip: Path):
    chunks = [*_jobs(tmp_path / "good", 3, 1), [ClipJob(77, str(waiting_clip), None, None)]]
    with WorkerPool(2) as pool:

        def kill() -> None:
            _reached(tmp_path)
            busy = next(w for w in pool._workers if any(job.number == 77 for _, c in w.chunks for job in c))
            os.kill(busy.process.pid, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(MdlError) as caught:
            list(pool.run(iter(chunks), OPTIONS, _name))
        thread.join()
    assert "killed by signal 9" in str(caught.value) and "rows.csv row 77" in str(caught.value)
    assert "--num-workers" in str(caught.value)


def test_a_worker_that_can_t_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(child_process, "_CODE", "raise SystemExit(3)")
    with pytest.raises(MdlError, match="ended with code 3"), WorkerPool(1) as pool:
        list(pool.run(iter(_jobs(tmp_path, 8, 1)), OPTIONS, _name))


def test_a_stall_names_the_row_in_hand(
    tmp_path: Path, waiting_clip: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(pool_module, "STALL_SECONDS", 0.2)
    with WorkerPool(1) as pool:

        def end() -> None:
            _reached(tmp_path)
            time.sleep(2.5)
            pool._workers[0].process.kill()

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(MdlError):
            list(pool.run(iter([[ClipJob(5, str(waiting_clip), None, None)]]), OPTIONS, _name))
        thread.join()
    assert "nothing has come for 0 s; in hand: rows.csv row 5" in capfd.readouterr().err


def test_leaving_the_pool_ends_workers_whatever_they_do(tmp_path: Path, waiting_clip: Path):
    chunks = [*_jobs(tmp_path, 1, 1), [ClipJob(5, str(waiting_clip), None, None)]]
    with WorkerPool(1) as pool:
        processes = [worker.process for worker in pool._workers]
        assert next(pool.run(iter(chunks), OPTIONS, _name))[0].samples == 160
        _reached(tmp_path)
    assert all(process.poll() is not None for process in processes)


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_workers_go_when_the_converter_is_killed(tmp_path: Path):
    for i in range(20):
        write_wav(tmp_path / f"{i}.wav", np.zeros(16000 * 250, dtype=np.int16))
    rows = [(f"{i}.wav", "x") for i in range(20)] * 50
    source = write_csv(tmp_path / "rows.csv", ["audio", "prediction"], rows)
    words = ["convert-dataset", str(source), "--output", str(tmp_path / "out"), "--model-name", str(TINY)]
    process = subprocess.Popen(
        [sys.executable, "-m", "mdl_toolkit", *words, "--base-dir", str(tmp_path), "--num-workers", "2"],
        stderr=subprocess.DEVNULL,
    )
    partial = tmp_path / f".partial-out-{process.pid}"
    while not (partial.exists() and any(path.stat().st_size > 10**7 for path in partial.iterdir())):
        assert process.poll() is None
        time.sleep(0.02)
    children = _children(process.pid)
    assert len(children) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in children)
    assert not (tmp_path / "out").exists()
    # The next attempt clears away what was left.
    write_csv(tmp_path / "rows.csv", ["audio", "prediction"], rows[:2])
    convert_dataset(convert_settings(source, tmp_path / "out"))
    assert not list(tmp_path.glob(".partial-*")) and not list(tmp_path.glob(".lock-*"))


def test_a_script_without_a_main_guard_can_convert(tmp_path: Path):
    """Processes that import the caller's script again would start conversions in conversions."""
    source = small_task(tmp_path / "task")
    script = tmp_path / "script.py"
    script.write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n"
        "from pathlib import Path\n"
        "from mdl_toolkit import ConvertSettings, convert_dataset\n"
        f"settings = ConvertSettings(input=Path({str(source)!r}), output=Path({str(tmp_path / 'out')!r}),\n"
        f"    model_name={str(TINY)!r}, base_dir=Path({str(source.parent)!r}), num_workers=2)\n"
        "print(len(convert_dataset(settings)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["6"], done.stderr


def test_results_are_the_same_for_any_number_of_workers_and_chunk(tmp_path: Path):
    source = small_task(tmp_path / "task", rows=9)
    one = convert_dataset(convert_settings(source, tmp_path / "one"))
    many = convert_dataset(
        convert_settings(source, tmp_path / "many", num_workers=3, tokenizing_batch_size=2)
    )
    data = "data-00000-of-00001.arrow"
    assert (tmp_path / "one" / data).read_bytes() == (tmp_path / "many" / data).read_bytes()
    assert one.manifest.files == many.manifest.files


def test_remarks_of_decoders_don_t_reach_the_screen(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """An MP3 decoder complains of frames that a seek has left without the bytes before them."""
    (tmp_path / "a.mp3").write_bytes(mp3_bytes(bursts(20)))
    rows = [("a.mp3", "x", 0.1 + i / 8, 0.2 + i / 8) for i in range(150)]
    source = write_csv(tmp_path / "rows.csv", ["audio", "prediction", "start", "end"], rows)
    for start in range(1, 19):
        load_waveform(str(tmp_path / "a.mp3"), start=start + 0.1, end=start + 0.2)
    if "mpg123" not in capfd.readouterr().err:
        pytest.skip("this version of the library says nothing")
    assert len(convert_dataset(convert_settings(source, tmp_path / "out"))) == 150
    assert "mpg123" not in capfd.readouterr().err
