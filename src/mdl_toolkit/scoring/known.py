"""Rows without a right answer: a task never sees them, and no score counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.task import Answer, Floats, Judged, Places, Statistics, Task, Texts, UnfitRowError

#: The reason for which a row without a right answer is left out.
NO_REFERENCE = "no reference"


@dataclass(frozen=True)
class _SpreadStatistics:
    """Statistics of some rows of a table, by the places of the whole table.

    Attributes:
        inner: Those of the rows that are known.
        places: The place of each of them in the whole table, ascending, int64.
        rows: The number of rows of the whole table.
    """

    inner: Statistics
    places: Places
    rows: int

    def scores(self, weights: Floats) -> Mapping[str, Floats]:
        return self.inner.scores(weights[:, self.places])

    def shares(self) -> Mapping[str, tuple[int, int]]:
        return self.inner.shares()

    def take(self, places: Places) -> _SpreadStatistics:
        inner_place = np.full(self.rows, -1, dtype=np.int64)
        inner_place[self.places] = np.arange(len(self.places))
        taken = inner_place[places]
        known = np.flatnonzero(taken >= 0)
        return _SpreadStatistics(self.inner.take(taken[known]), known, len(places))


def judge_known(task: Task, references: Sequence[Answer | None], texts: Texts) -> Judged:
    """Judge the rows that have a right answer; the others have no score.

    Args:
        task: The task.
        references: The right answers; ``None``: a row has none.
        texts: All rows; its ``references`` are not looked at.

    Raises:
        UserError: No row has a right answer, or the task can't judge them.
    """
    known = [place for place, reference in enumerate(references) if reference is not None]
    if not known:
        raise UserError("no row has a right answer (reference), so there is nothing to score")
    try:
        judged = task.judge(_some(texts, references, known))
    except UnfitRowError as error:
        raise UnfitRowError(known[error.place], error.problem) from None
    if len(known) == len(references):
        return judged
    rows = len(references)
    without = [place for place, reference in enumerate(references) if reference is None]
    inner = judged.alignments
    at = {place: number for number, place in enumerate(known)}
    return replace(
        judged,
        statistics=_SpreadStatistics(judged.statistics, np.array(known, dtype=np.int64), rows),
        score=_spread(judged.score, known, rows),
        correct=None if judged.correct is None else _spread(judged.correct, known, rows),
        columns={name: _spread(values, known, rows) for name, values in judged.columns.items()},
        left_out={**_of_table(judged.left_out, known), NO_REFERENCE: without},
        unread=_of_table(judged.unread, known),
        alignments=None if inner is None else lambda place: inner(at[place]),
    )


def _of_table(named: Mapping[str, Sequence[int]], known: Sequence[int]) -> dict[str, list[int]]:
    """Places among the rows that are known, as places of the whole table."""
    return {name: [known[place] for place in places] for name, places in named.items()}


def _some(texts: Texts, references: Sequence[Answer | None], places: Sequence[int]) -> Texts:
    language = texts.language
    return replace(
        texts,
        references=[reference for reference in references if reference is not None],
        predictions=[texts.predictions[place] for place in places],
        choices=None if texts.choices is None else [texts.choices[place] for place in places],
        tag_scores=None if texts.tag_scores is None else [texts.tag_scores[place] for place in places],
        language=language if language is None or isinstance(language, str) else [language[p] for p in places],
    )


def _spread(values: Sequence[Any], places: Sequence[int], rows: int) -> list[Any]:
    found: list[Any] = [None] * rows
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found


def only(judged: Judged, places: Places) -> Judged:
    """What a task has made of some of the rows, in the order that is asked for, without further details."""
    score, correct = judged.score, judged.correct
    return Judged(
        judged.statistics.take(places),
        [score[place] for place in places],
        None if correct is None else [correct[place] for place in places],
    )
