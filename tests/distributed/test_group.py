"""Processes join, talk and end together, whoever started them and whatever ends one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from mdl_toolkit.distributed import rendezvous
from mdl_toolkit.distributed.failure import FailureWatch, end_together
from mdl_toolkit.distributed.group import Ranks, choose_device, joined
from mdl_toolkit.distributed.hosts import host_name, rank_on_host
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.peers.reports import Failure
from mdl_toolkit.distributed.peers.silence import Loss
from mdl_toolkit.distributed.peers.troubles import is_peer_loss
from mdl_toolkit.errors import PeerLostError, SettingsError, Stopped
from support.processes.ranks import ROOT, start_ranks

PEERS = str(ROOT / "tests" / "support" / "processes" / "peers.py")


def named(rank: int) -> str:
    """A process of this host in messages."""
    return rank_on_host(rank, host_name())


def lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.strip()]


def test_alone_nothing_is_joined() -> None:
    with joined(Launch()) as ranks:
        assert ranks.is_main and ranks.nodes == 1
        assert ranks.sum([1.5, 2]) == [1.5, 2.0] and ranks.any(True)
        assert ranks.broadcast_object("x") == "x" and ranks.gather_objects(3) == [3]
        ranks.barrier()
        assert not torch.distributed.is_initialized()


def test_processes_talk_and_accelerate_sees_them() -> None:
    for code, output in start_ranks([PEERS, "talk"], 2):
        assert code == 0 and lines(output) == ["done"], output


@pytest.mark.parametrize("what", ["fail", "fail while another is busy"])
def test_a_failure_ends_all_with_its_cause(what: str) -> None:
    (first_code, first), (second_code, second) = start_ranks([PEERS, what, "1"], 2)
    assert (first_code, second_code) == (2, 2)
    assert lines(second) == [f"error: {named(1)}: train.csv row 17 (a.wav): is empty"]
    assert lines(first) == []


@pytest.mark.parametrize("one", [0, 1])
def test_a_host_with_a_gpu_and_one_without_are_told_so(one: int) -> None:
    """Each would make a group of another kind, and wait in it for the other."""
    said = (
        f"error: {named(one)} computes on a GPU and {named(1 - one)} on the CPU: all processes of a run need"
    )
    for code, output in start_ranks([PEERS, "a GPU on one", str(one)], 2, timeout=60):
        assert code == 2 and lines(output)[-1].startswith(said) and output.count("error: ") == 1, output


def test_the_cause_outlives_the_process_that_keeps_the_meeting_point() -> None:
    """Rank 0 fails; the other one, which is busy, must still learn why."""
    (first_code, first), (second_code, second) = start_ranks([PEERS, "fail while another is busy", "0"], 2)
    assert (first_code, second_code) == (2, 2)
    assert lines(first) == [f"error: {named(0)}: train.csv row 17 (a.wav): is empty"]
    assert lines(second) == []


def test_another_machine_is_told_the_cause() -> None:
    (first_code, first), (second_code, second) = start_ranks([PEERS, "fail", "1"], 2, local_world_size=1)
    assert (first_code, second_code) == (2, 2)
    for output in (first, second):
        assert lines(output) == [f"error: {named(1)}: train.csv row 17 (a.wav): is empty"]


def test_when_all_fail_one_says_so() -> None:
    ended = start_ranks([PEERS, "all fail"], 2)
    assert [code for code, _ in ended] == [2, 2]
    said = [line for _, output in ended for line in lines(output)]
    assert len(said) == 1 and said[0].endswith("train.csv row 17 (a.wav): is empty")


def test_a_bug_shows_where_it_is() -> None:
    (first_code, first), (second_code, second) = start_ranks([PEERS, "bug", "1"], 2)
    assert first_code == 1 and lines(first) == []
    assert second_code == 1 and "Traceback" in second
    assert "something is wrong here" in lines(second)[-1]


def test_a_killed_process_is_missed() -> None:
    (first_code, first), (second_code, second) = start_ranks([PEERS, "killed", "1"], 2)
    assert second_code == -9 and not second
    assert first_code == PeerLostError.exit_code
    (said,) = lines(first)
    assert f"{named(1)} is gone, without an error message" in said


def test_stopping_together_is_no_failure() -> None:
    (first_code, first), (second_code, second) = start_ranks([PEERS, "stop"], 2)
    assert (first_code, second_code) == (143, 143)
    assert lines(first) == ["error: stopped at step 3"] and lines(second) == []


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("return 0", 0, ""),
        ("sys.exit(143)", 143, ""),
        ("raise SystemExit", 0, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
    ],
)
def test_whatever_ends_it_a_process_of_a_group_isnt_cleared_up(end: str, code: int, said: str) -> None:
    """A backend's thread that lives longer than the interpreter would abort it: ``Late`` stands for one."""
    script = f"""
import atexit, os, sys
from mdl_toolkit import cli
from mdl_toolkit.distributed import failure

class Late:
    def __del__(self):
        os.abort()

def work(settings):
    sys.modules["late"] = Late()
    failure.FailureWatch.started = True
    atexit.register(print, "exit functions ran")
    {end}

cli.run = work
cli.main([])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stdout == "exit functions ran\n"
    assert ended.stderr.strip().endswith(said) and bool(ended.stderr) == bool(said)


def test_torchrun_is_told_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    start_ranks([PEERS, "fail", "1"], 2)
    report = json.loads((tmp_path / "error.json").read_text())
    assert report["message"]["message"] == f"{named(1)}: train.csv row 17 (a.wav): is empty"
    assert "py_callstack" not in report["message"]["extraInfo"]


@pytest.mark.parametrize(
    ("launcher", "cause", "waits"),
    [
        ("torchrun", Failure(rank=0, node=0, code=2, message="rank 0: it is empty"), True),
        # Its launcher can't see the process with the cause, which is on another machine.
        ("torchrun", Failure(rank=9, node=1, code=2, message="rank 9: it is empty"), False),
        ("none", Failure(rank=0, node=0, code=2, message="rank 0: it is empty"), False),
        ("torchrun", Stopped(15, "stopped at step 3"), True),
    ],
)
def test_the_process_with_the_cause_is_seen_to_end_first(
    launcher: str, cause: Failure | Stopped, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun reports whom it sees ended first; a peer that ended in the same moment would be named."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launcher == "torchrun":
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(FailureWatch, "started", False)
    watch = FailureWatch(torch.distributed.HashStore(), Launch(rank=1, world_size=2, local_world_size=2))  # type: ignore[attr-defined]
    watch.start()
    stopped = isinstance(cause, Stopped)
    monkeypatch.setattr(watch, "first", lambda patience: None if stopped else cause)
    monkeypatch.setattr("mdl_toolkit.distributed.failure._end_for_sure", lambda code: None)
    with pytest.raises(SystemExit) as left, end_together(watch):
        raise cause if isinstance(cause, Stopped) else RuntimeError("Connection closed by peer")
    watch.stop()
    assert left.value.code == (143 if stopped else 2)
    # Of a stop that all have agreed to nothing is to be found out, and it may be torchrun that was told to.
    assert len(slept) == waits and all((seconds <= 5) if stopped else (seconds > 20) for seconds in slept)


def test_without_memory_for_a_thread_it_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the failure that is being reported stays the one that is shown."""

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    alarms: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    monkeypatch.setattr("signal.alarm", alarms.append)
    watch = FailureWatch(torch.distributed.HashStore(), Launch(rank=0, world_size=1))  # type: ignore[attr-defined]
    with pytest.raises(MemoryError, match="no memory for the batch"), end_together(watch):
        raise MemoryError("no memory for the batch")
    assert len(alarms) == 1 and alarms[0] > 0


