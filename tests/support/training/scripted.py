"""Evaluations with numbers written down beforehand, so that a test decides which one is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from mdl_toolkit.training import run


class Scripted:
    """Stands in for a run's evaluation.

    Args:
        values: By step what it gives: the loss, or several numbers by name.

    Attributes:
        made: The steps after which it was asked.
    """

    def __init__(self, values: Mapping[int, float | Mapping[str, float]]) -> None:
        self._values = values
        self.made: list[int] = []

    def __call__(self, wrapped: Any, signals: Any, where: Mapping[str, Any]) -> dict[str, float]:
        self.made.append(where["step"])
        found = self._values[where["step"]]
        numbers = dict(found) if isinstance(found, Mapping) else {"eval_loss": found}
        return {"eval_loss": math.nan, "eval_rows": 11, **numbers}

    def describe(self, values: Mapping[str, float]) -> str:
        """As an evaluation is told of."""
        return f"loss {values['eval_loss']:.4f}"

    def installed(self, patch: pytest.MonkeyPatch) -> Scripted:
        """Let all runs evaluate by this, until the patch ends."""
        patch.setattr(run, "_evaluation", lambda *_: self)
        return self
