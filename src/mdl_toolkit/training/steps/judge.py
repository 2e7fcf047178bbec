"""Whoever judges the evaluations of a run: chooses the best model, and says when it is time to end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mdl_toolkit.training.steps.progress import RunProgress


class Judge(Protocol):
    """Judges the evaluations of a run."""

    def judge(self, progress: RunProgress, values: Mapping[str, Any]) -> None:
        """Take note of an evaluation after the last step; every process calls it.

        Args:
            progress: Where the run stands, whose ``standing`` is brought up to date.
            values: The numbers of the evaluation by the names that ``metrics.jsonl`` has.
        """

    def why_over(self, progress: RunProgress) -> str | None:
        """Why further training isn't worth while, in a line for a person; ``None`` where it goes on."""


class NoJudge:
    """Judges nothing: all steps are made."""

    def judge(self, progress: RunProgress, values: Mapping[str, Any]) -> None:
        """Take no note."""

    def why_over(self, progress: RunProgress) -> str | None:  # noqa: ARG002 -- as Judge has it
        """It is never over."""
        return None