def test_processes_that_never_come_are_waited_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    from mdl_toolkit.errors import MdlError

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(rendezvous, "JOIN_TIMEOUT", datetime.timedelta(seconds=1))
    launch = Launch(rank=1, world_size=2, local_rank=1, local_world_size=2)
    with (
        pytest.raises(
            MdlError, match=r"rank 1 \(host .+\): could not join .* nothing answers at 127\.0\.0\.1:1 "
        ),
        joined(launch),
    ):
        pass
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GLOO_SOCKET_IFNAME"):
        os.environ.pop(name, None)


def test_several_machines_need_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match="MASTER_ADDR is not set"), joined(Launch(rank=0, world_size=2)):
        pass


class TestDevice:
    def test_no_gpu_means_the_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert choose_device(Launch(rank=1, world_size=2, local_rank=1, local_world_size=2)).type == "cpu"

    def test_each_process_has_its_own_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        device = choose_device(Launch(rank=7, world_size=8, local_rank=3, local_world_size=4))
        assert str(device) == "cuda:3" and chosen == [3]

    def test_a_config_can_leave_gpus_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert choose_device(Launch(use_cpu=True)).type == "cpu"

    def test_more_processes_than_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(SettingsError, match=r"4 processes .* 2 GPU.*--nproc-per-node 2"):
            choose_device(Launch(rank=3, world_size=4, local_rank=3, local_world_size=4))


