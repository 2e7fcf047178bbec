"""Micro-batches from real worker processes: their order, their numbers, and what is told when one is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from mdl_toolkit.data.batching.collate import PackedBatch
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.errors import DataError, MdlError
from mdl_toolkit.training.batches import loader
from mdl_toolkit.training.batches.loader import MicroBatches, WaitEnded
from support.data.dataworkers import data_workers, state_of, tamper
from support.models.batches import collate
from support.training.runs import environment, make_dataset

CPU = torch.device("cpu")
MANY = [(i % 20,) for i in range(4000)]


def micro_batches(shop, workers: int) -> MicroBatches:
    token_id = ClipDataset.open([shop.data]).manifest.audio_token_id
    return MicroBatches([shop.data], token_id, CPU, workers)


def same(one: PackedBatch, other: PackedBatch) -> bool:
    values = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(
        (a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes())
        if isinstance(a, torch.Tensor)
        else a == b
        for a, b in values
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_what_collate_makes_in_the_order_of_the_tasks(shop, workers: int):
    tasks = [(3,), (1, 2), (0,), (5, 4, 3)] * 5
    data = ClipDataset.open([shop.data])
    wanted = [collate([data[i] for i in task], data.manifest.audio_token_id) for task in tasks]
    load = micro_batches(shop, workers)
    for _ in range(2):  # and again, from the same loader
        found = list(load(tasks))
        assert [batch.indices for batch in found] == tasks
        assert all(map(same, found, wanted))


def test_little_room_for_what_is_ready_changes_nothing(shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loader, "MAX_READY", 1)
    tasks = [(i % 20,) for i in range(60)]
    assert [batch.indices for batch in micro_batches(shop, 3)(tasks)] == tasks


def test_a_batch_in_advance_is_made_while_nobody_asks(shop):
    with closing(micro_batches(shop, 1)(MANY)) as batches:
        next(batches)
        workers = batches.gi_frame.f_locals["workers"]  # type: ignore[attr-defined]
        until = time.monotonic() + 60
        while len(workers._ready) < loader.PREFETCH - 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(workers._ready) == loader.PREFETCH - 1


def test_in_a_with_block_workers_stay_for_the_next_call(shop):
    with micro_batches(shop, 2) as load:
        load.start()
        before = data_workers()
        assert len(before) == 2
        for _ in range(2):
            assert len(list(load(MANY[:10]))) == 10
            assert sorted(data_workers()) == sorted(before)
        next(load(MANY))  # closed before its end, when batches are in work
        assert [batch.indices for batch in load(MANY[:10])] == MANY[:10]
    assert not data_workers()


def test_without_one_they_end_with_the_call(shop):
    load = micro_batches(shop, 2)
    assert len(list(load(MANY[:10]))) == 10
    assert not data_workers()
    batches = load(MANY)
    next(batches)
    assert len(data_workers()) == 2
    batches.close()
    assert not data_workers()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("is killed", r"data worker \d+ was killed by signal 9 \(SIGKILL\) while it read .*row 11 .*memory"),
        (
            "loses its thread",
            r"data worker \d+ ended with code 1 while it read train.csv row 11 \(clip9.wav\)",
        ),
        (
            "aborts",
            r"data worker \d+ was killed by signal 6 \(SIGABRT\) while it read .* row 11 .*--data-workers 0",
        ),
        ("has no memory", r"train.csv row 11 \(clip9.wav\): no memory left .* fewer --data-workers"),
        ("raises what can't be pickled", r"row 11 \(clip9.wav\): can't be prepared: Odd: odd one"),
    ],
)
def test_whatever_happens_to_a_worker_is_told_with_its_row(
    shop, monkeypatch: pytest.MonkeyPatch, what: str, said: str
):
    tamper(monkeypatch, what, row=9)
    with pytest.raises(MdlError, match=said) as caught, closing(micro_batches(shop, 1)(MANY)) as batches:
        for _ in batches:
            pass
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    assert not data_workers()


def test_a_stopped_worker_is_told(shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loader, "STOPPED_SECONDS", 0.5)
    tamper(monkeypatch, "stops", row=9)
    with pytest.raises(
        MdlError, match=r"is stopped \(by SIGSTOP\) while it reads .* row 11 .*kill -CONT \d+"
    ):
        list(micro_batches(shop, 2)(MANY))
    assert not data_workers()


def test_a_stall_names_the_row_and_then_ends_the_run(
    shop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(loader, "NAMED_SECONDS", 1.0)
    monkeypatch.setattr(loader, "STALL_SECONDS", 3.0)
    tamper(monkeypatch, "hangs", row=9)
    with pytest.raises(MdlError, match=r"for 3 s while .* reads .* row 11 \(clip9.wav\).*network"):
        list(micro_batches(shop, 2)(MANY))
    said = capfd.readouterr().err
    assert "still reads train.csv row 11 (clip9.wav) (the run waits 3 s for a row)" in said
    assert not data_workers()


def test_only_time_in_which_nothing_moves_and_this_process_runs_is_a_stall(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    wait = loader._Wait()
    for row in ("a", "b"):
        for _ in range(10):
            clock[0] += loader.TICK
            wait.go_on(row)
        assert wait.seconds == pytest.approx(9 * loader.TICK)
    clock[0] += 3600  # suspended, with all of its workers
    wait.go_on("b")
    assert wait.seconds == pytest.approx(11 * loader.TICK)


def test_waiting_ends_when_a_signal_has_come(shop, monkeypatch: pytest.MonkeyPatch):
    tamper(monkeypatch, "hangs", row=9)
    asked = []

    def interrupted() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(WaitEnded):
        list(micro_batches(shop, 2)([(9,)], interrupted))
    assert len(asked) == 4 and not data_workers()


def test_a_dataset_that_has_vanished_is_the_users(shop, tmp_path: Path):
    folder = make_dataset(tmp_path / "data", shop.model)
    load = MicroBatches([folder], 1, CPU, 1)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"data: no such dataset folder"):
        list(load(MANY))


def test_a_dataset_cut_short_under_a_worker_is_told(shop, tmp_path: Path):
    """The kernel kills whoever reads beyond the end of a mapped file: the worker, not the run."""
    folder = make_dataset(tmp_path / "data", shop.model)
    token_id = ClipDataset.open([folder]).manifest.audio_token_id
    with MicroBatches([folder], token_id, CPU, 1) as load:
        assert len(list(load([(0,)]))) == 1
        os.truncate(next(folder.glob("*.arrow")), 4096)
        with pytest.raises(MdlError, match=r"\(SIGBUS\).*: a file of .*data was cut short"):
            list(load([(20,)]))


def test_a_bug_in_preparing_a_row_names_it(shop, monkeypatch: pytest.MonkeyPatch):
    def broken(self, index):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(ClipDataset, "__getitem__", broken)
    with pytest.raises(MdlError, match=r"train\.csv row 6 \(clip4\.wav\).*ZeroDivisionError: oh") as caught:
        next(micro_batches(shop, 0)([(4,)]))
    assert not isinstance(caught.value, DataError)


def test_a_worker_that_can_t_start_is_an_error(shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(MdlError, match=r"a data worker can't be started .*--data-workers"):
        next(micro_batches(shop, 2)(MANY))


def test_workers_import_no_torch():
    code = "import sys, mdl_toolkit.data.batching.preparing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "datasets"} & set(loaded.split())


def test_workers_hear_no_signal_and_end_with_a_killed_run_though_stopped(shop, tmp_path: Path):
    script = (
        "import sys, time, torch\n"
        "from pathlib import Path\n"
        "from mdl_toolkit.training.batches.loader import MicroBatches\n"
        f"batches = MicroBatches([Path({str(shop.data)!r})], 1, torch.device('cpu'), 2)([(0,)] * 100)\n"
        "next(batches)\n"
        "print('there', flush=True)\n"
        "time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment())
    assert run.stdout is not None and run.stdout.readline() == b"there\n"
    workers = data_workers(run.pid)
    assert len(workers) == 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        for pid in workers:
            os.kill(pid, number)
    time.sleep(0.5)
    assert sorted(data_workers(run.pid)) == sorted(workers)
    os.kill(workers[0], signal.SIGSTOP)
    run.kill()
    run.wait()
    run.stdout.close()
    until = time.monotonic() + 30
    while not all(state_of(pid) in "XZ" for pid in workers) and time.monotonic() < until:
        time.sleep(0.02)
    assert all(state_of(pid) in "XZ" for pid in workers)


def test_a_script_without_a_main_guard_is_not_run_again(shop, tmp_path: Path):
    """A user's script that trains at its top level, with workers."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from mdl_toolkit import TrainSettings, train\n"
        "print('begun', flush=True)\n"
        f"train(TrainSettings(model_name={str(shop.model)!r}, train_dataset={str(shop.data)!r},\n"
        f"    output=Path({str(tmp_path / 'out')!r}), max_steps=2, data_workers=2, lora_rank=2))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment(), timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["begun"]
