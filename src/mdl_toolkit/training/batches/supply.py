"""Micro-batches that may end before their time, on one process of many, which all must then do together.

A process that waits in a collective can't be told that another has no further batch. So that one goes on with
the last it had, as something that counts for nothing, to the next point where all talk to each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mdl_toolkit.errors import MdlError

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.distributed.group import Ranks


class NoBatch(Exception):  # noqa: N818 -- what has gone wrong is its cause
    """A process of the run has no further batch; raised by all of them, at the same point.

    Args:
        cause: Why this one has none; ``None`` where it is another's.
    """

    def __init__(self, cause: MdlError | None) -> None:
        self.cause = cause
        super().__init__(str(cause))


class Supply:
    """Takes micro-batches one by one. Made by every process at the same point.

    Args:
        batches: They.
        ranks: The processes of the run.

    Raises:
        NoBatch: A process has not even the first.

    Attributes:
        cause: Why there is no further batch on this process; ``None`` while there is one.
    """

    def __init__(self, batches: Iterator[PackedBatch], ranks: Ranks) -> None:
        self._batches, self._alone = batches, ranks.world_size == 1
        self.cause: MdlError | None = None
        self._first = self._latest = self._fetch()
        if ranks.any(self.cause is not None):
            raise NoBatch(self.cause)

    def take(self) -> PackedBatch:
        """The next micro-batch; where ``cause`` is set afterwards, only the last one again.

        Raises:
            NoBatch: There is none, and no other process to wait for.
        """
        if self._first is not None:
            self._first = None
        elif self.cause is None:
            self._latest = self._fetch() or self._latest
        if self.cause is not None and self._alone:
            raise NoBatch(self.cause)
        assert self._latest is not None, "asked for more batches than there were tasks"
        return self._latest

    def _fetch(self) -> PackedBatch | None:
        try:
            return next(self._batches, None)
        except MdlError as error:
            self.cause = error
            return None
