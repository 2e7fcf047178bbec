"""A run ends early, with all that a finished one has, and means the same however it was cut up."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.errors import Stopped
from mdl_toolkit.training.checkpoints.state import RunState
from mdl_toolkit.training.checkpoints.storage import newest_complete
from mdl_toolkit.training.metrics.reporter import Reporter
from mdl_toolkit.training.run import train
from support.training.checkpoints import rewrite_state
from support.training.runs import assert_same_bytes, metrics_of, run_settings, steps_of
from support.training.scripted import Scripted

#: The best is the second; two are no better after it, and the fifth, which nobody sees, would be.
LOSSES = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.0, 5: 1.0, 6: 0.5}
OPTIONS: dict[str, Any] = {
    "max_steps": 6, "eval_steps": 1, "save_steps": 3, "lora_dropout": 0.2, "method": "lora",
    "early_stopping": 2, "lr_scheduler": "cosine",
}  # fmt: skip


def settings_of(shop: Any, output: Path, **changes: Any) -> Any:
    return run_settings(
        shop.model, shop.data, output, **{**OPTIONS, "eval_dataset": str(shop.held_out), **changes}
    )


@pytest.fixture(scope="module")
def stopped(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended early."""
    output = tmp_path_factory.mktemp("early") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        scripted = Scripted(LOSSES).installed(patch)
        train(settings_of(shop, output))
    assert scripted.made == [1, 2, 3, 4]
    return output


def test_it_leaves_all_that_a_finished_run_does(shop: Any, stopped: Path, tmp_path: Path, monkeypatch, capfd):
    assert [step["step"] for step in steps_of(stopped)] == [1, 2, 3, 4]
    assert newest_complete(stopped) == stopped / "checkpoint-4"
    assert (stopped / "final").is_dir() and (stopped / "best").is_dir()
    end = metrics_of(stopped)[-1]
    assert end["stopped_early"] is True and end["best_step"] == 2 and end["best_eval_loss"] == 2.0
    # As far as it goes it is the run that would have gone on: steps, rates, weights.
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, tmp_path / "on", early_stopping=None, save_steps=1))
    told = capfd.readouterr().err
    assert "ends early" not in told
    for ours, theirs in zip(steps_of(stopped), steps_of(tmp_path / "on"), strict=False):
        assert (ours["loss"], ours["learning_rate"]) == (theirs["loss"], theirs["learning_rate"])
    assert_same_bytes(stopped / "checkpoint-4", tmp_path / "on" / "checkpoint-4")
    assert "stopped_early" not in metrics_of(tmp_path / "on")[-1]


def test_it_says_why(shop: Any, tmp_path: Path, monkeypatch, capfd):
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, tmp_path / "out"))
    told = capfd.readouterr().err
    assert "eval_loss 2.5000 is no better than 2.0000 of step 2: 1 in a row, and 2 end the training" in told
    assert (
        "training ends early after step 4: eval_loss was no better than 2.0000 of step 2 in 2 evaluations "
        "(--early-stopping 2)" in told
    )


def test_resumed_from_before_it_ends_at_the_same_step(shop: Any, stopped: Path, tmp_path: Path, monkeypatch):
    """The count is part of the state: the checkpoint has one that was no better."""
    output = tmp_path / "out"
    Scripted(LOSSES).installed(monkeypatch)
    with monkeypatch.context() as patch:
        _signal_in_step(patch, 4)
        with pytest.raises(Stopped):
            train(settings_of(shop, output))
    state = RunState.read(newest_complete(output) or output)
    assert (state.step, state.standing.since, state.standing.step) == (4, 1, 2)
    train(settings_of(shop, output, resume_from_checkpoint="true"))
    assert [step["step"] for step in steps_of(output)] == [1, 2, 3, 4]
    assert_same_bytes(output / "final", stopped / "final")
    assert_same_bytes(output / "best", stopped / "best")


def _signal_in_step(patch: pytest.MonkeyPatch, step: int) -> None:
    original = Reporter.step

    def noted(self: Reporter, values: Any, total: int) -> None:
        original(self, values, total)
        if values["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(Reporter, "step", noted)


def test_resumed_after_it_there_is_nothing_to_train_unless_more_patience_is_given(
    shop: Any, stopped: Path, tmp_path: Path, monkeypatch, capfd
):
    """As a launcher does that starts it again, and a person who wants more."""
    output = Path(shutil.copytree(stopped, tmp_path / "out"))
    shutil.rmtree(output / "final")
    scripted = Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, output, resume_from_checkpoint="true"))
    assert not scripted.made and [step["step"] for step in steps_of(output)] == [1, 2, 3, 4]
    assert "(--early-stopping 2); a larger one, or none, goes on" in capfd.readouterr().err
    assert_same_bytes(output / "final", stopped / "final")
    train(settings_of(shop, output, resume_from_checkpoint="true", early_stopping=3))
    assert scripted.made == [5, 6] and metrics_of(output)[-1]["best_step"] == 6
    assert "stopped_early" not in metrics_of(output)[-1]


def test_evaluations_that_are_no_numbers_count(shop: Any, tmp_path: Path, monkeypatch, capfd):
    Scripted(dict.fromkeys(range(1, 7), float("nan"))).installed(monkeypatch)
    train(settings_of(shop, tmp_path / "out"))
    assert len(steps_of(tmp_path / "out")) == 2 and not (tmp_path / "out" / "best").exists()
    assert "eval_loss was not a number in 2 evaluations" in capfd.readouterr().err


def test_an_end_after_the_last_step_is_none(shop: Any, tmp_path: Path, monkeypatch, capfd):
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, tmp_path / "out", max_steps=4))
    assert "ends early" not in capfd.readouterr().err
    assert "stopped_early" not in metrics_of(tmp_path / "out")[-1]


def test_a_checkpoint_from_before_there_was_a_count_is_gone_on_with(shop: Any, tmp_path: Path, monkeypatch):
    output = tmp_path / "out"
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, output, max_steps=3, early_stopping=None))
    rewrite_state(output / "checkpoint-3", standing=None)
    Scripted({4: 3.0, 5: 2.5}).installed(monkeypatch)
    train(settings_of(shop, output, resume_from_checkpoint="true"))
    assert len(steps_of(output)) == 5, "the line of step 3 is counted, and two that are no better"
