"""The doctor on all processes of a launch: whether they meet, are alike, and reach each other."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.network.addresses import is_link_local, resolved, way_to
from mdl_toolkit.distributed.network.interfaces import choose_interface, interface_addresses
from mdl_toolkit.doctor import pairs
from mdl_toolkit.doctor.exchange import SECONDS as EXCHANGE_SECONDS
from mdl_toolkit.doctor.exchange import exchange
from mdl_toolkit.doctor.findings import OK, PROBLEM, WARNING, Examined, Finding
from mdl_toolkit.doctor.judging import (
    Hello,
    Present,
    described_pairs,
    judged_folder,
    judged_pairs,
    silent,
    unlike,
)
from mdl_toolkit.doctor.meeting import Meeting, host_identity, meet
from mdl_toolkit.errors import MdlError

#: Seconds for each exchange in the store, once all processes have met.
_SOON = 30.0
#: Problems that would make a sum over all processes fail, or wait for its time limit.
_IN_THE_WAY = {"device", "network", "networks", "processes", "versions"}


def examine_together(
    own: Examined,
    launch: Launch,
    output: Path | None,
    wait: float,
    waiting: Callable[[int], None],
) -> Examined:
    """Meet the other processes and find out, on rank 0, what is wrong with all of them.

    Args:
        own: What was found on this process.
        launch: The ranks of this process.
        output: The folder of a run to come.
        wait: Seconds to wait for the others.
        waiting: Called while waiting.

    Returns:
        On rank 0 all findings; on others those of this process.

    Raises:
        MdlError: The processes could not meet.
    """
    meeting = meet(launch, wait, waiting)
    return _examined(meeting, own, output)


def _examined(meeting: Meeting, own: Examined, output: Path | None) -> Examined:
    """Take part in all that is done once the processes have met."""
    launch = meeting.launch
    if launch.rank == 0:
        secret = bytes.fromhex(meeting.announce("secret", secrets.token_hex(pairs.SECRET)))
    else:
        secret = bytes.fromhex(meeting.hear("secret", _SOON))
    server = pairs.EchoServer(secret)
    try:
        hello = Hello(
            host=own.host,
            identity=host_identity(),
            local_world_size=launch.local_world_size,
            address=_own_address(meeting, own),
            port=server.port,
            versions=own.versions,
            findings=[finding.as_dict() for finding in own.findings],
        )
        meeting.say("hello", vars(hello))
        if launch.rank == 0:
            return _lead(meeting, secret, output)
        _follow(meeting, secret)
        return own
    finally:
        server.close()


def _own_address(meeting: Meeting, own: Examined) -> str:
    """The address at which Gloo will let the others connect to this process."""
    name = None
    with contextlib.suppress(MdlError):  # an interface that was asked for isn't there: "networks" says so
        name = choose_interface(meeting.store, meeting.launch)
    if name is not None:
        name = name.split(",")[0]
        address = interface_addresses()[name][0]
        if is_link_local(address) and ":" in address:
            # Gloo sends the number of its own host's interface along, and the others take it for theirs.
            address += f"%{socket.if_nametoindex(name)}"
        if meeting.launch.local_rank == 0:
            own.findings.append(Finding(OK, "interface", f"{name}, {address}", host=own.host))
        return address
    try:
        return way_to(os.environ["MASTER_ADDR"]) or resolved(own.host)[0]
    except OSError:
        return "127.0.0.1"


def _follow(meeting: Meeting, secret: bytes) -> None:
    """The part of all processes but rank 0."""
    roster = meeting.hear("roster", 2 * _SOON)
    meeting.say("talked", _talk(meeting.launch.rank, roster, secret))
    if meeting.hear("exchange", pairs.longest(len(roster["places"])) + 2 * _SOON):
        meeting.say("exchanged", exchange(meeting.store, meeting.launch))
    meeting.hear("end", EXCHANGE_SECONDS + 2 * _SOON)
    meeting.say("ended", True)


def _talk(rank: int, roster: dict[str, Any], secret: bytes) -> dict[str, Any]:
    """Let this process, if it stands for its host, talk to all other hosts, and say how it went."""
    others = [place for place in roster["places"] if place[0] != rank]
    answers = pairs.ask_all(others, secret) if len(others) < len(roster["places"]) else []
    marker = roster["marker"]
    return {
        "answers": [vars(answer) for answer in answers],
        "shared": not marker or os.path.exists(marker),
    }


def _lead(meeting: Meeting, secret: bytes, output: Path | None) -> Examined:
    """The part of rank 0: gather what all say, and judge it."""
    world_size = meeting.launch.world_size
    present = Present({rank: Hello(**said) for rank, said in meeting.gather("hello", _SOON).items()})
    found = Examined(present.hosts[0], present.hellos[0].versions, present.findings())
    found.hosts = present.described()
    found.findings += [*silent(world_size, present.hellos, "tell what was found there"), *unlike(present)]
    with _marker(output) as marker:
        roster = {
            "places": [
                (rank, present.hellos[rank].address, present.hellos[rank].port) for rank in present.firsts
            ],
            "marker": marker,
        }
        meeting.announce("roster", roster)
        meeting.say("talked", _talk(0, roster, secret))
        talked = meeting.gather("talked", pairs.longest(len(present.firsts)) + _SOON)
    found.findings += silent(world_size, talked, "talk to other hosts")
    found.pairs = described_pairs(present, talked)
    found.findings += judged_pairs(present, found.pairs, pairs.SAMPLE)
    if output is not None and marker:
        found.findings += judged_folder(output, present, talked)
    found.findings += _exchange(meeting, found.findings)
    meeting.announce("end", True)
    meeting.say("ended", True)
    # Where this process serves the store, the others have to hear it before it is gone.
    meeting.gather("ended", 5.0)
    return found


def _exchange(meeting: Meeting, findings: list[Finding]) -> Iterator[Finding]:
    """Let all processes sum tensors, as a run does, where nothing found so far forbids it."""
    problems = {finding.topic for finding in findings if finding.level == PROBLEM}
    if not meeting.announce("exchange", not problems & _IN_THE_WAY):
        yield Finding(WARNING, "exchange", "not tried, because of the problems above")
        return
    meeting.say("exchanged", exchange(meeting.store, meeting.launch))
    said = meeting.gather("exchanged", EXCHANGE_SECONDS + _SOON)
    yield from silent(meeting.launch.world_size, said, "sum tensors with the others")
    backend = said[0]["backend"]
    faults = sorted({one["fault"] for one in said.values() if one["fault"]})
    for fault in faults:
        remedy = "NCCL_DEBUG=INFO shows what NCCL tries; NCCL_SOCKET_IFNAME names the network"
        yield Finding(PROBLEM, "exchange", f"{backend}: {fault}", remedy if backend == "nccl" else "")
    if not faults:
        slowest = max(one["milliseconds"] for one in said.values())
        text = f"{backend}, {len(said)} processes, a sum of 4 MiB takes {slowest:.1f} ms"
        yield Finding(OK, "exchange", text)


@contextlib.contextmanager
def _marker(output: Path | None) -> Iterator[str]:
    """A file by which the other hosts see whether they share a run's folder; empty where there is none."""
    marker = None
    if output is not None:
        path = output.absolute()
        folder = next((place for place in (path, *path.parents) if place.is_dir()), Path("/"))
        marker = folder / f".mdl-doctor-{secrets.token_hex(8)}"
        try:
            marker.touch(exist_ok=False)
        except OSError:
            marker = None  # the disk's own finding says so
    try:
        yield str(marker or "")
    finally:
        if marker is not None:
            with contextlib.suppress(OSError):
                marker.unlink()
