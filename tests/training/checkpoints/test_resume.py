"""A run that was cut ends with the very bytes of one that wasn't, and refuses to go on as another run."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.distributed import group
from mdl_toolkit.distributed.peers.troubles import is_peer_loss
from mdl_toolkit.errors import SettingsError, Stopped, UserError
from mdl_toolkit.training.checkpoints.identity import Identity
from mdl_toolkit.training.checkpoints.state import RunState
from mdl_toolkit.training.checkpoints.storage import newest_complete
from mdl_toolkit.training.metrics import reporter
from mdl_toolkit.training.run import train
from mdl_toolkit.training.steps import loop
from mdl_toolkit.training.trainable import wrap
from support.models.tiny import make_model_folder
from support.training.runs import assert_same_bytes, make_dataset, metrics_of, run_settings, steps_of

#: Everything that draws random numbers or carries state from step to step.
HARD: dict[str, Any] = {
    "lora_dropout": 0.3, "gradient_accumulation_steps": 2, "batch_size": 3, "num_epochs": 2.5,
    "weight_decay": 0.1, "lr_scheduler": "cosine", "warmup_steps": 2, "save_steps": 3, "merge_lora": False,
}  # fmt: skip


class Cut(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def cut_at_pass(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """End a run without a word in the middle of its n-th micro-batch."""
    original, passes = wrap.Wrapped.micro_batch, 0

    def micro_batch(self, batch, scale, last):
        nonlocal passes
        passes += 1
        if passes == number:
            raise Cut
        return original(self, batch, scale, last)

    monkeypatch.setattr(wrap.Wrapped, "micro_batch", micro_batch)


def train_and_cut(monkeypatch: pytest.MonkeyPatch, number: int, settings: Any) -> None:
    with monkeypatch.context() as patch:
        cut_at_pass(patch, number)
        with pytest.raises(Cut):
            train(settings)


def signal_at_step(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send this process a signal while a step is made."""
    original = reporter.Reporter.step

    def noted(self, values, total_steps):
        original(self, values, total_steps)
        if values["step"] == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(reporter.Reporter, "step", noted)


def numbers_of(output: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in step.items() if k not in ("memory", "seconds", "padding_share")}
        for step in steps_of(output)
    ]


@pytest.fixture(scope="module")
def whole(shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    output = tmp_path_factory.mktemp("whole") / "out"
    train(run_settings(shop.model, shop.data, output, **HARD))
    return output


def test_the_undisturbed_run_is_itself_reproducible(shop, whole: Path, tmp_path: Path):
    train(run_settings(shop.model, shop.data, tmp_path / "out", **HARD))
    assert_same_bytes(tmp_path / "out" / "final", whole / "final")


# Passes: two for each step; 12 rows each micro-batch pair of 6, 4 steps an epoch, 10 steps in all.
@pytest.mark.parametrize("number", [7, 8, 10, 15, 20])
def test_cut_anywhere_it_ends_with_the_same_bytes(
    shop, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    output = tmp_path / "out"
    train_and_cut(monkeypatch, number, run_settings(shop.model, shop.data, output, **HARD))
    train(run_settings(shop.model, shop.data, output, **HARD, resume_from_checkpoint="true"))
    assert_same_bytes(output / "final", whole / "final")
    assert numbers_of(output) == numbers_of(whole)


@pytest.mark.parametrize("step", [1, 4, 9])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_nothing_is_lost(
    shop, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: int
):
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        signal_at_step(patch, step, number)
        with pytest.raises(Stopped, match=f"checkpoint-{step}") as stopped:
            train(run_settings(shop.model, shop.data, output, **HARD))
    assert stopped.value.exit_code == 128 + number
    assert json.loads((output / f"checkpoint-{step}" / "run_state.json").read_text())["step"] == step
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    train(run_settings(shop.model, shop.data, output, **HARD, resume_from_checkpoint="true"))
    assert_same_bytes(output / "final", whole / "final")
    assert numbers_of(output) == numbers_of(whole)


@pytest.mark.parametrize(
    ("place", "saved"),
    [((wrap.Wrapped, "clip_grad_norm"), 4), ((loop.Loop, "_sums"), 4), ((group.Ranks, "barrier"), 6)],
    ids=["sum of the gradients", "sum of the losses", "end of a save"],
)
def test_when_another_process_is_lost_the_last_step_is_saved(
    shop, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], saved: int
):
    """Wherever the exchange fails: before an update, after it, or when all is written already."""
    output, calls = tmp_path / "out", 0
    owner, name = place
    original = getattr(owner, name)

    def fails(self, *args, **named):
        nonlocal calls
        calls += 1
        if calls == 5 if name != "barrier" else (output / "checkpoint-6").exists():
            raise RuntimeError("Connection closed by peer [10.0.0.2]:1")
        return original(self, *args, **named)

    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails)
        patch.setattr(group.Ranks, "is_loss", lambda self, error: is_peer_loss(error))
        patch.setattr(group.Ranks, "tell_after_loss", lambda self, left: told.append(left))
        with pytest.raises(RuntimeError, match="closed by peer"):
            train(run_settings(shop.model, shop.data, output, **HARD))
    assert len(told) == 1 and f"checkpoint-{saved}; resume with" in told[0]
    assert newest_complete(output) == output / f"checkpoint-{saved}"
    assert [line["step"] for line in steps_of(output)] == list(range(1, saved + 1))
    train(run_settings(shop.model, shop.data, output, **HARD, resume_from_checkpoint="true"))
    assert_same_bytes(output / "final", whole / "final")
    assert numbers_of(output) == numbers_of(whole)


