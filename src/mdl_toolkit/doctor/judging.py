"""The doctor's judgement of a launch: which hosts differ, which can't talk to each other, who fell silent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl_toolkit.distributed.hosts import shown_ranks
from mdl_toolkit.doctor.findings import OK, PROBLEM, WARNING, Finding

#: Where these differ, a run ends before its first step; other versions may differ at one's own risk.
_SAME = ("mdl-toolkit", "torch")
_OPEN_PORTS = (
    "a firewall has to let through all ports between the hosts; GLOO_SOCKET_IFNAME names another network"
)


@dataclass(frozen=True)
class Hello:
    """What a process says of itself to rank 0.

    Attributes:
        host: The name of its host.
        identity: What the processes of one host have in common.
        local_world_size: How many processes it was told its host has.
        address: The address at which others reach it.
        port: The port at which it listens.
        versions: Of libraries.
        findings: What was found on it.
    """

    host: str
    identity: str
    local_world_size: int
    address: str
    port: int
    versions: dict[str, str]
    findings: list[dict[str, str]]


class Present:
    """The processes that are there, and their hosts.

    Attributes:
        hellos: What each process has said of itself, by rank.
        hosts: The name of each process's host, by rank. Two hosts of one name get a number more.
        firsts: The first process of each host.
    """

    def __init__(self, hellos: Mapping[int, Hello]) -> None:
        self.hellos = dict(sorted(hellos.items()))
        first_of: dict[str, int] = {}
        for rank, hello in self.hellos.items():
            first_of.setdefault(hello.identity, rank)
        self.firsts = sorted(first_of.values())
        names = Counter(self.hellos[rank].host for rank in self.firsts)
        self.hosts = {
            rank: hello.host if names[hello.host] == 1 else f"{hello.host} of rank {first_of[hello.identity]}"
            for rank, hello in self.hellos.items()
        }

    def findings(self) -> list[Finding]:
        """What each process has found, under its host's name."""
        return [
            Finding.of({**values, "host": self.hosts[rank]})
            for rank, hello in self.hellos.items()
            for values in hello.findings
        ]

    def described(self) -> dict[str, dict[str, Any]]:
        """Each host's processes, address and versions, for JSON."""
        return {
            self.hosts[rank]: {
                "ranks": [other for other, host in self.hosts.items() if host == self.hosts[rank]],
                "address": self.hellos[rank].address,
                "versions": self.hellos[rank].versions,
            }
            for rank in self.firsts
        }


def silent(world_size: int, heard: Iterable[int], what: str) -> list[Finding]:
    """A problem where processes have met the others and then said nothing more.

    Args:
        world_size: How many there are.
        heard: Those that have said something.
        what: What they were to do, as an infinitive.
    """
    missing = sorted(set(range(world_size)) - set(heard))
    if not missing:
        return []
    text = f"{shown_ranks(missing)} met the others, and then did not {what}"
    return [Finding(PROBLEM, "processes", text, "what was printed there says more; or it was killed")]


def unlike(present: Present) -> Iterator[Finding]:
    """What differs between hosts and shouldn't."""
    versions = {rank: present.hellos[rank].versions for rank in present.firsts}
    for name in sorted({name for of_host in versions.values() for name in of_host}):
        having: dict[str, list[str]] = {}
        for rank, of_host in versions.items():
            having.setdefault(of_host.get(name, "none"), []).append(present.hosts[rank])
        if len(having) > 1:
            text = ", ".join(f"{name} {version} on {_few(hosts)}" for version, hosts in having.items())
            level = PROBLEM if name in _SAME else WARNING
            yield Finding(level, "versions", text, "install the same versions everywhere")
    kinds: dict[str, list[str]] = {}
    for rank in present.firsts:
        kind = "IPv6" if ":" in present.hellos[rank].address else "IPv4"
        kinds.setdefault(kind, []).append(present.hosts[rank])
    if len(kinds) > 1:
        text = ", ".join(f"{kind} on {_few(hosts)}" for kind, hosts in kinds.items())
        remedy = "give the interfaces addresses of one kind, or name others (GLOO_SOCKET_IFNAME)"
        yield Finding(PROBLEM, "network", f"Gloo would use addresses of two kinds: {text}", remedy)
    counts = Counter(present.hosts.values())
    for rank in present.firsts:
        told, host = present.hellos[rank].local_world_size, present.hosts[rank]
        if told != counts[host]:
            text = f"{counts[host]} are here, but LOCAL_WORLD_SIZE (or the launcher's word for it) is {told}"
            remedy = "set LOCAL_RANK and LOCAL_WORLD_SIZE too, or start by torchrun"
            yield Finding(PROBLEM, "processes", text, remedy, host)


