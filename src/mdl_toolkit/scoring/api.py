"""Scores for other parts of the package, and for programs: judge texts, and write an evaluation's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring import files
from mdl_toolkit.scoring.input.slices import slice_names
from mdl_toolkit.scoring.intervals import point_scores
from mdl_toolkit.scoring.known import judge_known
from mdl_toolkit.scoring.registry import find_task, require_libraries
from mdl_toolkit.scoring.summary import RESAMPLES, summarize
from mdl_toolkit.scoring.task import Answer, Judged, Texts

__all__ = ["Scored", "require_libraries", "score", "write_evaluation"]


@dataclass(frozen=True)
class Scored:
    """Judged answers.

    Attributes:
        task: The task's name.
        judged: What the task made of the rows.
    """

    task: str
    judged: Judged

    @cached_property
    def values(self) -> dict[str, float]:
        """The scores as shares, the task's main one first; one that isn't defined isn't there."""
        found = point_scores(self.judged.statistics)
        return {name: value for name, value in found.items() if not np.isnan(value)}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dictionary a row, as ``rows.csv`` has it: ``row``, ``score``, ``correct`` and the task's own."""
        table = files.row_columns(self.judged, {})
        return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def score(
    task: str,
    references: Sequence[Answer | None],
    predictions: Sequence[Answer | None],
    *,
    labels: Sequence[str] | None = None,
    choices: Sequence[Sequence[str] | None] | None = None,
    tag_scores: Sequence[Mapping[str, float] | None] | None = None,
    normalizer: str | None = None,
    language: str | Sequence[str] | None = None,
) -> Scored:
    """Judge answers.

    Args:
        task: One of ``settings.score_names.MAIN_SCORE``.
        references: The right answers, a text or a list of texts each; ``None`` where there is none: such a
            row is left out of the scores.
        predictions: The answers given; ``None`` where a row failed, which counts as wrong.
        labels: All labels that there are; by default those of the references.
        choices: The choices of each row, for tasks that have such; ``None`` for a row without.
        tag_scores: The model's number for each tag, a dictionary a row, for task ``tagging``.
        normalizer: ``none``, ``basic``, ``english`` or ``chinese``; by default the task's own choice.
        language: The language of all rows, or that of each.

    Raises:
        UserError: The task is unknown, its libraries are missing, or it can't judge these texts.
    """
    if len(references) != len(predictions):
        raise UserError(f"{len(references)} references and {len(predictions)} predictions")
    if not references:
        raise UserError("no rows to score")
    judging = find_task(task)
    texts = Texts((), predictions, labels, choices, tag_scores, normalizer, language)
    return Scored(task, judge_known(judging, references, texts))


def write_evaluation(  # noqa: PLR0913 -- what an evaluation's files say, by name
    folder: Path,
    scored: Scored,
    columns: Mapping[str, Sequence[Any]],
    *,
    source: str,
    reference: str = "reference",
    prediction: str = "prediction",
    slice_by: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    more: Mapping[str, Any] | None = None,
    numbers: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Write ``scores.json`` and ``rows.csv`` to a folder; they take the place of older ones together.

    Args:
        folder: The folder; made if it is missing.
        scored: What :func:`score` gave for these rows.
        columns: The columns of the predictions in order, each with a value a row.
        source: Where the predictions are from, for people: a file, or a dataset.
        reference: The column that was taken as the right answer.
        prediction: The column that was taken as the answer given.
        slice_by: Columns by which to slice.
        resamples: How often rows are drawn for the intervals; 0: no intervals.
        seed: Of the draws.
        more: Further keys of ``scores.json``.
        numbers: The number of each row in its file; by default 1, 2 and so on.

    Returns:
        What ``scores.json`` says.

    Raises:
        StorageError: They can't be written.
        UserError: A column has too many values for slices.
    """
    slices = {name: slice_names(name, columns[name]) for name in slice_by}
    summary = {
        **summarize(scored.task, scored.judged, slices, resamples, seed),
        **(more or {}),
        "source": source,
        "columns": {"reference": reference, "prediction": prediction},
    }
    files.write_files(folder, summary, scored.judged, columns, numbers)
    return summary