def test_prefetching_workers_change_nothing(
    shop, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "out"
    train_and_cut(monkeypatch, 9, run_settings(shop.model, shop.data, output, **HARD, data_workers=2))
    train(run_settings(shop.model, shop.data, output, **HARD, data_workers=2, resume_from_checkpoint="true"))
    assert_same_bytes(output / "final", whole / "final")


def cut_and_resumed(shop, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, options: Any) -> None:
    """A run that is cut in its n-th micro-batch and resumed leaves the bytes of an uncut one."""
    train(run_settings(shop.model, shop.data, folder / "whole", **options))
    output = folder / "out"
    train_and_cut(monkeypatch, number, run_settings(shop.model, shop.data, output, **options))
    train(run_settings(shop.model, shop.data, output, **options, resume_from_checkpoint="true"))
    assert_same_bytes(output / "final", folder / "whole" / "final")


def test_full_training_resumes_exactly_too(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = {"method": "full", "max_steps": 5, "save_steps": 2, "weight_decay": 0.1}
    cut_and_resumed(shop, tmp_path, monkeypatch, 4, options)


def test_token_budgets_resume_exactly_too(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = {"max_tokens": 130, "save_steps": 2, "lora_dropout": 0.2, "num_epochs": 2}
    cut_and_resumed(shop, tmp_path, monkeypatch, 8, options)


@pytest.fixture
def stopped(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run cut after checkpoints 3 and 6 and seven steps."""
    output = tmp_path / "out"
    train_and_cut(monkeypatch, 15, run_settings(shop.model, shop.data, output, **HARD))
    assert [path.name for path in sorted(output.glob("checkpoint-*"))] == ["checkpoint-3", "checkpoint-6"]
    return output


def test_metrics_after_the_checkpoint_are_written_again(shop, stopped: Path):
    assert [step["step"] for step in steps_of(stopped)] == [1, 2, 3, 4, 5, 6, 7]
    with open(stopped / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 8, "lo')  # a line that a kill has cut
    train(run_settings(shop.model, shop.data, stopped, **HARD, resume_from_checkpoint="true"))
    assert [step["step"] for step in steps_of(stopped)] == list(range(1, 11))


def test_a_named_checkpoint_is_taken(shop, whole: Path, stopped: Path, capfd: pytest.CaptureFixture[str]):
    path = stopped / "checkpoint-3"
    train(run_settings(shop.model, shop.data, stopped, **HARD, resume_from_checkpoint=str(path)))
    assert f"resuming from {path}: step 3 of 10" in capfd.readouterr().err
    assert_same_bytes(stopped / "final", whole / "final")


def test_an_incomplete_newest_one_is_passed_over(
    shop, whole: Path, stopped: Path, capfd: pytest.CaptureFixture[str]
):
    weights = stopped / "checkpoint-6" / "optimizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    train(run_settings(shop.model, shop.data, stopped, **HARD, resume_from_checkpoint="true"))
    told = capfd.readouterr().err
    assert "checkpoint-6 is skipped: optimizer.safetensors has" in told and "checkpoint-3: step 3" in told
    assert_same_bytes(stopped / "final", whole / "final")


def test_a_flipped_bit_is_noticed(shop, stopped: Path):
    path = stopped / "checkpoint-6" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors has changed since it was written"):
        train(run_settings(shop.model, shop.data, stopped, **HARD, resume_from_checkpoint=str(path.parent)))


def test_resuming_with_none_there_starts_anew(shop, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    output = tmp_path / "out"
    train(run_settings(shop.model, shop.data, output, max_steps=1, resume_from_checkpoint="true"))
    assert f"no complete checkpoint in {output}: starting anew" in capfd.readouterr().err
    assert (output / "final").is_dir()


def test_a_finished_run_resumed_only_writes_its_model_again(shop, whole: Path, tmp_path: Path):
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    shutil.rmtree(output / "final")
    train(run_settings(shop.model, shop.data, output, **HARD, resume_from_checkpoint="true"))
    assert_same_bytes(output / "final", whole / "final")
    assert numbers_of(output) == numbers_of(whole)


def test_the_evaluation_at_the_end_is_made_up_for(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    output, options = tmp_path / "out", {"max_steps": 2, "eval_dataset": str(shop.held_out)}
    with monkeypatch.context() as patch:
        signal_at_step(patch, 2, signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped at step 2"):
            train(run_settings(shop.model, shop.data, output, **options))
    assert not [line for line in metrics_of(output) if "eval_loss" in line]
    for _ in range(2):  # once, however often it is resumed
        train(run_settings(shop.model, shop.data, output, **options, resume_from_checkpoint="true"))
        assert [line["step"] for line in metrics_of(output) if "eval_loss" in line] == [2]


def test_an_output_with_a_run_in_it_is_refused(shop, stopped: Path):
    with pytest.raises(
        UserError, match=r"has a run in it already.*--resume-from-checkpoint true.*--overwrite"
    ):
        train(run_settings(shop.model, shop.data, stopped, **HARD))


def test_overwrite_replaces_the_run_and_nothing_else(shop, stopped: Path):
    (stopped / "notes.txt").write_text("mine")
    train(run_settings(shop.model, shop.data, stopped, max_steps=2, overwrite=True))
    assert [path.name for path in stopped.glob("checkpoint-*")] == ["checkpoint-2"]
    assert [step["step"] for step in steps_of(stopped)] == [1, 2]
    assert (stopped / "notes.txt").read_text() == "mine"


def test_a_restart_by_the_launcher_resumes_by_itself(
    shop, whole: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    # --overwrite was meant for the first start.
    train(run_settings(shop.model, shop.data, stopped, **HARD, overwrite=True))
    assert_same_bytes(stopped / "final", whole / "final")


def test_another_dataset_is_refused(shop, stopped: Path, tmp_path: Path):
    other = make_dataset(tmp_path / "other", shop.model, seed=9)
    with pytest.raises(UserError, match="on another dataset"):
        train(run_settings(shop.model, other, stopped, **HARD, resume_from_checkpoint="true"))


def test_another_model_is_refused(shop, stopped: Path, tmp_path: Path):
    other = make_model_folder(tmp_path / "other", seed=9)
    with pytest.raises(UserError, match="from another base model"):
        train(run_settings(other, shop.data, stopped, **HARD, resume_from_checkpoint="true"))


@pytest.mark.parametrize(
    "changes", [{"lora_rank": 8}, {"train_target": ["decoder"]}, {"method": "full"}, {"lora_attention": True}]
)
def test_other_trained_tensors_are_refused(shop, stopped: Path, changes: dict[str, Any]):
    name = "--" + next(iter(changes)).replace("_", "-")
    with pytest.raises(UserError, match=f"{name}.*can't change when a run is resumed"):
        train(
            run_settings(shop.model, shop.data, stopped, **{**HARD, **changes}, resume_from_checkpoint="true")
        )


def test_options_of_adapters_do_not_matter_without_any(stopped: Path):
    """A default that changes with a version must not stop a run that trains all weights."""
    full = {"method": "full", "lora_rank": 16, "lr": 1e-3}
    state = replace(RunState.read(newest_complete(stopped) or stopped), options=full)
    for now in ({**full, "lora_rank": 32}, full):
        Identity(dataset=state.dataset, eval_dataset=None, model=state.model, options=now).check(
            state, stopped
        )
    with pytest.raises(UserError, match="--method"):
        Identity(
            dataset=state.dataset, eval_dataset=None, model=state.model, options={**full, "method": "lora"}
        ).check(state, stopped)


def test_other_options_are_told_by_name(shop, stopped: Path, capfd: pytest.CaptureFixture[str]):
    changes = {**HARD, "lr": 5e-4, "max_grad_norm": 0.5, "save_steps": 4}
    train(run_settings(shop.model, shop.data, stopped, **changes, resume_from_checkpoint="true"))
    told = capfd.readouterr().err
    assert "warning: resuming with --lr 0.0005; before, it was 0.001" in told
    assert "warning: resuming with --max-grad-norm 0.5; before, it was 1.0" in told
    assert "--save-steps" not in told


def test_the_same_run_resumes_without_a_warning(shop, stopped: Path, capfd: pytest.CaptureFixture[str]):
    train(run_settings(shop.model, shop.data, stopped, **HARD, resume_from_checkpoint="true"))
    assert "warning" not in capfd.readouterr().err


def test_a_longer_run_goes_on_with_the_new_schedule(shop, stopped: Path):
    train(
        run_settings(
            shop.model, shop.data, stopped, **{**HARD, "num_epochs": 3}, resume_from_checkpoint="true"
        )
    )
    assert [step["step"] for step in steps_of(stopped)] == list(range(1, 13))


def test_old_checkpoints_are_removed_but_the_newest_stay(shop, tmp_path: Path):
    output = tmp_path / "out"
    train(
        run_settings(
            shop.model, shop.data, output, max_steps=7, save_steps=2, save_total_limit=2, batch_size=3
        )
    )
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-7"]


def test_half_written_leftovers_are_cleared_at_the_start(shop, stopped: Path):
    (stopped / ".partial-checkpoint-9-123").mkdir()
    (stopped / ".partial-checkpoint-9-123" / "optimizer.safetensors").write_bytes(b"half")
    (stopped / ".partial-metrics.jsonl-123").write_bytes(b"half")
    train(run_settings(shop.model, shop.data, stopped, **HARD, resume_from_checkpoint="true"))
    assert not list(stopped.glob(".partial-*"))


def test_sums_count_from_the_very_beginning(shop, whole: Path, stopped: Path):
    train(run_settings(shop.model, shop.data, stopped, **HARD, resume_from_checkpoint="true"))
    for key in ("total_clips", "total_tokens", "total_flos", "train_loss"):
        assert metrics_of(stopped)[-1][key] == pytest.approx(metrics_of(whole)[-1][key])


def test_what_is_no_checkpoint_is_refused_before_anything_is_loaded(shop, tmp_path: Path):
    settings = run_settings(shop.model, shop.data, tmp_path / "out", resume_from_checkpoint=str(tmp_path))
    with pytest.raises(UserError, match="not a complete checkpoint"):
        train(settings)
    with pytest.raises(SettingsError, match="no-such-tracker"):
        train(run_settings(shop.model, shop.data, tmp_path / "out", report_to=["no-such-tracker"]))
