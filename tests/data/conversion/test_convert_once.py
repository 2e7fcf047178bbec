"""Converted once for all processes: one converts and the others wait, failures are shared, no half cache."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mdl_toolkit.data import lock as lock_module
from mdl_toolkit.data.conversion.command import convert_once
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.errors import UserError
from support.data.clips import TINY, convert_options, small_task, tone, write_wav

# A process of a launch, which says "start" when it begins to convert and may take its time in it.
PROCESS = """
import sys, time
from pathlib import Path
from mdl_toolkit.data.conversion import command as convert, work as conversion
from mdl_toolkit.settings import ConvertOptions
from mdl_toolkit.terminal.console import messages_on_console
source, cache, marks, pause = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
real = conversion.Conversion.run
def run(self, note):
    (marks / f"start-{time.monotonic_ns()}").touch()
    note(3, 6)
    time.sleep(pause)
    real(self, note)
conversion.Conversion.run = run
options = ConvertOptions(model_name=sys.argv[5], num_workers=1, base_dir=source.parent)
try:
    with messages_on_console():
        print(convert.convert_once(source, options, Path(sys.argv[5]), cache))
except convert.UserError as error:
    print("error:", error)
    sys.exit(2)
"""


class _Launch:
    """Starts such processes; ends them all."""

    def __init__(self, source: Path, cache: Path) -> None:
        self.source, self.cache, self.marks = source, cache, cache.parent / "marks"
        self.marks.mkdir()
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, pause: float = 0.0, **environ: str) -> subprocess.Popen[str]:
        words = [str(self.source), str(self.cache), str(self.marks), str(pause), str(TINY)]
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        self.processes.append(process)
        return process

    def started(self, count: int = 1) -> None:
        deadline = time.monotonic() + 60
        while len(list(self.marks.iterdir())) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def launch(tmp_path: Path):
    made = _Launch(small_task(tmp_path / "task"), tmp_path / "cache")
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def test_one_converts_and_all_get_its_folder(launch: _Launch):
    processes = [launch.start(0.5, LOCAL_RANK=str(i), RANK=str(i)) for i in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    folders = {out.strip() for out, _ in outputs}
    assert len(folders) == 1 and len(list(launch.marks.iterdir())) == 1
    (folder,) = folders
    assert len(ClipDataset.open([Path(folder)])) == 6
    assert sorted(os.listdir(launch.cache)) == [Path(folder).name]
    # A second launch finds it.
    again = launch.start()
    assert again.communicate(timeout=60)[0].strip() == folder
    assert len(list(launch.marks.iterdir())) == 1


def test_waiting_is_visible(launch: _Launch):
    first = launch.start(4.0)
    launch.started()
    second = launch.start()
    _, said = second.communicate(timeout=60)
    assert first.wait(60) == second.returncode == 0
    assert f"waiting for process {first.pid}" in said and "converts rows.csv: 3 of 6 rows" in said


def test_who_waits_where_there_are_no_locks_is_told_the_file_of_the_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 0.5)
    caplog.set_level("INFO", "mdl_toolkit")
    source = small_task(tmp_path / "task", rows=1)
    folder = convert_once(source, convert_options(source), TINY, tmp_path / "cache")
    shutil.rmtree(folder)
    held = folder.with_name(f".lock-{folder.name}.held")
    held.touch()  # of a process that was killed
    assert convert_once(source, convert_options(source), TINY, tmp_path / "cache") == folder
    said = f"waiting for another process, which converts {source.name} (it holds {held})"
    assert said in caplog.messages
    assert os.listdir(folder.parent) == [folder.name]


def test_a_killed_converter_leaves_no_half_cache_and_nobody_waiting(launch: _Launch):
    first = launch.start(600)
    launch.started()
    second = launch.start()
    time.sleep(0.5)
    assert second.poll() is None
    (lock,) = launch.cache.glob(".lock-*")
    (launch.cache / f".partial-{lock.name.removeprefix('.lock-')}-{first.pid}").mkdir()
    first.kill()
    folder = Path(second.communicate(timeout=60)[0].strip())
    assert second.returncode == 0
    assert len(ClipDataset.open([folder])) == 6
    assert sorted(os.listdir(launch.cache)) == [folder.name]


def test_those_who_waited_share_the_failure(launch: _Launch):
    (launch.source.parent / "clips" / "3.wav").write_text("broken")
    first = launch.start(3.0)
    launch.started()
    others = [launch.start() for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in (first, *others)]
    assert [process.returncode for process in (first, *others)] == [2, 2, 2]
    assert all("line 5: clips/3.wav: not readable" in out for out, _ in outputs)
    assert len(list(launch.marks.iterdir())) == 1
    # What was mended is converted, though the name of the failure is still there.
    write_wav(launch.source.parent / "clips" / "3.wav", tone(0.5))
    again = launch.start()
    assert again.communicate(timeout=60)[0].strip().startswith(str(launch.cache))
    assert again.returncode == 0
    assert len(os.listdir(launch.cache)) == 1


def test_the_cache_goes_by_content_and_options(tmp_path: Path):
    source, cache = small_task(tmp_path / "task", rows=2), tmp_path / "cache"
    options = convert_options(source)
    first = convert_once(source, options, TINY, cache)
    moved = source.with_name("rows-two.csv")
    source.rename(moved)
    assert convert_once(moved, options, TINY, cache) != first  # the name tells people what a folder is of
    moved.rename(source)
    assert convert_once(source, options, TINY, cache) == first
    assert convert_once(source, convert_options(source, user_prompt="x"), TINY, cache) != first
    source.write_text(source.read_text() + "clips/1.wav,again\n")
    longer = convert_once(source, options, TINY, cache)
    assert longer != first and len(ClipDataset.open([longer])) == 3


def test_a_damaged_cache_is_made_again(tmp_path: Path):
    source, cache = small_task(tmp_path / "task"), tmp_path / "cache"
    folder = convert_once(source, convert_options(source), TINY, cache)
    data = next(folder.glob("*.arrow"))
    data.write_bytes(data.read_bytes()[:-100])
    assert convert_once(source, convert_options(source), TINY, cache) == folder
    np.testing.assert_allclose(ClipDataset.open([folder])[0].waveform, tone(0.3, hertz=200), atol=1e-4)


def test_a_cache_that_can_t_be_written_is_told_in_a_line(tmp_path: Path):
    source = small_task(tmp_path / "task", rows=1)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="can't be written"):
        convert_once(source, convert_options(source), TINY, tmp_path / "cache")
