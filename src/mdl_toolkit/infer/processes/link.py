"""What the processes of several hosts tell each other, over the key-value store at which they meet.

A value is told once, under a name, and heard by whoever waits for it. There are no collectives: a process
that is busy keeps nobody from going on with its own rows. On one host there is no link, as files do there.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch.distributed import Store  # type: ignore[attr-defined]

from mdl_toolkit.distributed.failure import FailureWatch, end_together
from mdl_toolkit.distributed.hosts import host_name, rank_on_host
from mdl_toolkit.distributed.joining.meeting import meet, meeting
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.peers.watch import PEER_TIMEOUT
from mdl_toolkit.distributed.rendezvous import export_address
from mdl_toolkit.distributed.waiting import WaitingMessage
from mdl_toolkit.errors import PeerLostError
from mdl_toolkit.infer.processes.peer import Peer
from mdl_toolkit.infer.processes.waiting import until
from mdl_toolkit.terminal.progress import duration

#: Seconds between two signs of life at most, and how many of them come in the time after which a process that
#: gives none counts as lost.
_BEAT_SECONDS, _BEATS = 5.0, 4
#: Seconds that rank 0 gives the others to hear its last word: the store may end with its process.
_LAST_WORD_SECONDS = 10.0


class Link:
    """The other processes of a launch on several hosts, seen from one of them.

    Args:
        store: The part of the launcher's store that belongs to this start.
        peer: This process.
        failed: Whether another process has reported a failure.
        patience: Seconds without a sign of life until a process counts as lost to those who wait for it.
    """

    def __init__(
        self,
        store: Store,
        peer: Peer,
        failed: Callable[[], object] = lambda: None,
        patience: float = PEER_TIMEOUT,
    ) -> None:
        self.peer, self._store, self._failed, self._patience = peer, store, failed, patience
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._ended = threading.Event()
        self.tell(f"host/{peer.rank}", host_name())
        self._thread = threading.Thread(target=self._give_signs_of_life, name="signs-of-life", daemon=True)
        self._thread.start()

    @property
    def others(self) -> range:
        """The ranks of all processes but rank 0."""
        return range(1, self.peer.world_size)

    def name(self, rank: int) -> str:
        """A process as messages name it."""
        key = f"host/{rank}"
        return rank_on_host(rank, self.hear(key, rank) if self._store.check([key]) else "not known yet")

    def host(self, rank: int) -> str:
        """The name of a process's host; waits until that process has told it."""
        return str(self.hear(f"host/{rank}", rank))

    def tell(self, name: str, value: Any) -> None:
        """Tell all who ask for it a value that JSON can express."""
        self._store.set(name, json.dumps(value))

    def hear(self, name: str, rank: int, what: str = "to begin") -> Any:
        """The value that a process tells under a name; waits for it.

        Args:
            name: The value's name.
            rank: The process that tells it.
            what: What that process is waited for to do, for the message that says so now and then.

        Raises:
            PeerLostError: Nothing is heard of that process any more.
        """
        self.wait(lambda: self._store.check([name]), lambda: [rank], what)
        return json.loads(self._store.get(name))

    def wait(
        self,
        done: Callable[[], bool],
        ranks: Callable[[], Sequence[int]],
        what: str,
        about: Callable[[int], str] = lambda _: "",
        news: Callable[[], object] = lambda: None,
    ) -> None:
        """Wait for something that other processes do.

        Args:
            done: Whether it is done.
            ranks: The processes that are waited for.
            what: What they are waited for to do.
            about: What to add to a rank's name.
            news: A value that changes as they go on.

        Raises:
            PeerLostError: Nothing is heard of one of them any more.
        """

        def look() -> None:
            if self._failed():
                raise PeerLostError("another process has failed")  # which end_together tells with its cause
            for rank in ranks():
                self._check(rank)

        def who() -> list[str]:
            return [f"{self.name(rank)}{about(rank)}" for rank in ranks()]

        until(done, who, what, news, look)

    def send(self, number: int, line: str) -> None:
        """Send a line to rank 0; ``number`` counts the lines of this process."""
        self._store.set(f"line/{self.peer.rank}/{number}", line)

    def receive(self, rank: int, number: int) -> bytes | None:
        """On rank 0: a line that a process has sent; ``None`` where it has not come yet."""
        key = f"line/{rank}/{number}"
        if not self._store.check([key]):
            return None
        line: bytes = self._store.get(key)
        self._store.delete_key(key)
        return line

    def last_word(self, value: Any) -> None:
        """On rank 0: tell a last value, and wait a moment until the others have heard it."""
        self.tell("last", value)
        until_when = time.monotonic() + _LAST_WORD_SECONDS
        while self._store.add("heard", 0) < len(self.others) and time.monotonic() < until_when:
            time.sleep(0.05)

    def hear_last_word(self) -> Any:
        """On the others: rank 0's last value."""
        value = self.hear("last", 0, "to write the output")
        self._store.add("heard", 1)
        return value

    def close(self) -> None:
        """Give no more signs of life."""
        self._ended.set()
        self._thread.join(_BEAT_SECONDS)  # a store that can't be reached doesn't answer it

    def _give_signs_of_life(self) -> None:
        count = 0
        while not self._ended.wait(min(_BEAT_SECONDS, self._patience / _BEATS)):
            count += 1
            with suppress(RuntimeError):  # that the store is lost is noticed elsewhere
                self._store.set(f"alive/{self.peer.rank}", str(count))

    def _check(self, rank: int) -> None:
        """Notice that nothing is heard of a process any more."""
        key, now = f"alive/{rank}", time.monotonic()
        sign = self._store.get(key) if self._store.check([key]) else b""
        before, since = self._seen.get(rank, (None, now))
        if sign != before:
            self._seen[rank] = (sign, now)
        elif now - since > self._patience:
            raise PeerLostError(
                f"nothing was heard of {self.name(rank)} for {duration(self._patience)} (--peer-timeout): it "
                "was killed, is frozen, or its host can't be reached. What was done is kept: start the same "
                "command again"
            )


def fresh_mark() -> str:
    """A name that no other start has."""
    return uuid.uuid4().hex


@contextmanager
def linked(peer: Peer, patience: float) -> Iterator[Link | None]:
    """Join the processes of other hosts for the block, and end with them: one that fails ends all.

    Args:
        peer: This process.
        patience: Seconds without a sign of life until another one counts as lost.

    Yields:
        The link; ``None`` where all processes are on one host, or nothing says where to meet.

    Raises:
        MdlError: The others could not be reached.
    """
    if peer.local_world_size == peer.world_size or not os.environ.get("MASTER_ADDR"):
        with peer.named_errors():
            yield None
        return
    launch = Launch(**vars(peer))
    store = _meet(launch)
    watch = FailureWatch(store, launch)
    watch.start()
    with end_together(watch):
        link = Link(store, peer, lambda: watch.first(0.0), patience)
        yield link
        link.close()
    watch.stop()


def _meet(launch: Launch) -> Store:
    environ = dict(os.environ)  # before it is completed: what the person or the launcher has set
    address = export_address(launch)
    waiting = WaitingMessage(f"at {address}", environ)
    with meeting(launch, address):
        return meet(launch, waiting, waiting)[0]
