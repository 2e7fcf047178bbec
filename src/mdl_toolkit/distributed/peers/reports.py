"""What processes of a run report of their own failures: the first one's cause, in the group's store."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar

from torch.distributed import Store  # type: ignore[attr-defined]

from mdl_toolkit.compat.torchrun import agent_serves_store
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.peers.silence import Loss

T = TypeVar("T")

_CLAIM, _CAUSE, _HEARD = "failure/claim", "failure/cause", "failure/heard"
#: Seconds that a process gets to end by itself once another one has failed.
GRACE = 5.0
#: Seconds that the store gets to answer a process that is ending: on a host that is cut off it never does.
_STORE_SECONDS = 5.0


@dataclass(frozen=True)
class Failure:
    """What the first process that failed reports to the others.

    Attributes:
        rank: The rank of the process.
        node: The number of its machine.
        code: Its exit code.
        message: What went wrong.
    """

    rank: int
    node: int
    code: int
    message: str


class Reports:
    """Reports of failures, of which the first one counts.

    Args:
        store: The store, or a part of it.
        launch: The launch.

    Attributes:
        silent: Whether the store has stopped answering: it isn't asked again.
    """

    def __init__(self, store: Store, launch: Launch) -> None:
        self._store, self._launch = store, launch
        self._heard: Failure | None = None
        self.silent = False

    def are_there(self) -> bool:
        """Whether a process has reported a failure. It may wait for ever, where the store can't be reached.

        Raises:
            RuntimeError: The store is gone.
        """
        there: bool = self._store.check([_CAUSE])
        return there

    def report(self, code: int, message: str, loss: Loss | None = None) -> Failure | None:
        """Report to the others why this process failed.

        Args:
            code: The exit code of this process.
            message: What went wrong.
            loss: Who is lost, and hears of nothing.

        Returns:
            The failure of the process that failed first, if that isn't this one.
        """
        failure = Failure(self._launch.rank, self._launch.node, code, message)

        def claim() -> bool:
            first: bool = self._store.add(_CLAIM, 1) == 1
            if first:
                self._store.set(_CAUSE, json.dumps(asdict(failure)))
                self._wait_until_heard(loss)
            return first

        if self._ask(claim, loss, GRACE + _STORE_SECONDS) is False:
            return self.first(GRACE, loss)
        return self._heard  # without the store every process reports for itself what it knows

    def first(self, patience: float, loss: Loss | None = None) -> Failure | None:
        """The first failure that a process has reported.

        Args:
            patience: Seconds to wait for one.
            loss: Who is lost.
        """
        until = time.monotonic() + patience
        while self._heard is None:
            reported = self._ask(self.are_there, loss)
            if reported:
                return self._ask(self._hear, loss)
            if reported is None or time.monotonic() >= until:
                return None
            time.sleep(0.1)
        return self._heard

    def _hear(self) -> Failure:
        failure = Failure(**json.loads(self._store.get(_CAUSE)))
        if failure.rank != self._launch.rank and self._heard is None:
            self._heard = failure
            self._store.add(_HEARD, 1)
        return failure

    def _wait_until_heard(self, loss: Loss | None) -> None:
        """Wait until the others have read the report: the store may end with rank 0, or with its launcher."""
        if self._launch.rank != 0 or (agent_serves_store() and self._launch.nodes == 1):
            return
        others = self._launch.world_size - 1 - (len(loss.ranks) if loss is not None else 0)
        until = time.monotonic() + GRACE
        while self._store.add(_HEARD, 0) < others and time.monotonic() < until:
            time.sleep(0.1)

    def _ask(self, call: Callable[[], T], loss: Loss | None, seconds: float = _STORE_SECONDS) -> T | None:
        """The result of a call of the store; ``None`` where the store is gone or can't be reached.

        A call that gets no answer never returns. After one such no other is made.
        """
        if self.silent or (loss is not None and not loss.gone and 0 in loss.ranks):
            return None
        found: list[T] = []

        def work() -> None:
            with contextlib.suppress(RuntimeError):
                found.append(call())

        thread = threading.Thread(target=work, name="store-call", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no memory, or no process id, for another thread
            work()
        else:
            thread.join(seconds)
            self.silent = thread.is_alive()
        return found[0] if found else None
