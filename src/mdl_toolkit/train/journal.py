"""Where a run's numbers go: ``metrics.jsonl``, the trackers, and the screen. On the main process alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mdl_toolkit.console import duration, say
from mdl_toolkit.memory import gib
from mdl_toolkit.train.metrics import MetricsLog
from mdl_toolkit.train.trackers import Trackers

if TYPE_CHECKING:
    from mdl_toolkit.train.distributed import Ranks


class Journal:
    """Takes a run's numbers.

    Args:
        log: ``metrics.jsonl``; ``None`` on processes that write nothing.
        trackers: Of ``--report-to``.
        every: Steps between lines on the screen.
        done: Steps made before this process began.
    """

    def __init__(
        self, log: MetricsLog | None, trackers: Trackers | None, every: int = 1, done: int = 0
    ) -> None:
        self._log, self._trackers, self._every, self._done = log, trackers, every, done
        self._began = time.monotonic()

    def evaluated(self, ranks: Ranks) -> bool:
        """Whether the run that is gone on with has made the evaluation at its end; all processes ask."""
        lines = self._log.kept if self._log is not None else []
        return ranks.any(any("eval_loss" in line and line["step"] == self._done for line in lines))

    def step(self, values: Mapping[str, Any], total_steps: int) -> None:
        """Numbers of an optimizer step."""
        self._write(values)
        number = values["step"]
        if number % self._every and number != total_steps:
            return
        elapsed = time.monotonic() - self._began
        left = elapsed / max(1, number - self._done) * (total_steps - number)
        say(
            f"step {number}/{total_steps}, epoch {values['epoch']:.2f}: loss {values['loss']:.4f}, "
            f"learning rate {values['learning_rate']:.3g}, grad norm {values['grad_norm']:.3g}, "
            f"{values['clips'] / max(values['seconds'], 1e-9):.1f} clips/s, {gib(values['memory'])}, "
            f"{duration(left)} left"
        )

    def evaluation(self, values: Mapping[str, Any]) -> None:
        """Numbers of an evaluation."""
        self._write(values)
        say(
            f"evaluation after step {values['step']}: loss {values['eval_loss']:.4f} on "
            f"{values['eval_rows']} rows in {duration(values['eval_seconds'])}"
        )

    def end(self, values: Mapping[str, Any], step: int) -> None:
        """Numbers of the whole run."""
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
        if self._log is not None:
            self._log.close()
        if self._trackers is not None:
            self._trackers.close()
