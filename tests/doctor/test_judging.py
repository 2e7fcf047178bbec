"""What rank 0 makes of all that the processes of a launch have said."""

from __future__ import annotations

from typing import Any

from mdl_toolkit.doctor.findings import OK, PROBLEM, WARNING, Finding
from mdl_toolkit.doctor.judging import (
    Hello,
    Present,
    described_pairs,
    judged_folder,
    judged_pairs,
    silent,
    unlike,
)

_VERSIONS = {"mdl-toolkit": "0.2.0", "torch": "2.13.0", "numpy": "2.4.6"}


def _present(hosts: str, local: int = 1, **changed: Any) -> Present:
    """A process on each of the hosts, named by letters; of a letter several are on one host."""
    found = {}
    for rank, letter in enumerate(hosts):
        values = {
            "host": f"host-{letter}", "identity": letter, "local_world_size": local,
            "address": f"10.0.0.{rank + 1}", "port": 4000 + rank, "versions": _VERSIONS,
            "findings": [Finding(OK, "cores", "8", host=f"host-{letter}").as_dict()],
        }  # fmt: skip
        found[rank] = Hello(**{**values, **changed.get(letter, {})})
    return Present(found)


def _talked(present: Present, faults: dict[tuple[int, int], str]) -> dict[int, Any]:
    """How the first processes' talks went: well, but for these."""
    return {
        rank: {
            "answers": [
                {"rank": other, "fault": faults.get((rank, other), ""), "milliseconds": 1.0 + other}
                for other in present.firsts
                if other != rank
            ],
            "shared": True,
        }
        for rank in present.firsts
    }


def _judged(present: Present, faults: dict[tuple[int, int], str]) -> list[Finding]:
    return list(judged_pairs(present, described_pairs(present, _talked(present, faults)), 256 << 10))


def test_hosts_that_are_alike_are_no_finding():
    assert not list(unlike(_present("aabb", 2))) and not silent(4, [0, 1, 2, 3], "talk")


def test_hosts_of_one_name_are_told_apart():
    present = _present("ab", a={"host": "node"}, b={"host": "node"})
    assert present.hosts == {0: "node of rank 0", 1: "node of rank 1"}
    assert [finding.host for finding in present.findings()] == ["node of rank 0", "node of rank 1"]


def test_the_first_of_each_host_stands_for_it():
    present = _present("aabb", 2)
    assert present.firsts == [0, 2] and present.described()["host-b"]["ranks"] == [2, 3]


def test_versions_that_differ():
    present = _present("ab", b={"versions": {**_VERSIONS, "torch": "2.12.0", "numpy": "1.26.0"}})
    by_level = {finding.level: finding.text for finding in unlike(present)}
    assert by_level == {
        PROBLEM: "torch 2.13.0 on host-a, torch 2.12.0 on host-b",
        WARNING: "numpy 2.4.6 on host-a, numpy 1.26.0 on host-b",
    }


def test_addresses_of_two_kinds():
    (finding,) = unlike(_present("ab", b={"address": "fd00::2"}))
    assert finding.level == PROBLEM and finding.text.endswith("IPv4 on host-a, IPv6 on host-b")


def test_processes_that_were_told_of_another_number_on_their_host():
    """RANK and WORLD_SIZE set by hand on two hosts: both take themselves for two processes of one host."""
    found = list(unlike(_present("ab", 2)))
    assert [finding.host for finding in found] == ["host-a", "host-b"]
    assert all("LOCAL_WORLD_SIZE" in finding.remedy for finding in found)


def test_who_falls_silent_is_named():
    (finding,) = silent(4, [0, 2], "talk to other hosts")
    assert finding.level == PROBLEM and finding.text.startswith("ranks 1, 3 met the others")


def test_all_talk():
    (finding,) = _judged(_present("abc"), {})
    assert finding.level == OK and finding.text.startswith("all 3 hosts talk to each other")


def test_a_pair_that_can_t_talk_is_named_once():
    (finding,) = _judged(_present("abc"), {(1, 2): "Connection refused", (2, 1): "no connection within 5 s"})
    assert finding.level == PROBLEM
    assert finding.text == "hosts host-b and host-c can't talk: 10.0.0.3: Connection refused"


def test_one_direction():
    (finding,) = _judged(_present("ab"), {(1, 0): "No route to host"})
    assert finding.text == "host host-b can't reach host host-a, which reaches it: 10.0.0.1: No route to host"


def test_a_host_that_reaches_none_is_told_of_once():
    lost = {pair: "No route to host" for other in (0, 1, 3) for pair in ((2, other), (other, 2))}
    (finding,) = _judged(_present("abcd"), lost)
    assert finding.text == "host host-c (10.0.0.3) can't talk to any of the 3 others: No route to host"


def test_a_hundred_hosts_in_a_line():
    present = Present(
        {
            rank: Hello(f"n{rank}", str(rank), 1, f"10.0.1.{rank}", 1, {"torch": f"2.{rank % 2}"}, [])
            for rank in range(100)
        }
    )
    (finding,) = unlike(present)
    assert len(finding.text) < 200 and "and 45 more" in finding.text


def test_a_folder_that_is_not_shared(tmp_path: Any):
    present = _present("ab")
    talked = _talked(present, {})
    assert [finding.level for finding in judged_folder(tmp_path, present, talked)] == [OK]
    talked[1]["shared"] = False
    (finding,) = judged_folder(tmp_path, present, talked)
    assert finding.level == WARNING and "host host-b doesn't see what host host-a writes" in finding.text
