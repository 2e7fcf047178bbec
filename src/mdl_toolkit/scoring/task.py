"""What a task is: it turns references and predictions into numbers for each row, and those into scores.

All scores of a task are functions of *how often each row counts*. Counted once each, the rows give the score
itself; counted as often as they were drawn, a draw of the bootstrap; some of them alone, a slice; and two
predictions with the same counts, a pair. So a task says nothing about intervals, slices or comparisons: it
says what its rows are worth, and how scores follow from weighted rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.errors import UserError

#: A reference or a prediction as it stands in a table: a text, or a list of texts.
Answer: TypeAlias = "str | Sequence[str]"
Floats: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]
#: Sums over rows, [draws, columns], to scores by name, each [draws]; NaN where a score isn't defined.
Formula: TypeAlias = Callable[[Floats], Mapping[str, Floats]]


class UnfitRowError(UserError):
    """A row can't be judged.

    Args:
        place: The row, from 0.
        problem: What is wrong with it, and what to do.
    """

    def __init__(self, place: int, problem: str) -> None:
        self.place, self.problem = place, problem
        super().__init__(f"row {place + 1}: {problem}")


@dataclass(frozen=True)
class Texts:
    """What a task judges; all sequences are of the same length.

    Attributes:
        references: The right answers. A list has several of them, or all tags; a task that knows one answer
            alone takes the first (:func:`first_of`). Rows without one are left out before a task sees them.
        predictions: The model's answers; ``None``: the row has none, because it failed. That counts as wrong.
        labels: All labels that there are; ``None``: those of the references.
        choices: The choices of each row, where the task has such; ``None`` for a row without.
        tag_scores: The model's number for each tag, by which rows are ranked, a dictionary a row.
        normalizer: How texts are brought to a common form; ``None``: the task's own choice.
        language: The language of all rows, or that of each, where it is known.
    """

    references: Sequence[Answer]
    predictions: Sequence[Answer | None]
    labels: Sequence[str] | None = None
    choices: Sequence[Sequence[str] | None] | None = None
    tag_scores: Sequence[Mapping[str, float] | None] | None = None
    normalizer: str | None = None
    language: str | Sequence[str] | None = None


class Statistics(Protocol):
    """The rows of a judged table as numbers."""

    @property
    def rows(self) -> int:
        """The number of rows."""
        ...

    def scores(self, weights: Floats) -> Mapping[str, Floats]:
        """The scores where each row counts as often as its weight says.

        Args:
            weights: How often, [draws, rows].

        Returns:
            Each score by name, the task's main one first: [draws]; NaN where it isn't defined.
        """
        ...

    def shares(self) -> Mapping[str, tuple[int, int]]:
        """The scores that are the share of rows that are right: how many are, and of how many."""
        ...

    def take(self, places: Places) -> Statistics:
        """Those of some rows."""
        ...


@dataclass(frozen=True)
class SumStatistics:
    """Rows of which only sums matter: counts of errors and words, or the row's own value and a 1.

    Attributes:
        values: What each row adds, float64 [rows, columns].
        formula: How scores follow from the sums.
        counted: The scores that are the share of rows that are right: the column with a 1 for each of these,
            and the one with a 1 for each row that counts.
    """

    values: Floats
    formula: Formula
    counted: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.values)

    def scores(self, weights: Floats) -> Mapping[str, Floats]:
        """See :meth:`Statistics.scores`."""
        return self.formula(weights @ self.values)

    def shares(self) -> Mapping[str, tuple[int, int]]:
        """See :meth:`Statistics.shares`."""
        sums = self.values.sum(axis=0)
        return {name: (int(sums[right]), int(sums[rows])) for name, (right, rows) in self.counted.items()}

    def take(self, places: Places) -> SumStatistics:
        """See :meth:`Statistics.take`."""
        return SumStatistics(self.values[places], self.formula, self.counted)


@dataclass(frozen=True)
class Judged:
    """What a task makes of a table.

    Attributes:
        statistics: All rows as numbers; a row that is left out has weight in none of them.
        score: Each row's own main score; ``None``: it has none.
        correct: Whether each row is right, where the task knows that.
        columns: Further columns of ``rows.csv``, each a value a row; ``None`` is an empty cell.
        details: Further keys of ``scores.json``: ``per_class``, ``confusion`` and the like. No NaN in them.
        left_out: The places of the rows that no score counts, by the reason.
        unread: The places of the rows whose answer the task couldn't read, by what is to be said of them, as
            in "3 answers *name no label*". They are wrong.
        remarks: Lines for a person, on what was decided about this table.
        alignments: What is told apart in a row, for a person, by place; where the task can show that.
    """

    statistics: Statistics
    score: Sequence[float | None]
    correct: Sequence[bool | None] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, Sequence[int]] = field(default_factory=dict)
    unread: Mapping[str, Sequence[int]] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    alignments: Callable[[int], str] | None = None


class Task(Protocol):
    """A way to judge answers; its name and the libraries it needs stand in ``settings/score_names.py``."""

    def judge(self, texts: Texts) -> Judged:
        """Judge all rows.

        Raises:
            UserError: The texts can't be judged by this task.
        """
        ...


def first_of(answer: Answer) -> str:
    """The answer that a task takes that knows one alone; an empty list has an empty one."""
    if isinstance(answer, str):
        return answer
    return next(iter(answer), "")


def every_of(answer: Answer) -> list[str]:
    """All answers: those of a list, or the one text."""
    return [answer] if isinstance(answer, str) else list(answer)


def shortened(text: str, most: int = 60) -> str:
    """A text for one line of a message: without line ends and control characters, cut where it is long."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * most]).strip()
    return line if len(line) <= most else f"{line[: most - 1]}…"


def ratio(over: Floats, under: Floats) -> Floats:
    """Quotients; NaN where the divisor is 0."""
    found: Floats = np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under != 0)
    return found
