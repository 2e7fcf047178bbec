"""A restarted launch goes on with the run that it has begun itself, and with no other."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import StorageError, UserError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.terminal.console import messages_on_console
from mdl_toolkit.training.checkpoints.output import foreign_file_in, remove_unfinished
from mdl_toolkit.training.checkpoints.record import BEGUN_HERE, RUN_RECORD, RunRecord, own_record
from mdl_toolkit.training.checkpoints.resume import Claim, choose_start, say_if_anew
from mdl_toolkit.training.checkpoints.state import checkpoints
from support.training.checkpoints import IDENTITY, OURS, a_checkpoint, a_record, tree

OTHERS = frozenset({"a:/tmp/earlier", "store:0"})


def start(output: Path, launch: Collection[str] = OURS, **options: Any) -> Claim:
    """Begin as an attempt of a launch, in a process that has begun nothing yet."""
    BEGUN_HERE.clear()
    settings = TrainSettings(train_dataset="data", output=output, **options)
    return choose_start(settings, Ranks(Launch(), torch.device("cpu"), launch_ids=launch), IDENTITY)


def resumed(claim: Claim) -> str | None:
    return claim.start.checkpoint.name if claim.start is not None else None


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A finished run of another launch: checkpoints 2, 4 and 6, ``final/`` and metrics."""
    output = tmp_path / "out"
    for step in (2, 4, 6):
        a_checkpoint(output, step, "old")
    (output / "final").mkdir()
    (output / "final" / "mdl_toolkit.json").write_text("{}")
    (output / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    a_record(OTHERS, run="old").write(output)
    return output


@pytest.mark.parametrize("again", [1, 2])
def test_a_finished_run_is_refused_in_every_attempt(old: Path, again: int):
    before = tree(old)
    for _ in range(again):
        with pytest.raises(UserError, match="has a run in it already"):
            start(old)
        assert tree(old) == before


def test_a_run_from_before_there_were_records_is_no_ones(tmp_path: Path):
    output = tmp_path / "out"
    a_checkpoint(output, 2, None)
    before = tree(output)
    with pytest.raises(UserError, match="has a run in it already"):
        start(output)
    assert tree(output) == before
    claim = start(output, resume_from_checkpoint="true")
    assert resumed(claim) == "checkpoint-2" and RunRecord.read(output) is not None
    assert resumed(start(output, resume_from_checkpoint="true")) == "checkpoint-2"


def test_what_is_overwritten_is_not_gone_on_with(old: Path):
    claim = start(old, overwrite=True)
    assert claim.start is None and claim.run != "old"
    assert [path.name for path in old.iterdir()] == [RUN_RECORD]
    a_checkpoint(old, 2, claim.run)
    again = start(old, overwrite=True)
    assert (resumed(again), again.run) == ("checkpoint-2", claim.run), "nothing is overwritten twice"


@pytest.mark.parametrize("record", ["the old one", "none", "cut"])
def test_killed_before_the_record_it_is_a_first_attempt_again(old: Path, record: str):
    """Also between the removal of the old run and the new record."""
    if record == "none":
        (old / RUN_RECORD).unlink()
    elif record == "cut":
        (old / RUN_RECORD).write_text('{\n  "run_record": 1,\n  "run": "ou')
    assert start(old, overwrite=True).start is None
    assert checkpoints(old) == []


def test_killed_after_the_record_it_begins_anew(old: Path):
    run = start(old, overwrite=True).run
    (old / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (old / "checkpoint-2").mkdir()  # not complete
    again = start(old, overwrite=True)
    assert (again.start, again.run) == (None, run)
    assert [path.name for path in old.iterdir()] == [RUN_RECORD]


def test_a_named_checkpoint_is_begun_from_again_until_there_is_a_later_one(old: Path):
    named = {"resume_from_checkpoint": str(old / "checkpoint-2")}
    run = start(old, **named).run
    for _ in range(2):
        assert resumed(start(old, **named)) == "checkpoint-2", "checkpoint-6 is of the old run"
    a_checkpoint(old, 3, run)
    assert resumed(start(old, **named)) == "checkpoint-3"
    a_checkpoint(old, 4, run)
    assert resumed(start(old, **named)) == "checkpoint-4", "it has replaced the old one"
    assert {path.name for path in checkpoints(old)} >= {"checkpoint-3", "checkpoint-6"}


def test_a_checkpoint_elsewhere_is_begun_from_again(old: Path, tmp_path: Path):
    named = {"resume_from_checkpoint": str(old / "checkpoint-4")}
    run = start(tmp_path / "new", **named).run
    again = start(tmp_path / "new", **named)
    assert again.start is not None
    assert (again.run, again.start.checkpoint) == (run, old / "checkpoint-4")
    # By another name, as where the process was started in another folder.
    assert start(tmp_path / "new").start == again.start


def test_the_newest_is_begun_from_again(old: Path):
    for _ in range(2):
        claim = start(old, resume_from_checkpoint="latest")
        assert resumed(claim) == "checkpoint-6"
    a_checkpoint(old, 8, claim.run)
    assert resumed(start(old, resume_from_checkpoint="latest")) == "checkpoint-8"


def test_what_it_began_from_is_gone(old: Path, tmp_path: Path):
    elsewhere = a_checkpoint(tmp_path / "elsewhere", 2, "another")
    start(tmp_path / "new", resume_from_checkpoint=str(elsewhere))
    (elsewhere / "complete.json").unlink()
    with pytest.raises(UserError, match=r"elsewhere/checkpoint-2, from which this run began, is not a compl"):
        start(tmp_path / "new", resume_from_checkpoint=str(elsewhere))
    start(old, resume_from_checkpoint="true")
    (old / "checkpoint-6" / "complete.json").unlink()
    assert resumed(start(old, resume_from_checkpoint="true")) == "checkpoint-4", "the newest was asked for"


def test_a_damaged_checkpoint_of_its_own_is_passed_over(tmp_path: Path):
    run = start(tmp_path / "out").run
    for step in (2, 4):
        a_checkpoint(tmp_path / "out", step, run)
    (tmp_path / "out" / "checkpoint-4" / "complete.json").write_text("{")
    assert resumed(start(tmp_path / "out")) == "checkpoint-2"


def test_hosts_come_and_go_in_one_launch(tmp_path: Path):
    """One agent of the attempt before is enough to know the run."""
    output = tmp_path / "out"
    run = start(output, {"a"}).run
    a_checkpoint(output, 2, run)
    for ids in ({"a", "b", "store:1"}, {"b"}, {"store:1", "c"}, {"c", "d"}):
        assert start(output, ids).run == run
    with pytest.raises(UserError, match="has a run in it already"):
        start(output, {"e"})


@pytest.mark.parametrize("how", ["no list of its files", "another content", "nothing there"])
def test_that_it_starts_anew_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str):
    """Before all else where it can be seen at once; later where what is there proves to be damaged."""
    if how != "nothing there":
        path = a_checkpoint(tmp_path, 2, "r")
        if how == "another content":
            state = (path / "run_state.json").read_bytes()
            (path / "run_state.json").write_bytes(state.replace(b'"d"', b'"e"'))
        else:
            (path / "complete.json").unlink()
    settings = TrainSettings(train_dataset="data", output=tmp_path, resume_from_checkpoint="true")
    with messages_on_console():
        say_if_anew(settings, 1)
        early = "starting anew" in capsys.readouterr().err
        assert start(tmp_path, resume_from_checkpoint="true").start is None
        late = "starting anew" in capsys.readouterr().err
    assert (early, late) == ((False, True) if how == "another content" else (True, False))


def test_a_program_that_trains_twice_has_two_runs(tmp_path: Path):
    """Under one launcher, into one folder: the second is no restart of the first."""
    run = start(tmp_path / "out").run
    a_checkpoint(tmp_path / "out", 2, run)
    settings = TrainSettings(train_dataset="data", output=tmp_path / "out")
    ranks = Ranks(Launch(), torch.device("cpu"), launch_ids=OURS)
    with pytest.raises(UserError, match="has a run in it already"):
        choose_start(settings, ranks, IDENTITY)
    settings.overwrite = True
    assert choose_start(settings, ranks, IDENTITY).run != run


def test_two_launches_of_one_job_are_two(old: Path):
    """``--rdzv-id`` is reused, and ``none`` by default."""
    assert own_record(old, OTHERS) is not None and own_record(old, OURS) is None
    with pytest.raises(UserError, match="has a run in it already"):
        start(old)


def test_a_refused_checkpoint_leaves_all_as_it_was(old: Path):
    a_checkpoint(old, 8, "old", dataset="another")
    before = tree(old)
    with pytest.raises(UserError, match="another dataset"):
        start(old, resume_from_checkpoint="true")
    assert tree(old) == before


@pytest.mark.parametrize(
    ("content", "damaged"),
    [
        ("", True),
        ('{\n  "run_re', True),
        ('{\n  "run_record": 1,\n  "run": "ou', True),
        ('{\n  "run_record": 2,\n  "all": "else"\n}\n', True),
        (
            '{\n  "run_record": 1,\n  "run": 3,\n  "launch": [],\n  "job": null,\n  "began_from": null\n}',
            True,
        ),
        (
            '{\n  "run_record": 1,\n  "run": "a",\n  "launch": 3,\n  "job": null,\n  "began_from": null\n}',
            True,
        ),
        ('{"accuracy": 0.9}', False),
        ("my notes", False),
        (b"\xff\xfe\x00", False),
    ],
)
def test_a_damaged_record_is_none_and_a_foreign_file_stays(
    tmp_path: Path, content: str | bytes, damaged: bool
):
    output, path = tmp_path / "out", tmp_path / "out" / RUN_RECORD
    output.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert RunRecord.read(output) is None
    assert (foreign_file_in(path) is None) == damaged
    if damaged:
        assert start(output).run
        assert RunRecord.read(output) is not None
        return
    with pytest.raises(UserError, match=rf"{RUN_RECORD} is in the way and was not written by a run"):
        start(output, overwrite=True)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())


