"""Scores files of predictions for a report."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from mdl_toolkit.report.evaluations import ScoredSet, read_evaluation
from mdl_toolkit.scoring.api import write_evaluation
from mdl_toolkit.scoring.input.answered import Truth, read_answered
from mdl_toolkit.scoring.judging import calibrated, judge_answered


class FileScorer:
    """Scores files of predictions, each in a folder of its own that is gone with the stack.

    Args:
        task: By what.
        name: What the set of a file is called.
        stack: What removes the folders.
    """

    def __init__(self, task: str, name: str, stack: ExitStack) -> None:
        self._task, self._name, self._stack = task, name, stack

    def __call__(self, file: Path) -> ScoredSet:
        """Score a file.

        Raises:
            UserError: It can't be read, or not be scored by the task.
        """
        made: AbstractContextManager[str] = tempfile.TemporaryDirectory(prefix="mdl-report-")
        folder = Path(self._stack.enter_context(made))
        answered = read_answered(file, "utf-8", None, Truth())
        scored = judge_answered(self._task, answered)
        write_evaluation(
            folder,
            scored,
            answered.table.columns,
            source=file.name,
            reference=answered.reference,
            prediction=answered.prediction,
            more=calibrated(answered, scored),
            numbers=answered.table.numbers,
        )
        return read_evaluation(folder, self._name)
