"""Micro-batches that all processes of a run take in equal number, even where one runs out of them.

A data worker may die, a row may be bad, or a signal may end the wait, on one process alone. The others wait
in a collective then and can't be told. So this process goes on with its last micro-batch, which counts for
nothing, up to the next point where all processes exchange numbers; there all raise :class:`NoBatch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mdl_toolkit.errors import MdlError

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.distributed.group import Ranks


class NoBatch(Exception):  # noqa: N818 -- what has gone wrong is its cause
    """A process of the run has no further micro-batch; all processes raise this at the same point.

    Args:
        cause: Why this process has none; ``None`` where another process has none.
    """

    def __init__(self, cause: MdlError | None) -> None:
        self.cause = cause
        super().__init__(str(cause))


class SynchronizedBatches:
    """Takes micro-batches one by one; every process makes one at the same point of the run.

    Args:
        batches: The micro-batches of this process.
        ranks: The processes of the run.

    Raises:
        NoBatch: A process has not even a first micro-batch.

    Attributes:
        cause: Why this process has no further micro-batch; ``None`` while it has one.
    """

    def __init__(self, batches: Iterator[PackedBatch], ranks: Ranks) -> None:
        self._batches, self._alone = batches, ranks.world_size == 1
        self.cause: MdlError | None = None
        self._first = self._latest = self._fetch()
        if ranks.any(self.cause is not None):
            raise NoBatch(self.cause)

    def take(self) -> PackedBatch:
        """The next micro-batch; the last one again where there is no next one, and then ``cause`` is set.

        Raises:
            NoBatch: There is no next one, and this process is the only one of the run.
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
