"""Scored answers, as an evaluation's folder holds them: ``scores.json`` and ``rows.csv``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import DataError, UserError
from mdl_toolkit.report.data import ReportTable
from mdl_toolkit.scoring.input.table import read_table
from mdl_toolkit.settings.score_names import MAIN_SCORE

SCORES, ROWS = "scores.json", "rows.csv"
#: In a run's folder: a folder for each set.
EVALUATIONS = "evaluation"
#: What inference adds to the columns of its input.
_OF_INFERENCE = frozenset(
    {
        "reference", "error", "finish_reason", "mean_logprob", "min_logprob", "probability", "runner_up",
        "runner_up_probability", "n_best",
    }
)  # fmt: skip
#: Columns of numbers that inference and scoring add; others stay texts: ``007``.
_NUMBERS = frozenset(
    {
        "row", "score", "mean_logprob", "min_logprob", "probability", "runner_up_probability",
        "substitutions", "deletions", "insertions", "reference_words", "start", "end",
    }
)  # fmt: skip
#: In a confusion matrix: the answers that are none of the labels.
NO_LABEL = "(no label)"
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class ScoredSet:
    """An evaluation's folder, read.

    Attributes:
        name: The set's name: the folder's.
        folder: Where it is.
        summary: ``scores.json``.
        table: ``rows.csv``.
        input_columns: The columns of the input in order, ``prediction`` among them.
    """

    name: str
    folder: Path
    summary: Mapping[str, Any]
    table: ReportTable
    input_columns: Sequence[str]

    @property
    def task(self) -> str:
        """By what it was scored."""
        return str(self.summary.get("task", ""))

    @property
    def rows(self) -> int:
        """How many rows were scored."""
        rows = self.summary.get("rows")
        return rows if isinstance(rows, int) else len(self.table.rows)

    @property
    def main_score(self) -> str | None:
        """The score that counts most, if it is there; else the first."""
        scores = self.summary.get("scores") or {}
        wanted = MAIN_SCORE.get(self.task)
        return wanted if wanted in scores else next(iter(scores), None)

    @property
    def reference(self) -> str | None:
        """The column that holds the truth; ``None`` where the rows have none."""
        return self._column("reference", "reference")

    @property
    def prediction(self) -> str:
        """The column that holds the answer."""
        return self._column("prediction", "prediction") or "prediction"

    @property
    def rows_file(self) -> Path:
        """The file of its rows."""
        return self.folder / ROWS

    @property
    def labels(self) -> list[str] | None:
        """The labels that there are; ``None`` where the task knows them by itself, or has none."""
        if self.task != "classification":
            return None
        named = (self.summary.get("confusion") or {}).get("labels")
        return [label for label in named if label != NO_LABEL] if named else None

    def _column(self, role: str, usual: str) -> str | None:
        name = (self.summary.get("columns") or {}).get(role) or usual
        return str(name) if name in self.table.columns else None

    def cells(self, name: str | None) -> list[Any]:
        """The cells of a column; ``None`` for each row where there is no such column."""
        if name is None or name not in self.table.columns:
            return [None] * len(self.table.rows)
        place = list(self.table.columns).index(name)
        return [row[place] for row in self.table.rows]


def is_evaluation(folder: Path) -> bool:
    """Whether a folder is an evaluation's."""
    return (folder / SCORES).is_file()


def evaluations_of(run: Path) -> list[Path]:
    """The folders of a run's evaluations: ``main`` first, then by name."""
    folder = run / EVALUATIONS
    found = [path for path in folder.iterdir() if is_evaluation(path)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (path.name != "main", path.name))


def read_evaluation(folder: Path, name: str | None = None) -> ScoredSet:
    """Read an evaluation's folder.

    Args:
        folder: The folder.
        name: The set's name, if it isn't the folder's.

    Raises:
        UserError: One of its files is missing or damaged.
    """
    summary, table = _summary(folder / SCORES), _table(folder / ROWS)
    predicted = (summary.get("columns") or {}).get("prediction") or "prediction"
    return ScoredSet(
        name or folder.resolve().name, folder, summary, table, _input_columns(table.columns, predicted)
    )


def _summary(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and isinstance(value.get("scores"), dict):
            return value
        reason = "scores expected"
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        reason = f"not JSON ({str(error)[:60]})"
    raise UserError(f"{path}: {reason}: evaluate again")


def _table(path: Path) -> ReportTable:
    try:
        table = read_table(path)
    except DataError as error:
        raise UserError(f"{error}; or evaluate again") from error
    columns = [_typed(name, values) for name, values in table.columns.items()]
    return ReportTable(columns=list(table.columns), rows=[list(row) for row in zip(*columns, strict=True)])


def _typed(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if name == "correct":
        return [_TRUTH.get(value, value) for value in values]
    return [value and _number(value) for value in values] if name in _NUMBERS else values


def _number(text: str) -> Any:
    """The number that a text is; other texts as they are: a column of this name may be somebody's own."""
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return text
    return int(value) if value == int(value) and "." not in text and "e" not in text.lower() else value


def _input_columns(columns: Sequence[str], predicted: str) -> list[str]:
    """Those before ``row``, with which scoring begins its own, less those that inference adds."""
    before = columns[: list(columns).index("row")] if "row" in columns else columns
    kept = [name for name in before if name not in _OF_INFERENCE and name != predicted]
    place = next((before.index(name) for name in ("prediction", predicted) if name in before), len(before))
    at = sum(name in kept for name in before[:place])
    return [*kept[:at], "prediction", *(name for name in kept[at:] if name != "prediction")]
