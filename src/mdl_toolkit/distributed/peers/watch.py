"""The other processes of a run, watched from one of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from mdl_toolkit.distributed.hosts import host_name
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.peers.pulse import Hub, Spoke
from mdl_toolkit.distributed.peers.silence import Change, Loss, back, named, waiting
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger

T = TypeVar("T")

logger = get_logger(__name__)

#: Seconds of silence after which a process is given up, where nobody said otherwise: longer than any pause
#: that a healthy run makes.
PEER_TIMEOUT = 120.0


class Exchange(Protocol):
    """What is used of a run's processes while the watch is set up."""

    rank: int
    hosts: tuple[str, ...]

    def broadcast_object(self, value: T) -> T:
        """The value of rank 0, on every process."""

    def gather_objects(self, value: T) -> list[T]:
        """The values of all processes in order of rank, on every process."""


class Peers:
    """Watches the other processes; says who is waited for, and knows who is lost.

    Every process makes it at the same point of the run. What counts is rank 0's timeout.

    Args:
        ranks: The processes.
        launch: The launch.
        timeout: Seconds of silence after which a process is given up.
        on_loss: Called in a thread when processes are lost, once.

    Attributes:
        loss: Who is lost; ``None`` as long as nobody is.
    """

    def __init__(
        self, ranks: Exchange, launch: Launch, timeout: float, on_loss: Callable[[Loss], None]
    ) -> None:
        self._rank, self._hosts, self._on_loss = ranks.rank, ranks.hosts, on_loss
        self._timeout = timeout
        self._known = threading.Event()
        self.loss: Loss | None = None
        hub = Hub(timeout, self._told) if ranks.rank == 0 else None
        if hub is not None:
            hub.start()
        where = (hub.port, hub.token, host_name(), timeout) if hub is not None else None
        port, token, name, self._timeout = ranks.broadcast_object(where)  # type: ignore[misc]
        self._pulse: Hub | Spoke
        if hub is not None:
            self._pulse, connected = hub, True
        else:
            self._pulse = spoke = Spoke(ranks.rank, port, token, self._told)
            # Where rank 0 is on this host, the name by which others find it may lead nowhere from here.
            near = ["127.0.0.1", "::1"] if launch.node == 0 else []
            connected = spoke.connect([*near, os.environ["MASTER_ADDR"], name])
            if connected:
                spoke.start()
        deaf = [rank for rank, hears in enumerate(ranks.gather_objects(connected)) if not hears]
        if deaf:
            logger.warning(
                f"{named(deaf, self._hosts)} can't reach port {port} of host {name}, where rank 0 is: let "
                "all ports through between the hosts. The run goes on, but would notice their loss late"
            )

    @property
    def hears(self) -> bool:
        """Whether this process hears the others, so that it would notice their loss."""
        return isinstance(self._pulse, Hub) or self._pulse.connected

    def message(self) -> str:
        """Who is lost, as the beginning of a message."""
        assert self.loss is not None
        return self.loss.message(self._hosts, self._rank)

    def end(self) -> None:
        """Say that this process is done: nobody misses it from now on."""
        self._pulse.end()

    def loss_within(self, seconds: float) -> Loss | None:
        """Who is lost, after waiting so long for the others to be missed."""
        self._known.wait(seconds)
        return self.loss

    def wait_for_main(self, seconds: float) -> None:
        """Wait until rank 0 has ended, up to some seconds: it may still be saving.

        A launcher ends all processes of its host as soon as it sees one fail.
        """
        if isinstance(self._pulse, Spoke) and self._pulse.connected:
            self._pulse.main_ended.wait(seconds)

    def speaks(self) -> bool:
        """Whether this process prints what concerns its host: it is the first one there that isn't lost."""
        return self._speaks(self.loss.ranks if self.loss is not None else ())

    def _speaks(self, lost: tuple[int, ...]) -> bool:
        own = self._hosts[self._rank]
        here = [rank for rank, host in enumerate(self._hosts) if host == own and rank not in lost]
        return self._rank == min(here, default=self._rank)

    def _told(self, change: Change, by: int) -> None:
        if self.loss is not None:
            return
        if change.kind in ("silent", "gone"):
            self.loss = Loss(change.ranks, change.kind == "gone", change.seconds, by)
            self._known.set()
            threading.Thread(target=self._on_loss, args=(self.loss,), name="peer-loss", daemon=True).start()
        elif self._speaks(change.ranks):
            if change.kind == "quiet":
                line = waiting(change.ranks, self._hosts, change.seconds, self._timeout)
            else:
                line = back(change.ranks, self._hosts, change.seconds)
            logger.info(line, extra=EVERYWHERE)