def described_pairs(present: Present, talked: Mapping[int, Any]) -> list[dict[str, Any]]:
    """How each host answered each other one, for JSON."""
    return [
        {
            "from": present.hosts[rank],
            "to": present.hosts[answer["rank"]],
            "milliseconds": round(answer["milliseconds"], 3),
            "fault": answer["fault"],
        }
        for rank in present.firsts
        for answer in talked.get(rank, {"answers": []})["answers"]
    ]


def judged_pairs(present: Present, pairs: list[dict[str, Any]], sample: int) -> Iterator[Finding]:
    """The pairs of hosts that can't talk, each once; a host that can talk to none is told of once, too.

    Args:
        present: The hosts.
        pairs: What :func:`described_pairs` gives.
        sample: How many bytes were sent there and back.
    """
    faults = {(pair["from"], pair["to"]): pair["fault"] for pair in pairs if pair["fault"]}
    addresses = {present.hosts[rank]: present.hellos[rank].address for rank in present.firsts}
    others = len(addresses) - 1
    lonely = [
        host
        for host in addresses
        if others > 1
        and sum((host, other) in faults and (other, host) in faults for other in addresses) == others
    ]
    for host in lonely:
        fault = next(fault for (one, _), fault in faults.items() if one == host)
        text = f"host {host} ({addresses[host]}) can't talk to any of the {others} others: {fault}"
        yield Finding(PROBLEM, "network", text, _OPEN_PORTS)
    for (one, other), fault in faults.items():
        both = (other, one) in faults
        if {one, other} & set(lonely) or (both and one > other):
            continue
        who = f"hosts {one} and {other} can't talk"
        if not both:
            who = f"host {one} can't reach host {other}, which reaches it"
        yield Finding(PROBLEM, "network", f"{who}: {addresses[other]}: {fault}", _OPEN_PORTS)
    if pairs and not faults:
        slowest = max(pairs, key=lambda pair: float(pair["milliseconds"]))
        text = (
            f"all {len(addresses)} hosts talk to each other; {sample >> 10} KiB there and back take at most "
            f"{slowest['milliseconds']:.1f} ms ({slowest['from']} to {slowest['to']})"
        )
        yield Finding(OK, "network", text)


def judged_folder(output: Path, present: Present, talked: Mapping[int, Any]) -> Iterator[Finding]:
    """Whether all hosts see what rank 0 has written to the folder of a run."""
    first = present.hosts[present.firsts[0]]
    apart = [present.hosts[rank] for rank in present.firsts if rank in talked and not talked[rank]["shared"]]
    if apart:
        text = f"{output}: host {_few(apart)} doesn't see what host {first} writes there"
        remedy = f"checkpoints will lie on {first}, where alone a run is resumed; or share the folder"
        yield Finding(WARNING, "output", text, remedy)
    elif len(present.firsts) > 1:
        yield Finding(OK, "output", f"{output}: all hosts see it")


def _few(hosts: list[str]) -> str:
    """Some names, and how many there are more."""
    more = len(hosts) - 5
    return ", ".join(hosts[:5]) + (f" and {more} more" if more > 0 else "")
