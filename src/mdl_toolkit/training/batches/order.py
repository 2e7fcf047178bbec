"""Which step comes when: whole and fractional epochs, a fixed number of steps, the place to go on from."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


class Step(Protocol):
    """What one optimizer step works on; see ``data/batching/plan.py``."""

    @property
    def micro(self) -> Sequence[Sequence[int]]:
        """Sample indices of each rank × accumulation slot; a slot can be empty."""

    @property
    def supervised(self) -> int:
        """Supervised tokens of all slots together."""

    @property
    def first_sample(self) -> int:
        """Where the step's samples begin in its epoch's stream."""

    @property
    def next_sample(self) -> int:
        """Where the samples of the step after it begin."""


class Plan(Protocol):
    """The order of the data; see ``data/batching/plan.py``."""

    @property
    def batch_size(self) -> int | None:
        """Clips of a micro-batch, where that is fixed: then whole epochs have equally many steps."""

    def __len__(self) -> int:
        """Samples of an epoch."""

    def epoch(self, epoch: int, first_sample: int = 0) -> Sequence[Step]:
        """The steps of an epoch, from a place of its stream on."""


@dataclass(frozen=True)
class Place:
    """Where a run stands in its data: the next step begins at this sample of this epoch's stream."""

    epoch: int = 0
    first_sample: int = 0


@dataclass(frozen=True)
class Scheduled:
    """A step with its place in the run.

    Attributes:
        number: Optimizer steps made when this one is done; the first step is 1.
        step: What it works on.
        epoch: Epochs seen when it is done, in parts of an epoch's samples.
        after: Where the step after it begins.
    """

    number: int
    step: Step
    epoch: float
    after: Place


class RunOrder:
    """All steps that are still to be made, in order.

    Args:
        plan: The order of the data.
        num_epochs: Passes over the data; a last, broken one makes its share of an epoch's steps, rounded up.
        max_steps: Where given, the steps of the run, however many passes that takes.
        place: Where to begin.
        done: Steps made before.
    """

    def __init__(
        self,
        plan: Plan,
        num_epochs: float,
        max_steps: int | None = None,
        place: Place | None = None,
        done: int = 0,
    ) -> None:
        self._plan, self._num_epochs, self._max_steps = plan, num_epochs, max_steps
        self._place, self._done = place or Place(), done
        self.total_steps = self._count()

    def _steps(self, epoch: int) -> tuple[Sequence[Step], int]:
        """The steps of an epoch that are still to be made, and how many of them the run makes."""
        first = self._place.first_sample if epoch == self._place.epoch else 0
        steps = self._plan.epoch(epoch, first)
        share = self._num_epochs - epoch
        if self._max_steps is not None or share >= 1:
            return steps, len(steps)
        whole = self._plan.epoch(epoch) if first else steps
        made = math.ceil(share * len(whole) - 1e-9)  # 0.1 of 10 is not exactly 1 in binary
        end = whole[made].first_sample if made < len(whole) else len(self._plan)
        return steps, bisect_left(steps, end, key=lambda step: step.first_sample)

    def _count(self) -> int:
        if self._max_steps is not None:
            return max(self._max_steps, self._done)
        total, each = self._done, None
        for epoch in range(self._place.epoch, math.ceil(self._num_epochs)):
            whole = epoch > self._place.epoch and epoch + 1 <= self._num_epochs
            if whole and each is not None:
                total += each
                continue
            count = self._steps(epoch)[1]
            total += count
            if whole and self._plan.batch_size is not None:
                each = count
        return total

    def __len__(self) -> int:
        return self.total_steps - self._done

    def __iter__(self) -> Iterator[Scheduled]:
        number, rows = self._done, len(self._plan)
        for epoch in itertools.count(self._place.epoch):
            if number >= self.total_steps:
                return
            steps, count = self._steps(epoch)
            for step in itertools.islice(steps, min(count, self.total_steps - number)):
                number += 1
                after = step.next_sample
                place = Place(epoch, after) if after < rows else Place(epoch + 1, 0)
                yield Scheduled(number, step, epoch + after / rows, place)
