"""A host that fails before the others have joined ends them with its cause; launchers' reports name it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from support.processes.launch import BIN, ROOT, Finished, run, run_together, torchrun, torchrun_on_both
from support.processes.netns import Host
from support.training.shop import TRAIN, train_on

pytestmark = pytest.mark.system

PEERS = [str(BIN / "python"), str(ROOT / "tests" / "support" / "processes" / "peers.py")]
WRONG = [*TRAIN, "--lr", "abc"]


def _errors(finished: Finished) -> list[str]:
    """The program's own lines about errors."""
    return [line for line in finished.lines if line.startswith("error: ")]


def _root(finished: Finished) -> dict[str, str]:
    """The root cause in torchrun's report, by what its lines begin with."""
    _, _, block = finished.output.partition("Root Cause")
    return {name: value.strip() for name, value in re.findall(r"^  (\w+) *: (.*)$", block, re.MULTILINE)}


def _accelerate(rank: int) -> list[str]:
    return shlex.split(
        "accelerate launch --multi_gpu --num_processes 2 --num_machines 2 --main_process_ip host-a "
        f"--main_process_port 29512 --machine_rank {rank} --no_python"
    )


@pytest.mark.parametrize("wrong", ["option", "data"])
def test_a_host_that_is_refused_ends_the_one_that_waits(wrong: str, shop: Path, hosts: tuple[Host, Host]):
    start = torchrun_on_both(f"refused-{wrong}")
    refused = [*start, *(WRONG if wrong == "option" else train_on("no-such-set/")), "--output", "refused/"]
    launches = [(hosts[0].prefix, [*start, *TRAIN, "--output", "refused/"]), (hosts[1].prefix, refused)]
    ended = run_together(launches, cwd=shop, timeout=120)
    cause = (
        "--lr abc: a number expected"
        if wrong == "option"
        else "--train-dataset: no file or folder no-such-set"
    )
    assert all(finished.seconds < 100 for finished in ended), "ten minutes before"
    for finished in ended:
        assert len(_errors(finished)) == 1 and _errors(finished)[0].endswith(cause), finished.output
        assert _root(finished)["traceback"].endswith(cause) and _root(finished)["exitcode"].startswith("2 ")
        assert re.fullmatch(r"error: rank \d \(host host-b\): .*", _errors(finished)[0])
        assert _root(finished)["traceback"] == _errors(finished)[0].removeprefix("error: ")


@pytest.mark.parametrize("launcher", ["accelerate", "none"])
def test_without_torchrun_rank_0_says_why_it_ends(launcher: str, shop: Path, hosts: tuple[Host, Host]):
    words = [
        [*_accelerate(rank), "env"] if launcher == "accelerate" else ["env", *_variables(rank)]
        for rank in (0, 1)
    ]
    launches = [
        (hosts[0].prefix, [*words[0], *WRONG, "--output", "refused/"]),
        (hosts[1].prefix, [*words[1], *TRAIN, "--output", "refused/"]),
    ]
    first, second = run_together(launches, cwd=shop, timeout=120)
    assert first.code == second.code == (2 if launcher == "none" else 1)
    for finished in (first, second):
        assert _errors(finished) == ["error: rank 0 (host host-a): --lr abc: a number expected"]


def _variables(rank: int) -> list[str]:
    return [
        f"RANK={rank}", "WORLD_SIZE=2", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=1", "MASTER_ADDR=host-a",
        "MASTER_PORT=29513",
    ]  # fmt: skip


def test_the_root_cause_is_that_of_the_process_that_failed(shop: Path, hosts: tuple[Host, Host]):
    variables = {"PYTHONPATH": str(ROOT / "tests")}
    finished = run([*torchrun(), *PEERS, "fail", "1"], cwd=shop, env=variables)
    root = _root(finished)
    assert root["rank"].startswith("1 ") and root["exitcode"].startswith("2 "), finished.output
    assert re.fullmatch(r"rank 1 \(host \S+\): train\.csv row 17 \(a\.wav\): is empty", root["traceback"])
    launches = [(host.prefix, [*torchrun_on_both("root"), *PEERS, "bug", "1"]) for host in hosts]
    for finished in run_together(launches, cwd=shop, env=variables):
        root = _root(finished)
        assert re.fullmatch(
            r"rank 1 \(host host-[ab]\): AssertionError: something is wrong here", root["traceback"]
        )
        assert root["exitcode"].startswith("1 "), finished.output


def test_a_host_that_fails_while_the_group_is_made_ends_the_others(shop: Path, hosts: tuple[Host, Host]):
    """All have come, and one can't take part: the interface that it is told to use isn't there."""
    words = [*torchrun_on_both("midway"), *PEERS, "talk"]
    launches = [(hosts[0].prefix, words), (hosts[1].prefix, ["env", "GLOO_SOCKET_IFNAME=eth7", *words])]
    for finished in run_together(launches, cwd=shop, env={"PYTHONPATH": str(ROOT / "tests")}, timeout=120):
        (error,) = _errors(finished)
        assert re.match(r"error: rank \d \(host host-b\): GLOO_SOCKET_IFNAME=eth7: ", error), error
        assert _root(finished)["exitcode"].startswith("2 "), finished.output