def test_only_lost_peers_count_as_lost() -> None:
    assert is_peer_loss(RuntimeError("[../pair.cc:544] Connection closed by peer [10.0.0.2]:1234"))
    assert not is_peer_loss(RuntimeError("shape '[2]' is invalid for input of size 3"))
    assert not is_peer_loss(ValueError("connection closed by peer"))


def test_an_mpi_launch_counts_machines() -> None:
    ranks = Ranks(Launch(rank=5, world_size=8, local_rank=1, local_world_size=4), torch.device("cpu"))
    assert ranks.nodes == 2 and not ranks.is_main


def test_a_process_of_a_group_ends_without_the_interpreters_clearing_up(tmp_path: Path) -> None:
    """Exit functions run and nothing printed is lost; modules stay while the backend's threads do."""
    script = tmp_path / "ends.py"
    script.write_text(
        "import atexit, os, sys\n"
        "from mdl_toolkit import cli\n"
        "from mdl_toolkit.distributed import failure\n"
        "class Late:\n"
        "    def __del__(self, write=os.write): write(1, b'cleared up\\n')\n"
        "late = Late()\n"
        "atexit.register(print, 'exit function')\n"
        "failure.FailureWatch.started = sys.argv[1] == 'group'\n"
        "cli.run = lambda argv: print('done') or 3\n"
        "cli.main([])\n"
    )
    said = {}
    for kind in ("group", "alone"):
        ended = subprocess.run([sys.executable, str(script), kind], capture_output=True, text=True)
        assert ended.returncode == 3, ended.stderr
        said[kind] = ended.stdout.split("\n")
    assert said == {
        "group": ["done", "exit function", ""],
        "alone": ["done", "exit function", "cleared up", ""],
    }


def test_a_failure_is_of_the_machine_that_the_launcher_says() -> None:
    """Machines of one process and of three: rank 1 is the first of the second one."""
    watch = FailureWatch(
        torch.distributed.HashStore(),  # type: ignore[attr-defined]
        Launch(rank=1, world_size=4, local_world_size=3, group_rank=1, group_world_size=2),
    )
    assert watch.report(2, "it is empty") is None
    reported = watch.first(0.0)
    assert reported is not None and reported.node == watch.node == 1


def test_who_is_saving_is_ended_for_a_loss_when_it_has_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(
        "mdl_toolkit.distributed.failure.end_process", lambda code, exit_functions: ended.append(code)
    )
    monkeypatch.setattr("mdl_toolkit.distributed.failure.GRACE", 0.2)
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    watch = FailureWatch(torch.distributed.HashStore(), Launch(rank=0, world_size=2))  # type: ignore[attr-defined]
    loss = Loss((1,), gone=False, seconds=120.0, by=0)
    thread = threading.Thread(target=watch._end_after_loss, args=(loss,))
    with watch.held():
        thread.start()
        thread.join(1.0)
        assert thread.is_alive() and not ended
    thread.join(10.0)
    assert ended == [PeerLostError.exit_code]
    assert json.loads((tmp_path / "error.json").read_text())["message"]["errorCode"] == ended[0]
