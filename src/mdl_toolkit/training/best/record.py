"""What ``best/`` says of itself: the evaluation that it was kept for, in its ``mdl_toolkit.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model_folders.manifest import ModelManifest
from mdl_toolkit.training.best.yardstick import Yardstick

#: The key below ``training`` in ``mdl_toolkit.json``.
KEY = "best"
#: Numbers of an evaluation that say nothing of the model.
_NO_SCORES = ("eval_rows", "eval_seconds")


@dataclass(frozen=True, kw_only=True)
class BestRecord:
    """The evaluation that a model was kept for.

    Attributes:
        step: The step after which it was made.
        metric: The metric that chose it, as in ``metrics.jsonl``.
        value: Its value.
        scores: All numbers of the evaluation by name, for a run that is resumed with another metric.
        evaluation_data: The fingerprint of the evaluation data: values on other data can't be compared.
        answers: The options that decide which answers were scored, and how.
    """

    step: int
    metric: str
    value: float
    scores: Mapping[str, float]
    evaluation_data: str | None
    answers: Mapping[str, Any]

    @classmethod
    def of(cls, step: int, metric: str, values: Mapping[str, Any], by: Yardstick) -> BestRecord:
        """The record of an evaluation that has been made.

        Args:
            step: The step after which it was made.
            metric: The metric that chooses.
            values: The numbers of the evaluation, the metric among them.
            by: What was measured on.
        """
        numbers = {
            name: float(value)
            for name, value in values.items()
            if name.startswith("eval_") and not name.startswith(_NO_SCORES)
            if isinstance(value, int | float) and math.isfinite(value)
        }
        return cls(
            step=step,
            metric=metric,
            value=numbers[metric],
            scores=numbers,
            evaluation_data=by.data,
            answers=by.answers,
        )

    @classmethod
    def read(cls, folder: Path) -> BestRecord | None:
        """The record of a folder; ``None`` where there is no such folder, or it doesn't say."""
        try:
            manifest = ModelManifest.read(folder)
            if manifest is None:
                return None
            found = manifest.training[KEY]
            values = {name: found[name] for name in ("metric", "value", "scores", "evaluation_data")}
            answers = found.get("answers", {})
            made = cls(step=int(manifest.training["step"]), answers=answers, **values)
            told = isinstance(made.scores, dict) and isinstance(answers, dict)
            return made if told and made.value == float(made.value) else None
        except (ModelError, OSError, LookupError, TypeError, ValueError):
            return None

    def as_dict(self) -> dict[str, Any]:
        """What stands in ``mdl_toolkit.json``; the step stands beside it."""
        return {name: value for name, value in asdict(self).items() if name != "step"}

    def value_by(self, metric: str, by: Yardstick) -> float | None:
        """The model's value by a metric on a yardstick; ``None`` where it was measured by others."""
        mine = Yardstick(data=self.evaluation_data, answers=self.answers)
        return self.scores.get(metric) if mine.agrees(by, metric) else None

    def __str__(self) -> str:
        """As messages have it: ``eval_wer 0.0372 at step 80``."""
        return f"{self.metric} {self.value:.4f} at step {self.step}"
