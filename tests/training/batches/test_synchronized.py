"""Runs that get no further batch: the last finished step is saved, the cause and the way on are told."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.errors import DataError, MdlError, Stopped
from mdl_toolkit.training.batches.loader import MicroBatches
from mdl_toolkit.training.batches.synchronized import NoBatch, SynchronizedBatches
from mdl_toolkit.training.checkpoints.storage import newest_complete
from mdl_toolkit.training.evaluation.loss import LossOfSet
from mdl_toolkit.training.run import train
from support.data.dataworkers import tamper
from support.training.runs import assert_same_bytes, make_dataset, run_settings, steps_of

WAY_ON = "resume with --resume-from-checkpoint true"


def bad_at_17(read: Any) -> Any:
    def reading(self: Any, index: int) -> Any:
        if index == 17:
            raise DataError(f"{self.row_name(index)}: has gone")
        return read(self, index)

    return reading


def saved_step(output: Path) -> int:
    newest = newest_complete(output)
    return int(newest.name.split("-")[1]) if newest else 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_row_ends_the_run_with_all_steps_before_it_saved(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    if workers:
        tamper(monkeypatch, "finds a bad row", 17)
    else:
        monkeypatch.setattr(ClipDataset, "__getitem__", bad_at_17(ClipDataset.__getitem__))
    output = tmp_path / "out"
    with pytest.raises(DataError, match=r"row 19 \(clip17\.wav\): has gone; saved .*checkpoint-") as caught:
        train(run_settings(shop.model, shop.data, output, batch_size=1, data_workers=workers))
    assert str(caught.value).endswith(WAY_ON) and caught.value.exit_code == 2
    step = saved_step(output)
    assert 0 < step == steps_of(output)[-1]["step"] < 24


def test_a_dead_worker_costs_nothing_that_was_learned(shop, tmp_path: Path):
    """Resumed, the run is the one that nothing happened to."""
    whole, output = tmp_path / "whole", tmp_path / "out"
    options = {"batch_size": 2, "lora_dropout": 0.2, "num_epochs": 2, "data_workers": 2}
    train(run_settings(shop.model, shop.data, whole, **options))
    with pytest.MonkeyPatch.context() as patch:
        tamper(patch, "is killed", after=(output / "metrics.jsonl", 5))
        with pytest.raises(MdlError, match=rf"SIGKILL.*clip.*; saved .*checkpoint-\d+; {WAY_ON}") as caught:
            train(run_settings(shop.model, shop.data, output, **options))
    assert caught.value.exit_code == 1
    assert 5 <= saved_step(output) == steps_of(output)[-1]["step"]
    train(run_settings(shop.model, shop.data, output, **options, resume_from_checkpoint="true"))
    assert_same_bytes(output / "final", whole / "final")
    assert [step["loss"] for step in steps_of(output)] == [step["loss"] for step in steps_of(whole)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_wait_for_a_batch(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
):
    tamper(monkeypatch, "hangs", row=17)
    output = tmp_path / "out"
    fetch = SynchronizedBatches._fetch

    def fetching(self):
        # Only the row that hangs takes long enough to be waited for.
        timer = threading.Timer(3.0, os.kill, (os.getpid(), number))
        timer.start()
        try:
            return fetch(self)
        finally:
            timer.cancel()

    monkeypatch.setattr(SynchronizedBatches, "_fetch", fetching)
    with pytest.raises(Stopped, match=rf"stopped at step \d+; saved .*; {WAY_ON}") as caught:
        train(run_settings(shop.model, shop.data, output, batch_size=1, data_workers=1))
    assert caught.value.exit_code == code
    assert 0 < saved_step(output) == steps_of(output)[-1]["step"] < 24


def test_before_the_first_step_there_is_nothing_to_save(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tamper(monkeypatch, "aborts")
    with pytest.raises(MdlError, match="SIGABRT") as caught:
        train(run_settings(shop.model, shop.data, tmp_path / "out", data_workers=1))
    assert "saved" not in str(caught.value) and saved_step(tmp_path / "out") == 0


def test_a_bad_row_of_the_evaluation_loses_nothing_either(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    held_out = make_dataset(tmp_path / "held-out", shop.model, rows=30)
    tamper(monkeypatch, "finds a bad row", 27)  # which the training data doesn't have
    output = tmp_path / "out"
    options = {"eval_dataset": str(held_out), "eval_steps": 2, "data_workers": 1}
    with pytest.raises(DataError, match=rf"row 29 \(clip27\.wav\).*; saved .*checkpoint-2; {WAY_ON}"):
        train(run_settings(shop.model, shop.data, output, **options))
    assert saved_step(output) == 2


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_process_of_many_keeps_step_until_all_can_be_told(
    shop, monkeypatch: pytest.MonkeyPatch, lockstep: bool
):
    """Where each pass is everyone's work, those without a batch go on with the last one."""
    tamper(monkeypatch, "finds a bad row", 3)
    data = ClipDataset.open([shop.data])
    ranks: Any = SimpleNamespace(rank=0, world_size=2, sum=list, any=bool, peer_is_lost=False)
    load = MicroBatches([shop.data], data.manifest.audio_token_id, torch.device("cpu"), 1)
    passes: list[int] = []

    def loss_sum(batch: Any) -> torch.Tensor:
        passes.extend(batch.indices)
        return torch.tensor(1.0)

    wrapped: Any = SimpleNamespace(lockstep=lockstep, model=torch.nn.Linear(1, 1), loss_sum=loss_sum)
    evaluation = LossOfSet(data, load, ranks, batch_size=1)
    evaluation._own, evaluation._rounds = [(0,), (1,), (3,), (5,)], 4
    with pytest.raises(NoBatch) as caught:
        evaluation(wrapped)
    assert isinstance(caught.value.cause, DataError)
    assert passes == ([0, 1, 1, 1] if lockstep else [0, 1])
    evaluation._own, evaluation._rounds = [(3,), (0,)], 2
    with pytest.raises(NoBatch):  # before any pass, at the same point on all processes
        evaluation(wrapped)
    assert len(passes) == (4 if lockstep else 2)


def test_a_disk_full_on_top_keeps_the_cause(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tamper(monkeypatch, "finds a bad row", 17)

    def full(self, progress):
        raise MdlError("out/checkpoint-3 could not be saved: No space left on device")

    monkeypatch.setattr("mdl_toolkit.training.checkpoints.checkpointer.Checkpointer.save", full)
    with pytest.raises(DataError, match=r"row 19 .*; and out/checkpoint-3 could not be saved: No space"):
        train(run_settings(shop.model, shop.data, tmp_path / "out", batch_size=1, data_workers=1))
