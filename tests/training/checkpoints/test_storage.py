"""Checkpoints on disk: whole or not at all, whatever fails while they are written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mdl_toolkit.distributed.failure import FailureWatch
from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import MdlError, ModelError, UserError
from mdl_toolkit.model_folders.tensorfiles.writer import write_tensors
from mdl_toolkit.training.checkpoints import checkpointer
from mdl_toolkit.training.checkpoints.output import output_lock, remove_unfinished
from mdl_toolkit.training.checkpoints.state import FINAL, RunState, checkpoints
from mdl_toolkit.training.checkpoints.storage import new_checkpoint, newest_complete, prune, why_incomplete
from mdl_toolkit.training.run import train
from mdl_toolkit.training.steps.progress import RunProgress
from support.training.failing_writes import FailingWrites
from support.training.runs import assert_same_bytes, run_settings

OPTIONS: dict[str, Any] = {"lora_dropout": 0.2, "max_steps": 4, "save_steps": 2, "merge_lora": False}


def a_state(step: int = 2) -> RunState:
    return RunState(
        step=step, epoch=0, first_sample=8, schedule_position=2.0, schedule_total=4, counts={"tokens": 5.0},
        seconds=1.0, world_size=1, dataset="d", eval_dataset=None, model="m", options={"lr": 0.1},
    )  # fmt: skip


def write(output: Path, step: int) -> Path:
    with new_checkpoint(output, step) as folder:
        a_state(step).write(folder)
        (folder / "weights.bin").write_bytes(b"weights" * 100)
    return output / f"checkpoint-{step}"


def test_a_checkpoint_is_complete_and_says_where_it_stands(tmp_path: Path):
    path = write(tmp_path, 2)
    assert why_incomplete(path) is None and newest_complete(tmp_path) == path
    assert RunState.read(path) == a_state(2)
    assert not list(tmp_path.glob(".partial-*"))


def _cut(path: Path) -> None:
    (path / "weights.bin").write_bytes(b"weights")


def _flip(path: Path) -> None:
    (path / "weights.bin").write_bytes(b"Weights" + b"weights" * 99)


def _unlist(path: Path) -> None:
    (path / "complete.json").write_text('{"files": {}}')


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_cut, "weights.bin has 7 bytes instead of 700"),
        (_flip, "weights.bin has changed since it was written"),
        (lambda path: (path / "weights.bin").unlink(), "weights.bin can't be read"),
        (lambda path: (path / "complete.json").unlink(), "complete.json can't be read"),
        (lambda path: (path / "complete.json").write_text("{"), "complete.json is not readable"),
        (lambda path: (path / "complete.json").write_text("[]"), "complete.json is not readable"),
        (_unlist, "run_state.json is not listed"),
    ],
)
def test_readers_pass_over_what_is_not_whole(tmp_path: Path, spoil: Callable[[Path], None], why: str):
    older, newer = write(tmp_path, 9), write(tmp_path, 10)
    spoil(newer)
    assert why in str(why_incomplete(newer))
    assert newest_complete(tmp_path) == older


def test_newest_is_by_number_and_by_name_alone(tmp_path: Path):
    for step in (2, 10, 9):
        write(tmp_path, step)
    (tmp_path / "checkpoint-99x").mkdir()
    (tmp_path / "checkpoint-100").write_text("a file")
    shutil.copytree(tmp_path / "checkpoint-10", tmp_path / ".partial-checkpoint-11-1")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-9", "checkpoint-10"]
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-10"


def test_an_older_checkpoint_of_the_same_step_is_replaced_whole(tmp_path: Path):
    write(tmp_path, 2)
    with new_checkpoint(tmp_path, 2) as folder:
        a_state(2).write(folder)
        (folder / "other.bin").write_bytes(b"other")
    assert sorted(path.name for path in (tmp_path / "checkpoint-2").iterdir()) == [
        "complete.json", "other.bin", "run_state.json",
    ]  # fmt: skip
    assert why_incomplete(tmp_path / "checkpoint-2") is None


def test_pruning_keeps_the_newest(tmp_path: Path):
    paths = [write(tmp_path, step) for step in (1, 2, 3, 4)]
    prune(tmp_path, None, paths[3])
    assert len(checkpoints(tmp_path)) == 4
    prune(tmp_path, 2, paths[3])
    assert checkpoints(tmp_path) == paths[2:]
    # Later ones, of a run that began again from an earlier one, are not its business.
    prune(tmp_path, 1, paths[2])
    assert checkpoints(tmp_path) == paths[2:]


def test_a_partial_folder_is_cleared_and_nothing_else(tmp_path: Path):
    write(tmp_path, 1)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tmp_path / ".partial-checkpoint-3-77").symlink_to(outside)
    (tmp_path / ".partial-checkpoint-2-77").mkdir()
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert (outside / "kept").exists(), "a link is removed, not what it leads to"


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 1}', "null"])
def test_a_strange_state_is_told_in_one_line(tmp_path: Path, text: str):
    (tmp_path / "run_state.json").write_text(text)
    with pytest.raises(ModelError, match="is not the state of a run"):
        RunState.read(tmp_path)


def test_tensors_are_written_one_by_one_as_safetensors(tmp_path: Path):
    tensors = {
        "a": torch.randn(3, 5), "b": torch.arange(7, dtype=torch.int64), "c": torch.randn(2, 2).bfloat16(),
        "d": torch.tensor(2.0), "e": torch.empty(0, 4), "f": torch.randn(4, 6).t(),
    }  # fmt: skip
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_tensors(tmp_path / "t.safetensors", layout, iter(tensors.items()))
    read = load_file(tmp_path / "t.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_every_write_of_a_run_fails_once_and_nothing_saved_is_lost(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An operation on the disk fails; the next run goes on from what is complete, to the same end."""
    whole = tmp_path / "whole"
    train(run_settings(shop.model, shop.data, whole, **OPTIONS))

    counting = FailingWrites(0, tmp_path / "counted")
    with counting.installed(monkeypatch):
        train(run_settings(shop.model, shop.data, tmp_path / "counted", **OPTIONS))
    assert_same_bytes(tmp_path / "counted" / "final", whole / "final")
    assert {"mkdir", "replace", "rename", "fsync", "write"} <= set(counting.told)

    # All of them would take a minute: each kind at its first times, and a spread over all the others.
    chosen = {counting.told.index(what) + 1 for what in set(counting.told)}
    chosen |= set(range(1, counting.count + 1, max(1, counting.count // 8)))
    for number in sorted(chosen):
        output = tmp_path / f"out-{number}"
        failing = FailingWrites(number, output, short=number % 2 == 0)
        error = None
        with failing.installed(monkeypatch):
            try:
                train(run_settings(shop.model, shop.data, output, **OPTIONS))
            except MdlError as raised:
                error = raised
        # The folder is flushed right after a file in it was renamed.
        if any("report.html" in place for place in failing.places[max(0, number - 2) : number]):
            assert error is None, "a page about the run fails nothing"
        else:
            assert error is not None and "No space left" in str(error), failing.places[number - 1]
            assert error.exit_code == 1 and "\n" not in str(error), failing.told[-1]
        for path in checkpoints(output):
            assert why_incomplete(path) is None, (
                f"{path.name} is not whole, but has its name ({failing.told[-1]})"
            )
        train(run_settings(shop.model, shop.data, output, **OPTIONS, resume_from_checkpoint="true"))
        assert_same_bytes(output / "final", whole / "final")
        assert not list(output.glob(".partial-*"))
        shutil.rmtree(output)


def test_a_failed_save_says_what_is_left(tmp_path: Path):
    write(tmp_path, 2)
    with (
        pytest.raises(
            MdlError, match=r"checkpoint-4 could not be saved: No space left on device.*checkpoint-2 is"
        ),
        new_checkpoint(tmp_path, 4),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(MdlError, match="Permission denied"), new_checkpoint(tmp_path, 4):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_errors_that_are_not_the_disks_pass_through(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), new_checkpoint(tmp_path, 4):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("lora", {"adapter_model.safetensors", "adapter_config.json"}),
        ("full", {"overlay.safetensors"}),
    ],
)
def test_the_list_of_what_is_written_at_a_checkpoint_is_true(
    shop, tmp_path: Path, method: str, weights: set[str]
):
    """``checkpointer.py`` lists the files for whoever looks for them there."""
    listed = set(re.findall(r"``([a-z_]+\.(?:json|safetensors))``", str(checkpointer.__doc__)))
    others = {"mdl_toolkit.json", "optimizer.safetensors", "run_state.json", "complete.json"}
    assert listed == others | {"adapter_model.safetensors", "adapter_config.json", "overlay.safetensors"}
    train(run_settings(shop.model, shop.data, tmp_path / "out", max_steps=1, method=method))
    written = {path.name for path in (tmp_path / "out" / "checkpoint-1").iterdir()}
    assert written - {path.name for path in shop.model.iterdir()} == others | weights


def test_no_pickle_is_in_a_checkpoint(shop, tmp_path: Path):
    train(run_settings(shop.model, shop.data, tmp_path / "out", max_steps=1))
    suffixes = {path.suffix for path in (tmp_path / "out" / "checkpoint-1").iterdir()}
    assert suffixes <= {".json", ".safetensors", ".jinja", ".txt"}
    listed = json.loads((tmp_path / "out" / "checkpoint-1" / "complete.json").read_text())["files"]
    assert {"adapter_model.safetensors", "optimizer.safetensors", "run_state.json"} <= listed.keys()
    assert FINAL == "final"


def test_one_run_at_a_time_owns_an_output(tmp_path: Path):
    with (
        output_lock(tmp_path / "out"),
        pytest.raises(UserError, match="another run is at work there"),
        output_lock(tmp_path / "out"),
    ):
        pass
    with output_lock(tmp_path / "out"):
        pass
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match="refused"), output_lock(tmp_path / "out"):
        raise UserError("refused")
    assert not list((tmp_path / "out").iterdir()), "a refused run leaves the folder as it was"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EACCES, errno.ESTALE])
def test_an_output_that_can_t_be_locked_is_written_all_the_same(tmp_path: Path, monkeypatch, number: int):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with output_lock(tmp_path / "out"):
        assert (tmp_path / "out" / ".lock").exists()
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("sharding", "held"), [("none", True), ("full", False)])
def test_a_checkpoint_that_one_process_writes_is_finished_though_another_is_lost(
    sharding: str, held: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a sharded one: its tensors come from all processes."""
    watch = FailureWatch(torch.distributed.HashStore(), Launch())  # type: ignore[attr-defined]
    made: Any = object.__new__(checkpointer.Checkpointer)
    made.ranks, made.output = Ranks(Launch(), torch.device("cpu"), watch=watch), tmp_path
    made.settings = SimpleNamespace(sharding=sharding)
    writing: list[bool] = []
    monkeypatch.setattr(checkpointer.Checkpointer, "refuse_drift", lambda *what: None)
    monkeypatch.setattr(
        checkpointer.Checkpointer, "_write", lambda own, progress: writing.append(bool(watch._held))
    )
    made.save(RunProgress(step=3))
    assert writing == [held] and not watch._held
