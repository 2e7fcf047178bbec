"""``best/`` is the model of the best evaluation so far, whatever becomes of the run."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.errors import UserError
from mdl_toolkit.model_folders.export import export_trained
from mdl_toolkit.model_folders.load import load_model
from mdl_toolkit.training.best import keeper
from mdl_toolkit.training.run import train
from mdl_toolkit.training.steps.loop import Loop
from mdl_toolkit.training.trainable.adapters import trained_weights
from support.training.checkpoints import rewrite_state
from support.training.failing_writes import FailingWrites
from support.training.runs import assert_same_bytes, metrics_of, run_settings
from support.training.scripted import Scripted

#: Six steps, an evaluation after each; the second is the best, and the fourth as good as that.
LOSSES = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.0, 5: math.nan, 6: 2.25}
OPTIONS: dict[str, Any] = {
    "max_steps": 6, "eval_steps": 1, "save_steps": 1, "merge_lora": False, "metric_for_best": "loss",
    "lora_dropout": 0.2, "method": "lora",
}  # fmt: skip


class Cut(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def settings_of(shop: Any, output: Path, **changes: Any) -> Any:
    return run_settings(
        shop.model, shop.data, output, **{**OPTIONS, "eval_dataset": str(shop.held_out), **changes}
    )


def told_by(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "mdl_toolkit.json").read_text())["training"]
    return {"step": told["step"], **told["best"]}


@pytest.fixture(scope="module")
def whole(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run with all of its checkpoints."""
    output = tmp_path_factory.mktemp("best") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        Scripted(LOSSES).installed(patch)
        train(settings_of(shop, output))
    return output


def test_best_is_the_model_of_the_best_evaluation_and_says_so(shop: Any, whole: Path):
    assert_same_bytes(whole / "best", whole / "checkpoint-2")
    told = told_by(whole / "best")
    assert (told["step"], told["metric"], told["value"]) == (2, "eval_loss", 2.0)
    assert metrics_of(whole)[-1]["best_step"] == 2 and metrics_of(whole)[-1]["best_eval_loss"] == 2.0
    assert load_model(whole / "best") is not None
    assert not list(whole.glob(".partial-*"))


def test_keeping_it_changes_nothing_of_the_training(shop: Any, whole: Path, tmp_path: Path, monkeypatch):
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, tmp_path / "out", metric_for_best=None))
    assert_same_bytes(tmp_path / "out" / "final", whole / "final")
    assert not (tmp_path / "out" / "best").exists()


def test_pruning_leaves_it_alone(shop: Any, whole: Path, tmp_path: Path, monkeypatch):
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, tmp_path / "out", save_total_limit=1))
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-6"]
    assert_same_bytes(tmp_path / "out" / "best", whole / "best")


@pytest.mark.parametrize(("cut", "saves"), [(2, 1), (3, 1), (3, 4), (6, 4), (6, 5)])
def test_cut_anywhere_the_resumed_run_keeps_the_best(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, saves: int
):
    """Before a step is made: also where the checkpoint is older than ``best/``."""
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        Scripted(LOSSES).installed(patch)
        cut_before(patch, cut)
        with pytest.raises(Cut):
            train(settings_of(shop, output, save_steps=saves))
    if cut > 2:
        assert_same_bytes(output / "best", whole / "best")
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, output, save_steps=saves, resume_from_checkpoint="true"))
    assert_same_bytes(output / "best", whole / "best")
    assert told_by(output / "best")["step"] == 2
    assert_same_bytes(output / "final", whole / "final")


def cut_before(patch: pytest.MonkeyPatch, step: int) -> None:
    original = Loop._step

    def made(self: Loop, scheduled: Any, *rest: Any) -> Any:
        if scheduled.number == step:
            raise Cut
        return original(self, scheduled, *rest)

    patch.setattr(Loop, "_step", made)


