"""What the numbers of a run's evaluations are of: those of other data or other answers can't be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: The options that decide which answers are scored, and how.
_ANSWERING = ("eval_generate", "eval_task", "eval_max_new_tokens")


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """What evaluations measure on.

    Attributes:
        data: The fingerprint of the evaluation data.
        answers: The options that decide which answers are scored, and how; empty where none are made.
    """

    data: str | None
    answers: Mapping[str, Any]

    @classmethod
    def of(cls, data: str | None, options: Mapping[str, Any]) -> Yardstick:
        """The yardstick of a run.

        Args:
            data: The fingerprint of its evaluation data.
            options: Its settings.
        """
        answers = {name: options.get(name) for name in _ANSWERING}
        return cls(data=data, answers={} if answers["eval_generate"] is None else answers)

    def agrees(self, other: Yardstick, metric: str) -> bool:
        """Whether the values of a metric by both can be compared.

        The loss is of all rows, whichever are answered.

        Args:
            other: The other one.
            metric: The metric, as in ``metrics.jsonl``.
        """
        if self.data != other.data:
            return False
        return metric.partition("/")[0] == "eval_loss" or self.answers == other.answers