def test_a_link_or_folder_in_its_place_is_foreign(tmp_path: Path):
    a_record().write(tmp_path)
    (tmp_path / RUN_RECORD).rename(tmp_path / "elsewhere")
    (tmp_path / RUN_RECORD).symlink_to(tmp_path / "elsewhere")
    assert foreign_file_in(tmp_path / RUN_RECORD) == tmp_path / RUN_RECORD
    (tmp_path / RUN_RECORD).unlink()
    (tmp_path / RUN_RECORD).mkdir()
    assert foreign_file_in(tmp_path / RUN_RECORD) == tmp_path / RUN_RECORD


def test_what_cannot_be_written_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"\.mdl_run\.json could not be written: No space left on device"):
        start(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_record_that_was_being_written_is_removed(tmp_path: Path):
    (tmp_path / f".partial-{RUN_RECORD}-77").write_text("{")
    remove_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("agent", "job", "nodes", "own"),
    [
        ("agent", "job", 1, True),
        ("agent", "job", 2, True),
        ("agent", "other", 2, True),
        ("other", "job", 1, False),  # the only host's agent would be known
        ("other", "job", 2, None),  # the other host's may be
        ("other", "other", 2, False),
        (None, "job", 1, None),  # an agent that keeps no files: its store tells
        (None, "other", 1, False),
        (None, None, 1, False),  # not by torchrun
        (None, None, 2, False),
    ],
)
def test_what_one_process_can_tell(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    agent: str | None,
    job: str | None,
    nodes: int,
    own: bool | None,
):
    from mdl_toolkit.training.checkpoints import record

    monkeypatch.setattr(record, "agent_id", lambda: agent)
    monkeypatch.setattr(record, "job_id", lambda: job)
    assert a_record({"agent", "b's"}).is_of_launch(nodes) is own