def test_a_best_that_later_checkpoints_forgot_is_kept_until_one_is_better(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch, capfd
):
    """Resumed from before it, on a way on which nothing gets as good."""
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    Scripted({2: 2.0, 3: 2.9, 4: 2.1, 5: 2.2, 6: 2.3}).installed(monkeypatch)
    train(settings_of(shop, output, resume_from_checkpoint=str(output / "checkpoint-1")))
    assert f"{output / 'best'} is that of eval_loss 2.0000 at step 2" in capfd.readouterr().err
    assert_same_bytes(output / "best", whole / "best")
    Scripted({4: 1.5, 5: 1.6, 6: 1.7}).installed(monkeypatch)
    train(settings_of(shop, output, resume_from_checkpoint=str(output / "checkpoint-3")))
    assert told_by(output / "best")["step"] == 4
    assert_same_bytes(output / "best", output / "checkpoint-4")


@pytest.mark.parametrize("number", [1, 3, 12])
def test_a_disk_that_is_full_keeps_the_old_one_and_training_goes_on(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch, capfd, number: int
):
    """Wherever in the writing it fails; what is better than the one that is there is kept later on."""
    output, calls = tmp_path / "out", 0

    def fails(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            failing = FailingWrites(number, output / ".partial-best")
            with failing.installed(monkeypatch):
                return export_trained(*args)
        return export_trained(*args)

    monkeypatch.setattr(keeper, "export_trained", fails)
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, output))
    said = capfd.readouterr().err
    assert "warning: " in said and "could not be kept for eval_loss 2.0000 at step 2" in said
    assert "it stays that of eval_loss 3.0000 at step 1, and training goes on" in said
    assert told_by(output / "best")["step"] == 4, "better than that of step 1"
    assert_same_bytes(output / "final", whole / "final")


def test_what_no_run_wrote_is_never_replaced(shop: Any, tmp_path: Path, monkeypatch, capfd):
    output = tmp_path / "out"
    Scripted(LOSSES).installed(monkeypatch)
    (output / "best").mkdir(parents=True)
    (output / "best" / "thesis.tex").write_text("years of work")
    for changes in ({}, {"overwrite": True}, {"resume_from_checkpoint": "true"}):
        with pytest.raises(UserError, match=r"best is in the way and was not written by a run"):
            train(settings_of(shop, output, **changes))
    shutil.rmtree(output / "best")
    _put_meanwhile(monkeypatch, output)
    train(settings_of(shop, output))
    assert "is in the way and was not written by a run; move it elsewhere" in capfd.readouterr().err
    assert (output / "best" / "thesis.tex").read_text() == "years of work"
    assert (output / "final").is_dir()


def _put_meanwhile(patch: pytest.MonkeyPatch, output: Path) -> None:
    def late(*args: Any) -> Any:
        (output / "best").mkdir(exist_ok=True)
        (output / "best" / "thesis.tex").write_text("years of work")
        return trained_weights(*args)

    patch.setattr(keeper, "trained_weights", late)


def test_overwriting_a_run_takes_its_best_along(shop: Any, whole: Path, tmp_path: Path, monkeypatch):
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    (output / ".partial-best-77").mkdir()
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, output, metric_for_best=None, overwrite=True))
    assert not (output / "best").exists() and not list(output.glob(".partial-*"))


def test_another_metric_or_other_data_begin_anew(shop: Any, whole: Path, tmp_path: Path, monkeypatch, capfd):
    """A model that has a value by the new metric stays the one to beat."""
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    monkeypatch.setattr("mdl_toolkit.training.best.metric.given_metrics", lambda _: ["eval_loss", "eval_map"])
    values = {step: {"eval_loss": 9.0, "eval_map": step / 10} for step in (4, 5, 6)}
    Scripted(values).installed(monkeypatch)
    resume = {"resume_from_checkpoint": str(output / "checkpoint-3"), "metric_for_best": "map"}
    train(settings_of(shop, output, **resume))
    said = capfd.readouterr().err
    assert "evaluations are counted anew, by eval_map; before, eval_loss decided" in said
    assert "was chosen by eval_loss (eval_loss 2.0000 at step 2): the next evaluation replaces it" in said
    assert told_by(output / "best")["value"] == 0.6 and told_by(output / "best")["scores"] == {
        "eval_loss": 9.0, "eval_map": 0.6,
    }  # fmt: skip
    Scripted({6: 8.0}).installed(monkeypatch)
    train(settings_of(shop, output, **{**resume, "resume_from_checkpoint": str(output / "checkpoint-5"),
                                       "metric_for_best": "eval_loss"}))  # fmt: skip
    assert told_by(output / "best")["step"] == 6 and told_by(output / "best")["metric"] == "eval_loss"


