"""The loss on a set of evaluation data: every row exactly once, whatever the number of processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mdl_toolkit.terminal.progress import Progress
from mdl_toolkit.training.batches.synchronized import NoBatch, SynchronizedBatches
from mdl_toolkit.training.evaluation.sets import Load
from mdl_toolkit.training.evaluation.together import agree, is_interrupted
from mdl_toolkit.training.signals import StopSignals

if TYPE_CHECKING:
    from torch import Tensor

    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.errors import MdlError
    from mdl_toolkit.training.trainable.wrap import Wrapped


def evaluation_batches(data: ClipDataset, batch_size: int, max_tokens: int | None) -> list[tuple[int, ...]]:
    """Divide all rows into batches of like length, the longest first; the same for any number of processes.

    Args:
        data: The evaluation data.
        batch_size: The number of rows of a batch.
        max_tokens: The number of decoder tokens that a batch has at most; it replaces ``batch_size``. A
            longer row gets a batch of its own.
    """
    order = np.argsort(-data.tokens, kind="stable").tolist()
    if max_tokens is None:
        return [tuple(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    batches: list[tuple[int, ...]] = []
    current: list[int] = []
    used = 0
    for index in order:
        tokens = int(data.tokens[index])
        if current and used + tokens > max_tokens:
            batches.append(tuple(current))
            current, used = [], 0
        current.append(index)
        used += tokens
    return [*batches, tuple(current)] if current else batches


def share_of(batches: Sequence[tuple[int, ...]], rank: int, world_size: int) -> list[tuple[int, ...]]:
    """The batches of one process: every ``world_size``-th, so that all have like work."""
    return list(batches[rank::world_size])


class LossOfSet:
    """Measures the loss on all rows of a dataset.

    Args:
        data: The evaluation data.
        load: Turns tuples of rows into micro-batches, in order.
        ranks: The processes of the run.
        batch_size: The number of rows of a micro-batch.
        max_tokens: The number of decoder tokens that a micro-batch has at most; it replaces ``batch_size``.
    """

    def __init__(
        self,
        data: ClipDataset,
        load: Load,
        ranks: Ranks,
        batch_size: int,
        max_tokens: int | None = None,
    ) -> None:
        self._ranks, self._load = ranks, load
        batches = evaluation_batches(data, batch_size, max_tokens)
        self._own = share_of(batches, ranks.rank, ranks.world_size)
        self._rounds = math.ceil(len(batches) / ranks.world_size)
        self._filler = batches[-1]  # the shortest rows
        self._supervised = int(data.supervised.sum())

    def __call__(self, wrapped: Wrapped, signals: StopSignals | None = None) -> float:
        """The mean cross-entropy of all supervised tokens, the same number on every process.

        Args:
            wrapped: The model, in evaluation mode.
            signals: The signals that ask the run to stop. One that comes to any process ends the evaluation
                on all of them, before their next batch.

        Raises:
            EvaluationDropped: Such a signal came.
            NoBatch: A process has no further batch.
        """
        tasks = list(self._own)
        if wrapped.lockstep:
            # All processes have to make the same number of passes; these further ones are not counted.
            tasks += [self._filler] * (self._rounds - len(tasks))
        losses, cause = self._losses(wrapped, tasks, signals)
        total = math.fsum(float(loss) for loss in losses[: len(self._own)])
        return agree(self._ranks, signals, cause, total, done=True) / self._supervised

    def _losses(
        self, wrapped: Wrapped, tasks: list[tuple[int, ...]], signals: StopSignals | None
    ) -> tuple[list[Tensor], MdlError | None]:
        """The losses of this process's batches, and why it has no more of them, if so."""
        losses: list[Tensor] = []
        progress = Progress("evaluating", len(tasks), "batches", every=60.0)
        with closing(self._load(tasks, partial(is_interrupted, self._ranks, signals))) as loading:
            try:
                batches = SynchronizedBatches(loading, self._ranks)
            except NoBatch as missing:
                agree(self._ranks, signals, missing.cause, done=True)  # it may be for a signal
                raise
            for task in range(self._rounds):
                # Where a pass is everyone's work, it is made to the end by all.
                agree(self._ranks, signals, batches.cause, done=not wrapped.lockstep)
                if task < len(tasks):
                    batch = batches.take()
                    if batches.cause is None or wrapped.lockstep:
                        losses.append(wrapped.loss_sum(batch))
                        progress.update()
        progress.clear()
        return losses, batches.cause
