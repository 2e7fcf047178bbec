"""``doctor`` under real launches: one report for all hosts, and the pair that can't talk by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.processes.launch import Finished, launched, run, run_together, torchrun, torchrun_on_both
from support.processes.netns import DEBIANS_OWN, Host, two_hosts

pytestmark = pytest.mark.system

Pair = tuple[Host, Host]
DOCTOR = ["mdl-toolkit", "doctor", "--json"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two hosts whose network the tests here change, and set right again."""
    with two_hosts(tmp_path_factory.mktemp("pair")) as made:
        yield made


def _found(finished: Finished) -> dict[str, Any]:
    """The one object among what a launch has printed."""
    objects = finished.output.split("\n{\n")[1:] or [finished.output.removeprefix("{\n")]
    assert len(objects) == 1 and "Traceback" not in finished.output.partition("\n}\n")[0], finished.output
    found: dict[str, Any] = json.loads("{" + objects[0].partition("\n}\n")[0] + "}")
    return found


def _by_hand(pair: Pair, cwd: Path, address: str, *options: str, **env: str) -> list[Finished]:
    """Start a process on each host, as a person would who has no launcher."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                launched(
                    [*DOCTOR, *options],
                    cwd=cwd,
                    prefix=host.prefix,
                    env={
                        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
                        "MASTER_ADDR": address, "MASTER_PORT": "29500", **env,
                    },
                )
            )
            for rank, host in enumerate(pair)
        ]  # fmt: skip
        return [launch.wait() for launch in started]


def _texts(found: dict[str, Any], level: str, topic: str) -> list[tuple[str, str]]:
    return [
        (finding["host"], finding["text"])
        for finding in found["findings"]
        if (finding["level"], finding["topic"]) == (level, topic)
    ]


def test_the_processes_of_one_machine_are_one_report(tmp_path: Path):
    finished = run([*torchrun(), *DOCTOR], cwd=tmp_path)
    assert finished.code == 0, finished.output
    found = _found(finished)
    (host,) = found["hosts"].values()
    assert host["ranks"] == [0, 1] and found["ok"] is True
    assert "gloo, 2 processes" in _texts(found, "ok", "exchange")[0][1]


def test_two_hosts_are_one_report(pair: Pair, tmp_path: Path):
    words = [*torchrun_on_both("doctor"), *DOCTOR, "--output", "run"]
    first, second = run_together([(host.prefix, words) for host in pair], cwd=tmp_path)
    assert first.code == second.code == 0, first.output + second.output
    reporting = first if '"findings"' in first.output else second  # rank 0 is where torchrun puts it
    assert ('"findings"' in first.output) + ('"findings"' in second.output) == 1
    found = _found(reporting)
    assert set(found["hosts"]) == {"host-a", "host-b"}
    assert [pair["fault"] for pair in found["pairs"]] == ["", ""]
    assert _texts(found, "ok", "output")[-1][1].endswith("all hosts see it")
    assert _texts(found, "ok", "network") and _texts(found, "ok", "exchange")


def test_a_pair_that_can_t_talk_is_named(pair: Pair, tmp_path: Path):
    """The rendezvous is reached, and the network that Gloo is told to use leads nowhere."""
    for number, host in enumerate(pair, start=1):
        host.ip("link", "add", "apart", "type", "veth", "peer", "name", "end")
        host.ip("address", "add", f"10.9.0.{number}/24", "dev", "apart")
        host.ip("link", "set", "apart", "up")
        host.ip("link", "set", "end", "up")
    try:
        first, second = _by_hand(pair, tmp_path, "10.0.0.1", GLOO_SOCKET_IFNAME="apart")
    finally:
        for host in pair:
            host.ip("link", "delete", "apart")
    assert (first.code, second.code) == (1, 0), first.output + second.output
    (problem,) = _texts(_found(first), "problem", "network")
    assert "hosts host-a and host-b can't talk: 10.9.0.2: " in problem[1]
    assert _texts(_found(first), "warning", "exchange"), "no sum is tried over such a network"


def test_a_host_without_a_network_says_so_and_the_first_says_who_is_missing(pair: Pair, tmp_path: Path):
    cut_off = pair[1]
    cut_off.ip("link", "set", cut_off.cable, "down")
    try:
        first, second = _by_hand(pair, tmp_path, "10.0.0.1", "--wait", "15")
    finally:
        cut_off.ip("link", "set", cut_off.cable, "up")
    assert (first.code, second.code) == (1, 1), first.output + second.output
    ((_, said),) = _texts(_found(first), "problem", "processes")
    assert said == "at 10.0.0.1:29500: 1 of 2 processes came within 15 s; rank 1 did not come"
    assert "problem  rendezvous: no network of host host-b leads to 10.0.0.1" in second.output
    assert (
        "error: rank 1 (host host-b): could not join the other processes: at 10.0.0.1:29500: "
        in second.output
    )


def test_a_name_that_is_the_loopback_on_its_own_host_is_warned_of(tmp_path: Path):
    with two_hosts(tmp_path, own=DEBIANS_OWN) as hosts:
        first, second = _by_hand(hosts, tmp_path, "host-a")
    assert (first.code, second.code) == (0, 0), first.output + second.output
    warned = _texts(_found(first), "warning", "own name")
    assert warned == [
        (name, f"{name} is 127.0.1.1: on this host its own name leads to the loopback")
        for name in ("host-a", "host-b")
    ]
