"""Who was heard of when, and what follows from it: the rules alone, without sockets or threads.

Standard library only. Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mdl_toolkit.distributed.hosts import rank_on_host, shown_ranks

#: After so many seconds of silence a process is said to be waited for.
NOTICE = 15.0
#: A connection that was closed without a word is opened again within so many seconds, or its process is gone.
#: The other end may notice only at its next sign of life (``pulse.py``) that it was closed.
REOPEN = 2.5
#: Processes whose silence began or ended within so many seconds are told of together: it is their host's.
TOGETHER = 1.5
#: If this process itself did nothing for longer than this, it has no right to complain of others.
STANDSTILL = 3.0
#: Names of processes in one message.
_NAMED = 4


@dataclass(frozen=True)
class Change:
    """What has changed about some processes.

    Attributes:
        kind: ``quiet``: nothing was heard of them for a while. ``back``: after that they were heard again.
            ``silent``: they are given up, because they were quiet too long. ``gone``: their connections were
            closed, as when a process is killed.
        ranks: The processes.
        seconds: How long nothing was heard of them.
    """

    kind: Literal["quiet", "back", "silent", "gone"]
    ranks: tuple[int, ...]
    seconds: float


class Silence:
    """Keeps the time since each of some processes was heard of.

    Args:
        ranks: The processes.
        timeout: Seconds of silence after which a process is given up.
        now: The time.
    """

    def __init__(self, ranks: Iterable[int], timeout: float, now: float) -> None:
        self.timeout, self._notice = timeout, min(NOTICE, timeout / 2)
        self._together = min(TOGETHER, timeout / 10)
        self._heard = dict.fromkeys(ranks, now)
        self._closed: dict[int, float] = {}
        self._quiet: dict[int, float] = {}
        self._returned: dict[int, float] = {}
        self._looked = now

    def expect(self, rank: int, now: float) -> None:
        """Hear a process for the first time, or again."""
        self._heard.setdefault(rank, now)
        self.heard(rank, now)

    def heard(self, rank: int, now: float) -> None:
        """A process has given a sign of life."""
        if rank in self._heard:
            self._heard[rank] = now
            self._closed.pop(rank, None)
            if rank in self._quiet:
                self._returned.setdefault(rank, now)

    def closed(self, rank: int, now: float) -> None:
        """The connection of a process was closed without a word."""
        if rank in self._heard:
            self._closed.setdefault(rank, now)

    def left(self, rank: int) -> None:
        """A process has said that it is done: it is expected no longer."""
        for kept in (self._heard, self._closed, self._quiet, self._returned):
            kept.pop(rank, None)

    def look(self, now: float) -> list[Change]:
        """What has changed since the last look. To be called often, after all that had come was heard.

        Where this process has stood still itself (it was stopped, its host was suspended), that time is
        nobody's silence.
        """
        stood, self._looked = now - self._looked, now
        if stood > STANDSTILL:
            for times in (self._heard, self._closed, self._quiet, self._returned):
                times.update({rank: min(now, time + stood) for rank, time in times.items()})
        if any(now - time >= REOPEN for time in self._closed.values()):
            return [self._lost("gone", tuple(self._closed), now)]
        if any(now - time >= self.timeout for time in self._heard.values()):
            silent = [
                rank for rank, time in self._heard.items() if now - time >= self.timeout - self._together
            ]
            return [self._lost("silent", silent, now)]
        return [*self._back(now), *self._newly_quiet(now)]

    def _lost(self, kind: Literal["silent", "gone"], ranks: Sequence[int], now: float) -> Change:
        seconds = max(now - self._heard[rank] for rank in ranks)
        for rank in ranks:
            self.left(rank)
        return Change(kind, tuple(ranks), seconds)

    def _newly_quiet(self, now: float) -> list[Change]:
        new = {rank: time for rank, time in self._heard.items() if rank not in self._quiet}
        if not any(now - time >= self._notice for time in new.values()):
            return []
        told = {rank: time for rank, time in new.items() if now - time >= self._notice - self._together}
        self._quiet |= told
        return [Change("quiet", tuple(told), now - min(told.values()))]

    def _back(self, now: float) -> list[Change]:
        if not any(now - time >= self._together for time in self._returned.values()):
            return []
        seconds = max(time - self._quiet[rank] for rank, time in self._returned.items())
        change = Change("back", tuple(self._returned), seconds)
        for rank in change.ranks:
            del self._quiet[rank]
        self._returned.clear()
        return [change]


@dataclass(frozen=True)
class Loss:
    """Processes that are lost, and how it was noticed.

    Attributes:
        ranks: The lost processes. Other processes may have found this one lost while it stood still.
        gone: Whether their connections were closed, as when a process is killed; else they were silent.
        seconds: How long nothing was heard of them.
        by: The process that noticed it.
    """

    ranks: tuple[int, ...]
    gone: bool
    seconds: float
    by: int

    def message(self, hosts: Sequence[str], own: int) -> str:
        """What happened, as the beginning of a message.

        Args:
            hosts: The hosts of all processes, in order of rank.
            own: The rank of the process that tells it.
        """
        if own in self.ranks:
            return (
                f"{named(self.ranks, hosts)} was given up by the others: they had heard nothing of it for "
                f"{self.seconds:.0f} s; it was stopped, its host was suspended, or the link was down"
            )
        who, one = named(self.ranks, hosts), len(_names(self.ranks, hosts)) == 1
        if self.gone:
            return (
                f"{who} {'is' if one else 'are'} gone, without an error message: "
                f"{'it' if one else 'they'} may have been killed, by the out-of-memory killer for example"
            )
        same = {hosts[rank] for rank in self.ranks} == {hosts[self.by]}
        why = (
            "stopped (SIGSTOP) or frozen" if same else "its host or the link to it is down, or it is stopped"
        )
        them = "it" if one else "them"
        return f"{who} can't be reached: nothing was heard of {them} for {self.seconds:.0f} s ({why})"


def waiting(ranks: Sequence[int], hosts: Sequence[str], seconds: float, timeout: float) -> str:
    """The message that says who is waited for."""
    left = max(0.0, timeout - seconds)
    it = "it is" if len(_names(ranks, hosts)) == 1 else "they are"
    return (
        f"waiting for {named(ranks, hosts)}: nothing heard for {seconds:.0f} s; {it} given up in "
        f"{math.ceil(left)} s (--peer-timeout)"
    )


def back(ranks: Sequence[int], hosts: Sequence[str], seconds: float) -> str:
    """The message that says who was heard again."""
    verb = "is" if len(_names(ranks, hosts)) == 1 else "are"
    return f"{named(ranks, hosts)} {verb} back after {seconds:.0f} s"


def named(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Processes as messages name them; a host by itself where all of its processes are meant.

    Args:
        ranks: Some processes.
        hosts: The hosts of all processes, in order of rank.
    """
    names = _names(ranks, hosts)
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _names(ranks: Sequence[int], hosts: Sequence[str]) -> list[str]:
    names, wanted = [], sorted(ranks)
    for host in dict.fromkeys(hosts[rank] for rank in wanted):
        own = [rank for rank in wanted if hosts[rank] == host]
        if len(own) > 1 and len(own) == list(hosts).count(host):
            names.append(f"host {host} ({shown_ranks(own)})")
        else:
            names += [rank_on_host(rank, host) for rank in own]
    return names