def test_on_other_data_the_evaluation_of_before_is_made_anew(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch, capfd
):
    """Its value on the old data is none on the new."""
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    scripted = Scripted({2: 9.0, 3: 9.5}).installed(monkeypatch)
    resume = {"resume_from_checkpoint": str(output / "checkpoint-2"), "max_steps": 3}
    train(settings_of(shop, output, **resume, eval_dataset=str(shop.data)))
    assert scripted.made[:2] == [2, 3]
    said = capfd.readouterr().err
    assert "on other data (eval_loss 2.0000 at step 2): the next evaluation replaces it" in said
    assert (told_by(output / "best")["step"], told_by(output / "best")["value"]) == (2, 9.0)


def test_scores_of_other_answers_are_not_compared(shop: Any, tmp_path: Path, monkeypatch, capfd):
    """Of fewer rows they may be higher without the model being better."""
    output = tmp_path / "out"
    options = {"metric_for_best": "accuracy", "max_steps": 2, "eval_generate": 2}
    Scripted({1: {"eval_accuracy": 1.0}, 2: {"eval_accuracy": 0.9}}).installed(monkeypatch)
    train(settings_of(shop, output, **options))
    scripted = Scripted({1: {"eval_accuracy": 0.5}, 2: {"eval_accuracy": 0.6}}).installed(monkeypatch)
    options |= {"eval_generate": 0, "resume_from_checkpoint": str(output / "checkpoint-1")}
    train(settings_of(shop, output, **options))
    assert scripted.made == [1, 2]
    assert "was chosen by other answers (eval_accuracy 1.0000 at step 1)" in capfd.readouterr().err
    assert (told_by(output / "best")["step"], told_by(output / "best")["value"]) == (2, 0.6)


def test_a_checkpoint_from_elsewhere_begins_a_best_of_its_own(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch, capfd
):
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, tmp_path / "out", resume_from_checkpoint=str(whole / "checkpoint-4")))
    assert f"that of before is in {whole / 'best'}" in capfd.readouterr().err
    assert told_by(tmp_path / "out" / "best")["step"] == 4


def test_an_evaluation_made_after_its_checkpoint_is_counted_once(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch
):
    """A signal drops it, the resumed run makes up for it and is killed: the next one knows it by its line."""
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    for path in [*output.glob("checkpoint-[3-6]"), output / "final", output / "best"]:
        shutil.rmtree(path)
    before = json.loads((output / "checkpoint-1" / "run_state.json").read_text())
    rewrite_state(output / "checkpoint-2", standing=before["standing"])
    scripted = Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, output, resume_from_checkpoint="true"))
    assert scripted.made == [3, 4, 5, 6]
    assert_same_bytes(output / "best", whole / "best")
    kept = json.loads((output / "checkpoint-6" / "run_state.json").read_text())["standing"]
    assert kept == json.loads((whole / "checkpoint-6" / "run_state.json").read_text())["standing"]


@pytest.mark.parametrize("new", [True, False])
def test_a_kill_between_the_two_renames_loses_neither(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: bool
):
    """As the kill leaves them: the old one moved aside, and the new one, which is whole, not yet renamed."""
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    for path in [*output.glob("checkpoint-[2-6]"), output / "final"]:
        shutil.rmtree(path)
    (output / "best").rename(output / f".partial-{'' if new else 'old-'}best-77")
    if new:
        shutil.copytree(whole / "checkpoint-1", output / ".partial-old-best-77")
    Scripted(dict.fromkeys(LOSSES, 4.0)).installed(monkeypatch)
    train(settings_of(shop, output, resume_from_checkpoint="true"))
    assert_same_bytes(output / "best", whole / "best")
    assert not list(output.glob(".partial-*"))
