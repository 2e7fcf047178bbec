"""Learning rates by step, and the steps at which something is due. Formulas of the Transformers trainer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mdl_toolkit.settings import TrainSettings


def learning_rate_factor(kind: str, step: float, warmup_steps: int, total_steps: int) -> float:
    """The share of the peak learning rate that a step uses.

    Args:
        kind: ``linear``, ``cosine`` or ``constant``; each begins after a linear warm-up.
        step: The number of updates made before this one. The first step of a warm-up therefore has rate 0.
        warmup_steps: The number of steps of the warm-up.
        total_steps: The number of steps of the whole run.
    """
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if kind == "constant":
        return 1.0
    rest = max(1, total_steps - warmup_steps)
    if kind == "linear":
        return max(0.0, (total_steps - step) / rest)
    if kind == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / rest)))
    raise AssertionError(f"no schedule {kind!r}")


def interval(value: float, total_steps: int) -> int:
    """Steps from one save or evaluation to the next; a value below 1 is a share of the run."""
    return max(1, math.ceil(total_steps * value) if value < 1 else int(value))


@dataclass(frozen=True)
class LearningRates:
    """The learning rate of every step of a run, also of a run that is resumed with another number of steps.

    Attributes:
        kind: ``linear``, ``cosine`` or ``constant``.
        peak: The highest learning rate, which the warm-up ends with.
        warmup_steps: The number of steps of the warm-up, where ``warmup_ratio`` is ``None``.
        total: The length of the schedule.
        start_step: The number of steps made before this process began.
        start_position: The position of the next step in the schedule at that time.
        pace: The positions from one step to the next: 1, unless the rest of the schedule has to fit another
            number of steps, as with another number of processes.
        warmup_ratio: The warm-up as a share of the schedule, rounded up to steps. A share below 1 leaves at
            least one step after the warm-up.
    """

    kind: str
    peak: float
    warmup_steps: int
    total: int
    start_step: int = 0
    start_position: float = 0.0
    pace: float = 1.0
    warmup_ratio: float | None = None

    @classmethod
    def of(cls, settings: TrainSettings, total: int) -> LearningRates:
        """Those of a run that begins, by its settings.

        Args:
            settings: The settings of the run.
            total: The length of the schedule, in steps.
        """
        return cls(
            settings.lr_scheduler,
            settings.lr,
            settings.warmup_steps,
            total,
            warmup_ratio=settings.warmup_ratio,
        )

    @property
    def warmup(self) -> int:
        """Length of the warm-up, in positions of the schedule."""
        if self.warmup_ratio is None:
            return self.warmup_steps
        steps = math.ceil(self.warmup_ratio * self.total - 1e-9)  # 0.1 of 70 is not exactly 7 in binary
        # A part of a run is never all of it, which in a run of one step would be without any learning.
        return steps if self.warmup_ratio == 1 else min(steps, self.total - 1)

    def position(self, done: int) -> float:
        """Where in the schedule the step after ``done`` steps is."""
        return self.start_position + (done - self.start_step) * self.pace

    def rate(self, done: int) -> float:
        """The learning rate of the step after ``done`` steps."""
        return self.peak * learning_rate_factor(self.kind, self.position(done), self.warmup, self.total)

    def highest_in_warmup(self, steps: int) -> float | None:
        """The highest learning rate of a run that ends before its warm-up; ``None`` where the warm-up ends.

        Args:
            steps: The number of steps of the whole run.
        """
        if steps <= self.start_step or self.position(steps - 1) >= self.warmup:
            return None
        return self.rate(steps - 1)

    def resumed(self, done: int, position: float, total: int, new_total: int, stretch: bool) -> LearningRates:
        """The schedule of a resumed run.

        Args:
            done: The number of steps made.
            position: The position of the next step in the schedule.
            total: The length of the schedule before.
            new_total: The number of steps that the whole run has now.
            stretch: Whether the rest of the old schedule is spread over the steps that are left (the same run
                cut into other steps) rather than the new length taken (a run made longer or shorter).
        """
        if new_total == total or not stretch:
            return replace(self, total=new_total, start_step=done, start_position=position, pace=1.0)
        pace = (total - position) / max(1, new_total - done)
        return replace(self, total=total, start_step=done, start_position=position, pace=pace)
