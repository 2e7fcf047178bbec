"""How the evaluations of a run stand: which one was the best, and how many have been no better since."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.score_names import is_lower_better

#: What ``--early-stopping`` goes by where no metric is named: every evaluation has it.
_DEFAULT = "eval_loss"


def chosen_metric(settings: TrainSettings) -> str | None:
    """The metric that decides, as ``metrics.jsonl`` has it; ``None`` where the run keeps no ``best/``.

    ``--early-stopping`` keeps ``best/`` too: the last model of such a run is worse than its best one.
    """
    name = settings.metric_for_best
    if name is None:
        return _DEFAULT if settings.early_stopping is not None else None
    return name if name.startswith("eval_") else f"eval_{name}"


def is_better(metric: str, value: float, than: float | None) -> bool:
    """Whether a value is strictly better than another one; a value that isn't finite never is.

    Args:
        metric: The metric, as in ``metrics.jsonl``; its name says whether lower is better.
        value: The value.
        than: The other one; ``None`` where there is none.
    """
    if not math.isfinite(value):
        return False
    return than is None or (value < than if is_lower_better(metric) else value > than)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How the evaluations of a run stand by one metric. It is part of the state that a checkpoint keeps.

    Attributes:
        metric: The metric, as in ``metrics.jsonl``; ``None`` where none has been counted.
        step: The step of the best evaluation; 0 where none had a finite value.
        value: Its value.
        since: The number of evaluations after it, which were no better.
        counted: The step of the last evaluation that was counted.
    """

    metric: str | None = None
    step: int = 0
    value: float | None = None
    since: int = 0
    counted: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Standing:
        """The standing in the state of a checkpoint; an empty one where that has none.

        Raises:
            TypeError: It isn't one.
        """
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            raise TypeError("standing: a mapping expected")
        made = cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
        numbers = (made.step, made.since, made.counted, made.value or 0.0)
        if not isinstance(made.metric, str | None) or not all(isinstance(n, int | float) for n in numbers):
            raise TypeError("standing: numbers and a name expected")
        return made

    def after(self, metric: str, step: int, value: float) -> Standing:
        """The standing after a further evaluation. Of equal values the earlier one stays the best.

        Args:
            metric: The metric; where it isn't that of the standing, all is counted anew.
            step: The step of the evaluation. One that has been counted is not counted again.
            value: Its value; NaN where it has none.
        """
        before = self if self.metric == metric else Standing(metric=metric)
        if step <= before.counted:
            return before
        if is_better(metric, value, before.value):
            return Standing(metric=metric, step=step, value=value, counted=step)
        return replace(before, since=before.since + 1, counted=step)
