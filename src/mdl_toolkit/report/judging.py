"""Scores answers for a report: files of predictions, and rows that runs share."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from mdl_toolkit.report.evaluations import ScoredSet, read_evaluation
from mdl_toolkit.scoring.api import Scored, score, write_evaluation
from mdl_toolkit.scoring.input.answered import AnsweredRows, Truth, read_answered
from mdl_toolkit.scoring.input.columns import find_language


def judge(
    answered: AnsweredRows, task: str, normalizer: str | None = None, labels: Sequence[str] | None = None
) -> Scored:
    """Judge rows as ``evaluate`` does.

    Raises:
        UserError: The task's libraries are missing, or it can't judge these rows.
    """
    language = find_language(answered.table)
    return score(
        task,
        answered.references,
        answered.predictions,
        labels=labels,
        normalizer=normalizer,
        language=answered.table.texts(language) if language else None,
    )


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
        write_evaluation(
            folder,
            judge(answered, self._task),
            answered.table.columns,
            source=file.name,
            reference=answered.reference,
            prediction=answered.prediction,
            numbers=answered.table.numbers,
        )
        return read_evaluation(folder, self._name)
