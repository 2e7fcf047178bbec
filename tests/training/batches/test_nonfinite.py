"""A loss or gradient that is not finite: nothing is updated with it, and its rows are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdl_toolkit.data.dataset import dataset as dataset_module
from mdl_toolkit.errors import NonFiniteError
from mdl_toolkit.training.run import train
from mdl_toolkit.training.steps import loop as loop_module
from mdl_toolkit.training.trainable import wrap
from support.training.runs import (
    assert_same_bytes,
    make_dataset,
    metrics_of,
    run_settings,
    steps_of,
    weights_of,
)

OPTIONS: dict[str, Any] = {"batch_size": 4, "num_epochs": 1, "merge_lora": False, "lora_dropout": 0.1}


def spoil_row(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    """Let a row's sound hold a NaN when it is read."""
    original = dataset_module.ClipDataset.__getitem__

    def spoilt(self, at):
        example = original(self, at)
        if example.index == index:
            example.waveform[5] = np.nan
        return example

    monkeypatch.setattr(dataset_module.ClipDataset, "__getitem__", spoilt)


def spoil_gradient(monkeypatch: pytest.MonkeyPatch, passes: set[int]) -> None:
    """Let gradients of some passes be infinite, their losses being finite."""
    original, count = wrap.Wrapped.micro_batch, 0

    def micro_batch(self, batch, scale, last):
        nonlocal count
        count += 1
        loss = original(self, batch, scale, last)
        if count in passes:
            next(iter(self.trainable.values())).grad[0, 0] = float("inf")
        return loss

    monkeypatch.setattr(wrap.Wrapped, "micro_batch", micro_batch)


#: The step that the spoilt row is in.
AT = 3


@pytest.fixture
def row(shop) -> int:
    """A row of that step, by the plan of an undisturbed run."""
    from mdl_toolkit.data.batching.plan import Plan

    rows = dataset_module.ClipDataset.open([shop.data])
    plan = Plan(rows.tokens, rows.samples, rows.supervised, seed=42, micro_batches=1, batch_size=4)
    return int(plan.epoch(0)[AT - 1].samples[0])


def test_it_stops_before_the_update_and_names_the_rows(
    shop, row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "out"
    spoil_row(monkeypatch, row)
    with pytest.raises(
        NonFiniteError, match=rf"step {AT}: loss nan.*train\.csv row {row + 2} \(clip{row}\.wav\)"
    ) as caught:
        train(run_settings(shop.model, shop.data, output, **OPTIONS))
    assert caught.value.exit_code == 1 and "--on-nonfinite skip" in str(caught.value)
    assert f"checkpoint-{AT - 1} has them as they were before this step" in str(caught.value)
    # What is saved is what a run that ends before that step has.
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    train(run_settings(shop.model, shop.data, tmp_path / "short", **OPTIONS, save_steps=AT - 1))
    assert_same_bytes(output / f"checkpoint-{AT - 1}", tmp_path / "short" / f"checkpoint-{AT - 1}")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, AT)), "plain JSON, no line of the bad step"


def test_skipping_goes_on_without_that_update(
    shop, row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    output = tmp_path / "out"
    spoil_row(monkeypatch, row)
    train(run_settings(shop.model, shop.data, output, **OPTIONS, on_nonfinite="skip"))
    steps = metrics_of(output)
    bad = next(line for line in steps if line.get("step") == AT)
    assert bad["loss"] is None and bad["skipped"] is True
    assert all(line["loss"] is not None for line in steps if line.get("step") not in (None, AT))
    assert steps[-1]["skipped_steps"] == 1 and steps[-1]["train_loss"] > 0
    told = capfd.readouterr().err
    assert (
        f"row {row + 2} (clip{row}.wav)" in told
        and "this update is skipped" in told
        and "1 updates skipped" in told
    )
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(output / "final").values())


