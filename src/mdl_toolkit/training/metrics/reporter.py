"""Reports a run's numbers to ``metrics.jsonl``, trackers and the screen, on the main process alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mdl_toolkit.files import ending_with
from mdl_toolkit.memory import gib
from mdl_toolkit.terminal.live_line import LIVE
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import Ticker, duration
from mdl_toolkit.training.metrics.file import MetricsLog
from mdl_toolkit.training.metrics.trackers import Trackers

if TYPE_CHECKING:
    pass

logger = get_logger(__name__)

#: Seconds between lines where nobody said how often: at first, and after hours.
_SHORTEST, _LONGEST = 10.0, 300.0


class Reporter:
    """Reports the numbers of a run.

    Args:
        log: The metrics file; ``None`` on processes that write nothing.
        trackers: The trackers of ``--report-to``.
        every: The number of steps from one printed line to the next. ``None``: a terminal has a live line
            only; a log file gets a line after the first step, after the last, and now and then in between,
            more rarely the longer the run takes.
        done: The number of steps that were made before this process began.
        same_evaluation: Whether evaluations before the run was resumed were on the same data, and scored the
            same answers. Else they are not taken for evaluations of this run.
    """

    def __init__(
        self,
        log: MetricsLog | None,
        trackers: Trackers | None,
        every: int | None = None,
        done: int = 0,
        *,
        same_evaluation: bool = True,
    ) -> None:
        self._log, self._trackers, self._every, self._done = log, trackers, every, done
        self._began = self._due = time.monotonic()
        self._live = Ticker()
        kept = log.kept if log is not None and same_evaluation else []
        self._known = [line for line in kept if "eval_loss" in line]
        last = self.evaluation_at(max((line["step"] for line in self._known), default=-1))
        self._validated: float | None = last["eval_loss"] if last is not None else None

    def evaluation_at(self, step: int) -> Mapping[str, Any] | None:
        """The evaluation that was made after a step before the run was resumed; ``None`` where there is none.

        Also ``None`` on processes that write nothing.
        """
        return next((line for line in self._known if line["step"] == step), None)

    @property
    def validated(self) -> float | None:
        """The loss of the last evaluation, be it one before the run was resumed."""
        return self._validated

    def step(self, values: Mapping[str, Any], total_steps: int) -> None:
        """Report the numbers of an optimizer step."""
        self._write(values)
        number = values["step"]
        elapsed = time.monotonic() - self._began
        left = elapsed / max(1, number - self._done) * (total_steps - number)
        rate = values["clips"] / max(values["seconds"], 1e-9)
        if self._prints(number, total_steps, elapsed):
            logger.info(
                f"step {number}/{total_steps}, epoch {values['epoch']:.2f}: loss {values['loss']:.4f}, "
                f"learning rate {values['learning_rate']:.3g}, grad norm {values['grad_norm']:.3g}, "
                f"{rate:.1f} clips/s, {gib(values['memory'])}, {duration(left)} left"
            )
        elif LIVE.possible() and self._live.due():
            self._live.show(
                f"step {number}/{total_steps} ({100 * number // total_steps} %), "
                f"loss {values['loss']:.4f}, {rate:.1f} clips/s, {duration(left)} left"
            )

    def _prints(self, number: int, total_steps: int, elapsed: float) -> bool:
        """Whether a line is printed for a step, not only the live line."""
        if number == total_steps:
            return True
        if self._every is not None:
            return number % self._every == 0
        now = time.monotonic()
        if LIVE.possible() or now < self._due:
            return False
        self._due = now + min(max(_SHORTEST, elapsed / 100), _LONGEST)
        return True

    def evaluation(self, values: Mapping[str, Any], words: str) -> None:
        """Report the numbers of an evaluation.

        Args:
            values: The numbers, by name.
            words: What is printed of them.
        """
        self._validated = values["eval_loss"]
        self._write(values)
        if values["step"] == self._done:
            self._began = time.monotonic()  # it says nothing of how long steps take
        when = f"after step {values['step']}" if values["step"] else "before the first step"
        logger.info(f"evaluation {when}: {words} in {duration(values['eval_seconds'])}")

    def end(self, values: Mapping[str, Any], step: int) -> None:
        """Report the numbers of the whole run."""
        if self._log is not None:
            self._log.write(values)
        if self._trackers is not None:
            self._trackers.log(values, step)

    def _write(self, values: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.write(values)
        if self._trackers is not None:
            self._trackers.log(values, values["step"])

    def close(self) -> None:
        """Close the file and finish the trackers."""
        with ending_with(self._trackers.close) if self._trackers is not None else nullcontext():
            if self._log is not None:
                self._log.close()
