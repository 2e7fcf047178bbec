"""What a process that ends before it has joined the others tells those who wait for it.

It leaves a notice in the launch's store; those who wait look for notices and end with the first one's cause.

torchrun's store outlives its processes, and with it the notices of earlier attempts. A process takes a notice
for one of its own attempt unless one of these is so:

- An attempt has been complete since (:meth:`Notices.forget`).
- A process of this host has ended for it already, or left it: whoever comes now is of a later attempt.
- It tells of a signal, and was there before this process looked first. torchrun sends signals to begin
  another attempt, too. A notice of a signal that comes while a process waits is believed after some seconds,
  within which torchrun would have ended that process as well.

For everything but signals a process leaves no notice where torchrun is going to start it again: that ends the
attempt of all (``early.py``).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from mdl_toolkit.distributed.environment import ProcessRank
from mdl_toolkit.distributed.hosts import host_name

#: Seconds between two looks for notices, and until a notice of a signal is believed under torchrun.
_LOOK_SECONDS, _BELIEVE_SECONDS = 0.25, 5.0


@dataclass(frozen=True)
class Notice:
    """Why a process ended before it had joined.

    Attributes:
        rank: Its rank.
        host: Its host.
        code: Its exit code.
        message: The cause, which begins with the name of the process.
        signal: Whether a signal has stopped it.
    """

    rank: int
    host: str
    code: int
    message: str
    signal: bool = False


def notice_of(process: ProcessRank, cause: str, code: int, signal: bool) -> Notice:
    """The notice of this process, in one line that begins with its name."""
    text = "; ".join(line.strip() for line in cause.splitlines() if line.strip())
    named = text if text.startswith(f"{process.name}: ") else f"{process.name}: {text}"
    return Notice(process.rank, host_name(), code, named, signal)


class OtherEnded(Exception):  # noqa: N818 -- the failure is another process's
    """Another process has ended before it had joined.

    Args:
        number: The number of the notice that it has left.
        notice: The notice.
        prints: Whether this process is the one of its host that prints it.
    """

    def __init__(self, number: int, notice: Notice, prints: bool) -> None:
        self.number, self.notice, self.prints = number, notice, prints
        super().__init__(notice.message)


class Notices:
    """The notices in a launch's store, as one process sees them from now on.

    Args:
        store: The store.
        of_agent: Whether it is torchrun's, which outlives its processes.
        host: The name of this host.
    """

    def __init__(self, store: Store, of_agent: bool, host: str | None = None) -> None:
        self._store, self._of_agent = PrefixStore("notices", store), of_agent
        self._host = host or host_name()
        self._at_arrival = self._store.add("count", 0)
        self._seen = max(self._number("over"), self._number(f"known/{self._host}")) if of_agent else 0
        self._open: set[int] = set()
        self._doubted: dict[int, float] = {}
        self._next = 0.0

    def raise_first(self) -> None:
        """Look for a notice, if it is time to look again.

        Raises:
            OtherEnded: There is one.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_SECONDS
        found = self._first()
        if found is None:
            return
        number, notice = found
        prints = self._store.add(f"printed/{number}/{self._host}", 1) == 1 and notice.host != self._host
        self._store.set(f"known/{self._host}", str(number))
        self._store.add(f"heard/{number}", 1)
        raise OtherEnded(number, notice, prints)

    def leave(self, notice: Notice) -> int | None:
        """Leave a notice, unless there is one already.

        Returns:
            Its number, for :meth:`wait_until_heard`; ``None`` where there is one already.
        """
        if (first := self._first()) is not None:
            self._store.add(f"heard/{first[0]}", 1)  # this process ends, too
            return None
        number: int = self._store.add("count", 1)
        self._store.set(f"notice/{number}", json.dumps(asdict(notice)))
        self._store.set(f"known/{self._host}", str(number))
        return number

    def wait_until_heard(self, number: int, others: int, until: float) -> None:
        """Wait until so many processes have ended for a notice, or until a time of ``time.monotonic()``."""
        while self._store.add(f"heard/{number}", 0) < others and time.monotonic() < until:
            time.sleep(0.05)

    def forget(self) -> None:
        """All processes have joined: no notice that is there concerns a process that is."""
        self._store.set("over", str(self._store.add("count", 0)))

    def _first(self) -> tuple[int, Notice] | None:
        count = self._store.add("count", 0)
        self._open |= set(range(self._seen + 1, count + 1))
        self._seen = max(self._seen, count)
        for number in sorted(self._open):
            # It is counted a moment before it is there, and never is if the process was killed in between.
            if not self._store.check([f"notice/{number}"]):
                continue
            notice = Notice(**json.loads(self._store.get(f"notice/{number}")))
            if not self._is_doubtful(number, notice):
                return number, notice
        return None

    def _is_doubtful(self, number: int, notice: Notice) -> bool:
        if not (notice.signal and self._of_agent):
            return False
        since = self._doubted.setdefault(number, time.monotonic())
        return number <= self._at_arrival or time.monotonic() < since + _BELIEVE_SECONDS

    def _number(self, key: str) -> int:
        return int(self._store.get(key)) if self._store.check([key]) else 0