def test_a_skipped_step_changes_neither_weights_nor_moments(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As if the step had not been made: the same updates with the same rates, but for that one."""
    import safetensors.torch

    with monkeypatch.context() as patch:
        spoil_gradient(patch, {3})
        train(
            run_settings(shop.model, shop.data, tmp_path / "a", **OPTIONS, save_steps=1, on_nonfinite="skip")
        )
    for name in ("adapter_model", "optimizer"):
        before, after = (
            safetensors.torch.load_file(tmp_path / "a" / f"checkpoint-{step}" / f"{name}.safetensors")
            for step in (2, 3)
        )
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_gradient_alone_names_all_rows_of_the_step(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spoil_gradient(monkeypatch, {2})
    with pytest.raises(NonFiniteError, match=r"step 2: loss \d+\.\d+, but gradient norm inf") as caught:
        train(run_settings(shop.model, shop.data, tmp_path / "out", **OPTIONS))
    assert str(caught.value).count("train.csv row") == 4


def test_one_bad_row_among_many_is_found(shop, row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spoil_row(monkeypatch, row)
    options = {**OPTIONS, "batch_size": 2, "gradient_accumulation_steps": 2}
    with pytest.raises(
        NonFiniteError, match=rf"because of train\.csv row {row + 2} \(clip{row}\.wav\)"
    ) as caught:
        train(run_settings(shop.model, shop.data, tmp_path / "out", **options))
    assert str(caught.value).count("train.csv row") == 1


def test_where_no_row_is_bad_by_itself_all_of_its_micro_batch_are_named(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = wrap.Wrapped.micro_batch
    monkeypatch.setattr(wrap.Wrapped, "micro_batch", lambda self, *rest: original(self, *rest) * float("inf"))
    with pytest.raises(NonFiniteError, match=r"step 1: loss .*; one of these rows: ") as caught:
        train(run_settings(shop.model, shop.data, tmp_path / "out", **OPTIONS))
    assert str(caught.value).count("train.csv row") == 4


def test_updates_launched_before_the_host_knew_are_held_back_too(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on a GPU, where a step's numbers are read while the next step runs."""
    original = loop_module.Loop.__init__

    def lagging(self, **arguments):
        original(self, **arguments)
        self._lag = 1

    with monkeypatch.context() as patch:
        patch.setattr(loop_module.Loop, "__init__", lagging)
        train(run_settings(shop.model, shop.data, tmp_path / "lagging", **OPTIONS))
    train(run_settings(shop.model, shop.data, tmp_path / "plain", **OPTIONS))
    assert_same_bytes(tmp_path / "lagging" / "final", tmp_path / "plain" / "final")
    keys = ("step", "loss", "grad_norm", "epoch")
    assert [[s[k] for k in keys] for s in steps_of(tmp_path / "lagging")] == [
        [s[k] for k in keys] for s in steps_of(tmp_path / "plain")
    ]

    output = tmp_path / "bad"
    with monkeypatch.context() as patch:
        patch.setattr(loop_module.Loop, "__init__", lagging)
        spoil_gradient(patch, {3})
        with pytest.raises(NonFiniteError, match="step 3"):
            train(run_settings(shop.model, shop.data, output, **OPTIONS))
    train(run_settings(shop.model, shop.data, tmp_path / "short", **OPTIONS, save_steps=2))
    assert_same_bytes(output / "checkpoint-2", tmp_path / "short" / "checkpoint-2")


def test_a_bad_row_in_evaluation_shows_in_its_loss(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held_out = make_dataset(tmp_path / "held-out", shop.model, rows=5, seed=8)
    with monkeypatch.context() as patch:
        original = wrap.Wrapped.loss_sum
        patch.setattr(wrap.Wrapped, "loss_sum", lambda self, batch: original(self, batch) * float("nan"))
        train(
            run_settings(
                shop.model, shop.data, tmp_path / "out", **{**OPTIONS, "eval_dataset": str(held_out)}
            )
        )
    assert [line["eval_loss"] for line in metrics_of(tmp_path / "out") if "eval_loss" in line] == [None]
