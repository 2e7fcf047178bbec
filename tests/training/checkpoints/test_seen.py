"""Hosts with folders of their own under one name: nothing is resumed that not all of them see."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import UserError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.checkpoints.record import BEGUN_HERE, RUN_RECORD
from mdl_toolkit.training.checkpoints.resume import Claim, choose_start, say_if_anew
from mdl_toolkit.training.checkpoints.state import checkpoints
from support.training.checkpoints import IDENTITY, a_checkpoint, a_record, tree

T = TypeVar("T")


class Meeting:
    """What two threads, each of them a rank on a host of its own, say to each other."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=20)
        self.said = list[Any]([None, None])

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.said[rank] = value
        self.barrier.wait()
        said = list(self.said)
        self.barrier.wait()
        return said


class OnHost(Ranks):
    """One of them."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting = meeting
        launch = Launch(rank=rank, world_size=2, local_world_size=1)
        super().__init__(launch, torch.device("cpu"), launch_ids={f"agent-{rank}"})
        self.hosts = ("host-a", "host-b")

    def gather_objects(self, value: T) -> list[T]:
        return self._meeting.exchange(self.rank, value)

    def broadcast_object(self, value: T) -> T:
        return self.gather_objects(value)[0]


def start_on_both(folders: list[Path], **options: Any) -> list[Any]:
    """Begin a run on two hosts with their output in these folders; the claim or error of each."""
    BEGUN_HERE.clear()  # these are processes of their own
    meeting, got = Meeting(), list[Any]([None, None])

    def begin(rank: int) -> None:
        settings = TrainSettings(train_dataset="data", output=folders[rank], **options)
        try:
            got[rank] = choose_start(settings, OnHost(meeting, rank), IDENTITY)
        except UserError as error:
            got[rank] = error
            meeting.barrier.abort()

    def until_the_other_fails(rank: int) -> None:
        try:
            begin(rank)
        except threading.BrokenBarrierError:
            got[rank] = UserError("ended with the other")

    threads = [threading.Thread(target=until_the_other_fails, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def refused(folders: list[Path], **options: Any) -> str:
    """The message with which both are refused; the folders stay as they are."""
    before = [tree(folder) for folder in folders]
    got = start_on_both(folders, **options)
    assert all(isinstance(each, UserError) for each in got), got
    assert [tree(folder) for folder in folders] == before
    return max(map(str, got), key=len)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / name / "out" for name in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def test_a_newer_checkpoint_on_another_host_is_an_error(two: list[Path]):
    a_checkpoint(two[1], 4, "r")
    said = refused(two, resume_from_checkpoint="true")
    assert "rank 1 (host host-b) sees" in said and "out/checkpoint-4" in said
    assert "for rank 0 (host host-a), which chooses and writes, there is none" in said
    assert "start host host-b as rank 0, copy the folder from host host-b to host host-a" in said
    a_checkpoint(two[0], 2, "r")
    said = refused(two, resume_from_checkpoint="latest")
    assert "checkpoint-2 is the newest" in said


def test_an_unfinished_one_is_no_newer_one(two: list[Path]):
    """Nor is what was not asked for."""
    a_checkpoint(two[1], 4, "r")
    assert all(isinstance(each, Claim) for each in start_on_both(two))
    shutil.rmtree(two[0])
    (two[1] / "checkpoint-4" / "complete.json").unlink()
    got = start_on_both(two, resume_from_checkpoint="true")
    assert [isinstance(each, Claim) and each.start for each in got] == [None, None]


def test_a_newer_one_that_is_damaged_for_all_is_passed_over(tmp_path: Path):
    shared = tmp_path / "out"
    for step in (2, 4):
        a_checkpoint(shared, step, "r")
    state = (shared / "checkpoint-4" / "run_state.json").read_bytes()
    (shared / "checkpoint-4" / "run_state.json").write_bytes(state.replace(b'"d"', b'"e"'))
    got = start_on_both([shared, shared], resume_from_checkpoint="true")
    assert [each.start.checkpoint.name for each in got] == ["checkpoint-2"] * 2


def test_the_same_in_two_places_is_resumed(two: list[Path]):
    a_checkpoint(two[0], 2, "r")
    shutil.copytree(two[0] / "checkpoint-2", two[1] / "checkpoint-2")
    for options in ({"resume_from_checkpoint": "true"}, {}):  # the second is a restart
        got = start_on_both(two, **options)
        starts = [each.start.checkpoint for each in got]
        assert starts == [folder / "checkpoint-2" for folder in two]
        assert len({each.run for each in got}) == 1
    assert not (two[1] / RUN_RECORD).exists(), "the main process writes it"


def test_what_one_host_does_not_see_is_not_resumed(two: list[Path]):
    a_checkpoint(two[0], 2, "r")
    assert "rank 1 (host host-b) doesn't see" in refused(two, resume_from_checkpoint="true")
    named = str(two[0] / "checkpoint-2")
    shutil.rmtree(two[1])
    a_checkpoint(two[1], 2, "another", dataset="x")
    said = refused(two, resume_from_checkpoint=named)
    assert "rank 1 (host host-b): " in said and "out/checkpoint-2 has other content" in said
    shutil.rmtree(two[1])
    shutil.copytree(two[0], two[1])
    (two[1] / "checkpoint-2" / "run_state.json").write_text("{}")
    said = refused(two, resume_from_checkpoint=named)
    assert "is not complete (run_state.json has 2 bytes" in said
    assert "copy the folder from host host-a to host host-b" in said


def test_a_restarted_run_whose_record_is_on_another_host(two: list[Path]):
    """As where another host has become rank 0."""
    a_record({"agent-1"}).write(two[1])
    a_checkpoint(two[1], 4, "ours")
    said = refused(two)
    assert "rank 1 (host host-b) sees" in said and "the run of this launch" in said


@pytest.mark.parametrize(
    ("wanted", "nodes", "said"),
    [
        ("true", 1, "no complete checkpoint in OUT: starting anew\n"),
        ("LATEST", 2, "no complete checkpoint in OUT: starting anew, unless another host has one\n"),
        ("false", 1, ""),
        ("OUT/checkpoint-2", 1, ""),
    ],
)
def test_starting_anew_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: str, nodes: int, said: str
):
    from mdl_toolkit.terminal.console import messages_on_console

    output = tmp_path / "out"
    settings = TrainSettings(
        train_dataset="data", output=output, resume_from_checkpoint=wanted.replace("OUT", str(output))
    )
    with messages_on_console():
        say_if_anew(settings, nodes)
    assert capsys.readouterr().err == said.replace("OUT", str(output))
    a_checkpoint(output, 2, None)
    with messages_on_console():
        say_if_anew(settings, nodes)
    assert capsys.readouterr().err == ""
    assert [path.name for path in checkpoints(output)] == ["checkpoint-2"]
