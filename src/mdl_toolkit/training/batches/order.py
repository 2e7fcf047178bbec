"""The order of a run's steps, also of a resumed one: epochs, ``max_steps``, and the sample to resume at.

How a step is split over ranks isn't decided here: ``data/batching/plan.py`` cuts an epoch's stream of clips
into steps, and each step's clips into one micro-batch for each rank and accumulation step (``Step.micro``).
``training/steps/loop.py`` takes the micro-batches of its own rank. Between them, :class:`RunOrder` says
which step is next.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mdl_toolkit.data.batching.balance import Costs
from mdl_toolkit.data.batching.plan import Plan, Step

if TYPE_CHECKING:
    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.settings import TrainSettings


def plan_steps(settings: TrainSettings, ranks: Ranks, data: ClipDataset, config: Mapping[str, Any]) -> Plan:
    """How the epochs of a run are cut into steps and micro-batches.

    Args:
        settings: The settings of the run.
        ranks: The processes of the run.
        data: The training data.
        config: The model's configuration, by which rows are weighed.
    """
    return Plan(
        data.tokens,
        data.samples,
        data.supervised,
        seed=settings.seed,
        micro_batches=ranks.world_size * settings.gradient_accumulation_steps,
        batch_size=None if settings.max_tokens else settings.batch_size,
        max_tokens=settings.max_tokens,
        geometry=data.geometry,
        costs=Costs.from_config(config),
    )


@dataclass(frozen=True)
class DataPosition:
    """Where in its data a run stands: the next step begins at this sample of this epoch's stream."""

    epoch: int = 0
    first_sample: int = 0


@dataclass(frozen=True)
class Scheduled:
    """A step with its number in the run.

    Attributes:
        number: Number of optimizer steps that are made when this one is done; the first step is 1.
        step: The clips of the step, and how they are divided.
        epoch: Number of epochs that are done after the step, as a fraction.
        after: Where the next step begins.
    """

    number: int
    step: Step
    epoch: float
    after: DataPosition


class RunOrder:
    """All steps of a run that are still to be made, in order. It is the same on every process.

    Args:
        plan: The steps of each epoch.
        num_epochs: The number of passes over the data. Of a last, partial epoch its share of the epoch's
            steps is made, rounded up.
        max_steps: The number of steps of the run, however many passes that takes; it replaces
            ``num_epochs``.
        position: Where to begin; where the data begins if it is not given.
        done: The number of steps made before.

    Attributes:
        total_steps: The number of steps of the whole run, those made before included.
    """

    def __init__(
        self,
        plan: Plan,
        num_epochs: float,
        max_steps: int | None = None,
        position: DataPosition | None = None,
        done: int = 0,
    ) -> None:
        self._plan, self._num_epochs, self._max_steps = plan, num_epochs, max_steps
        self._position, self._done = position or DataPosition(), done
        self.total_steps = self._count()

    def _steps(self, epoch: int) -> tuple[Sequence[Step], int]:
        """The steps of an epoch that are still to be made, and how many of them the run makes."""
        first = self._position.first_sample if epoch == self._position.epoch else 0
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
        for epoch in range(self._position.epoch, math.ceil(self._num_epochs)):
            whole = epoch > self._position.epoch and epoch + 1 <= self._num_epochs
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
        for epoch in itertools.count(self._position.epoch):
            if number >= self.total_steps:
                return
            steps, count = self._steps(epoch)
            for step in itertools.islice(steps, min(count, self.total_steps - number)):
                number += 1
                after = step.next_sample
                position = DataPosition(epoch, after) if after < rows else DataPosition(epoch + 1, 0)
                yield Scheduled(number, step, epoch + after / rows, position)
