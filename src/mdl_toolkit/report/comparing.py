"""Several runs on the rows that they share: which ones these are, and whether a difference is chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mdl_toolkit.errors import UserError
from mdl_toolkit.report.data import RunComparison
from mdl_toolkit.report.evaluations import ScoredSet
from mdl_toolkit.report.runs import CollectedRun, short_names
from mdl_toolkit.scoring.input.answered import AnsweredRows, Truth, other_answers, read_answered
from mdl_toolkit.scoring.input.matching import match
from mdl_toolkit.scoring.input.table import AnswerTable, read_table
from mdl_toolkit.scoring.intervals import Comparison, compare
from mdl_toolkit.scoring.judging import judge_answered
from mdl_toolkit.scoring.known import only
from mdl_toolkit.scoring.summary import RESAMPLES
from mdl_toolkit.scoring.task import Judged
from mdl_toolkit.settings.commands.evaluate import NORMALIZERS
from mdl_toolkit.settings.score_names import is_lower_better

#: Of the draws: the same rows give the same numbers each time.
_SEED = 0


@dataclass
class Pairing:
    """The rows that runs share.

    Attributes:
        keys: By the places of a run and of one of its sets, a number for each row; see ``ReportSet.keys``.
        comparisons: Each later run against the first.
        notes: Why something couldn't be compared, a line each.
    """

    keys: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    comparisons: list[RunComparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def pair_runs(runs: Sequence[CollectedRun]) -> Pairing:
    """Match the rows of each later run with those of the first, set by set, and compare their scores."""
    found = Pairing()
    names = short_names([run.path for run in runs])
    for place, one in enumerate(runs[0].evaluations):
        first, rows = _First(one, _named(runs[0], one)), len(one.table.rows)
        for number, run in enumerate(runs[1:], start=1):
            other = next((at for at, it in enumerate(run.evaluations) if it.name == one.name), None)
            if other is None:
                continue
            later = run.evaluations[other]
            try:
                table = replace(read_table(later.rows_file), path=_named(run, later))
                pairs = match(first.answered.table, table).pairs
                found.keys[0, place] = list(range(rows))
                found.keys[number, other] = _keys(pairs, rows, len(later.table.rows), number)
                found.comparisons += _compared(first, later, table, (names[number], names[0]))
            except UserError as error:
                reason = " ".join(str(error).split())
                reason += " (options of mdl-toolkit evaluate)" if " --" in reason else ""
                found.notes.append(f"{one.name}: {names[number]} isn't compared with {names[0]}: {reason}")
    return found


def _named(run: CollectedRun, one: ScoredSet) -> Path:
    """What messages call a set's rows: a file of predictions as it was given, not where it was scored."""
    return run.path if run.path.is_file() else one.rows_file


class _First:
    """A set of the first run, read and judged when it is compared with another."""

    def __init__(self, one: ScoredSet, named: Path) -> None:
        self.one, self._named = one, named

    @cached_property
    def answered(self) -> AnsweredRows:
        """Its rows, with what was right and what was answered.

        Raises:
            UserError: There are no right answers.
        """
        if self.one.reference is None:
            raise UserError("the rows have no column with the right answers")
        truth = Truth(column=self.one.reference)
        found = read_answered(self.one.rows_file, "utf-8", self.one.prediction, truth)
        return replace(found, table=replace(found.table, path=self._named))

    @cached_property
    def judged(self) -> Judged:
        """Its rows as the task has them."""
        return self.judge(self.answered)

    def judge(self, answered: AnsweredRows) -> Judged:
        """Rows as the task has them.

        Raises:
            UserError: The task's libraries aren't installed.
        """
        one = self.one
        # Where rows have several normalisers, each is known by the row's language again.
        normalizer = said if (said := one.summary.get("normalizer")) in NORMALIZERS else None
        return judge_answered(one.task, answered, labels=one.labels, normalizer=normalizer).judged


def _keys(pairs: Sequence[tuple[int, int]], first: int, rows: int, run: int) -> list[int]:
    """The numbers of a later run's rows: those of the first run's, or new ones for rows it has alone."""
    same = {later: place for place, later in pairs}
    # Apart from those of other runs, too.
    new = first + run * 10_000_000
    return [same.get(row, new + row) for row in range(rows)]


def _compared(
    first: _First, later: ScoredSet, table: AnswerTable, names: tuple[str, str]
) -> list[RunComparison]:
    if first.one.task != later.task:
        raise UserError(f"scored by other tasks, {first.one.task} and {later.task}")
    theirs, both = other_answers(first.answered, table, later.prediction, ())
    places = np.array(both, dtype=np.int64)
    one, two = only(first.judge(theirs), places), only(first.judged, places)
    compared = compare(one.statistics, two.statistics, RESAMPLES, _SEED)
    return [
        made
        for name, comparison in compared.items()
        if (made := _made(first.one.name, name, comparison, (*names, len(both)))) is not None
    ]


def _made(set_name: str, name: str, found: Comparison, of: tuple[str, str, int]) -> RunComparison | None:
    if found.value is None or found.other is None or found.difference is None:
        return None
    better = None
    if found.low is not None and found.high is not None and not found.low <= 0 <= found.high:
        better = (found.difference < 0) == is_lower_better(name)
    return RunComparison(
        set=set_name, score=name, run=of[0], other=of[1], rows=of[2], value=found.value,
        other_value=found.other, difference=found.difference, low=found.low, high=found.high, p=found.p,
        better=better,
    )  # fmt: skip
