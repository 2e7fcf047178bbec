"""What is to be judged: the rows of a predictions file, each with its right answer, from wherever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import DataError
from mdl_toolkit.scoring.input.columns import find_answers, find_references, require_column
from mdl_toolkit.scoring.input.matching import Matched, match
from mdl_toolkit.scoring.input.table import AnswerTable, read_table
from mdl_toolkit.scoring.input.told import read_tag_scores
from mdl_toolkit.scoring.task import Answer
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

#: The column in which ``inference`` says why a row has no answer.
_ERROR = "error"
#: Columns that say something of another model's answers, where a file of right answers has such.
_OF_ANSWERS = frozenset(
    {
        "prediction", "predictions", "model_output", _ERROR, "finish_reason", "mean_logprob", "min_logprob",
        "probability", "runner_up", "runner_up_probability", "n_best", "tag_scores", "scores",
    }
)  # fmt: skip


@dataclass(frozen=True)
class AnsweredRows:
    """Rows of predictions with their right answers.

    Attributes:
        table: The predictions, with the columns that another file has brought.
        reference: The column of the right answers.
        prediction: The column of the answers given.
        references: The right answers; ``None``: a row has none.
        predictions: The answers given; ``None``: a row has none.
        tag_scores: The model's number for each tag, a dictionary a row, where the predictions have such.
        failed: The places of the rows without an answer.
        said: Further keys of ``scores.json``.
    """

    table: AnswerTable
    reference: str
    prediction: str
    references: list[Answer | None]
    predictions: list[Answer | None]
    failed: list[int]
    tag_scores: list[Mapping[str, float] | None] | None = None
    said: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """Where right answers are if not in the predictions file.

    Attributes:
        file: The file that has them; ``None``: the predictions file itself.
        column: Their column; ``None``: found by its name.
        match_by: The columns by which rows are matched; by default those that say what a row is of.
        wanted: Columns that one of the two files has to have.
    """

    file: Path | None = None
    column: str | None = None
    match_by: Sequence[str] = ()
    wanted: Sequence[str] = ()


def read_answered(path: Path, encoding: str, prediction: str | None, truth: Truth) -> AnsweredRows:
    """Read predictions and their right answers.

    Raises:
        DataError: A file can't be read, columns are missing or could be meant several ways, or no row of the
            two files is the same.
    """
    table = read_table(path, encoding)
    given = find_answers(table, prediction)
    said: dict[str, Any] = {}
    if truth.file is None:
        reference = find_references(table, truth.column, given)
    else:
        right = read_table(truth.file, encoding)
        column = find_references(right, truth.column, None)
        matched = match(table, right, truth.match_by)
        said = _tell_unmatched(table, right, matched)
        table, reference = _joined(table, right, matched, column)
    for name in truth.wanted:
        require_column(table, name, "--slice-by")
    answers, failed = _answers(table, given)
    references = table.answers(reference)
    return AnsweredRows(table, reference, given, references, answers, failed, read_tag_scores(table), said)


def _answers(table: AnswerTable, column: str) -> tuple[list[Answer | None], list[int]]:
    """The answers given, and the places of the rows that have none: they failed, or the answer is empty."""
    answers = table.answers(column)
    if _ERROR in table.columns:
        for place, text in enumerate(table.texts(_ERROR)):
            if _is_problem(text):
                answers[place] = None
    return answers, [place for place, answer in enumerate(answers) if answer is None]


def _is_problem(text: str) -> bool:
    """Whether a cell of a column ``error`` says why a row failed; tables of others have numbers there."""
    plain = text.strip().lower()
    try:
        float(plain)
    except ValueError:
        return plain not in ("", "false", "none", "no")
    return False


def tell_failed(answered: AnsweredRows) -> None:
    """Name the rows that have no answer."""
    if failed := answered.failed:
        what = "rows has no answer" if len(failed) == 1 else "rows have no answer"
        logger.warning(
            f"{len(failed)} of {answered.table.rows} {what}; that counts as wrong: "
            f"{answered.table.named(failed)}{_first_error(answered)}"
        )


def _first_error(answered: AnsweredRows) -> str:
    if _ERROR not in answered.table.columns:
        return ""
    texts = answered.table.texts(_ERROR)
    return next(
        (f" (the first error: {texts[p][:120]})" for p in answered.failed if _is_problem(texts[p])), ""
    )


def _tell_unmatched(table: AnswerTable, right: AnswerTable, matched: Matched) -> dict[str, Any]:
    """Name the rows that are in one file only."""
    key = " and ".join(matched.key)
    names = ", by the files' names (no whole path is the same)" if matched.by_name else ""
    logger.info(f"{len(matched.pairs)} rows matched by {key} with {right.path}{names}")
    for places, has, lacks, whole in (
        (matched.only_second, right, "prediction", "those answered"),
        (matched.only_first, table, "right answer", "those that have one"),
    ):
        if places:
            have = "rows has" if len(places) == 1 else "rows have"
            logger.warning(
                f"{len(places):,} of {has.rows:,} {have} no {lacks} ({has.path}), "
                f"scores are of {whole} alone: {has.named(places)} ({_first_keys(has, matched.key, places)})"
            )
    return {
        "truth": str(right.path),
        "matched_by": [*matched.key],
        "missing": _described(right, matched.key, matched.only_second),
        "extra": _described(table, matched.key, matched.only_first),
    }


def _described(table: AnswerTable, key: Sequence[str], places: Sequence[int]) -> list[dict[str, Any]]:
    texts = {name: table.texts(name) for name in key}
    return [
        {table.unit: table.numbers[place], **{name: texts[name][place] for name in key}} for place in places
    ]


def _first_keys(table: AnswerTable, key: Sequence[str], places: Sequence[int]) -> str:
    columns = [table.texts(name) for name in key]
    shown = ["/".join(column[place] for column in columns)[:60] for place in places[:3]]
    return ", ".join(shown) + (", …" if len(places) > 3 else "")


def _joined(table: AnswerTable, right: AnswerTable, matched: Matched, column: str) -> tuple[AnswerTable, str]:
    """The predictions with what the other file says of the rows, and the column of the right answers."""
    at = dict(matched.pairs)

    def brought(name: str) -> list[Any]:
        values = right.columns[name]
        return [values[at[place]] if place in at else None for place in range(table.rows)]

    free = next(name for name in ("reference", "truth", "right_answer") if name not in table.columns)
    columns = {**table.columns, free: brought(column)}
    for name in right.columns:
        if name not in columns and name not in (column, *_OF_ANSWERS):
            columns[name] = brought(name)
    return replace(table, columns=columns), free


def other_answers(
    answered: AnsweredRows, other: AnswerTable, prediction: str | None, match_by: Sequence[str]
) -> tuple[AnsweredRows, list[int]]:
    """The same rows with the answers of another table, and the places of the rows that both have.

    Rows that one of them alone has are named.

    Raises:
        DataError: The table can't be used, no row is the same, or its right answers are others.
    """
    given = find_answers(other, prediction if prediction in other.columns else None)
    answers, _ = _answers(other, given)
    matched = match(answered.table, other, match_by)
    for places, has, lacks in (
        (matched.only_first, answered.table, other),
        (matched.only_second, other, answered.table),
    ):
        if places:
            rows = "row of" if len(places) == 1 else "rows of"
            logger.warning(
                f"{len(places)} {rows} {has.path} not in {lacks.path}, not compared: {has.named(places)}"
            )
    _check_same_truth(answered, other, matched, given)
    at = dict(matched.pairs)
    theirs = [answers[at[place]] if place in at else None for place in range(answered.table.rows)]
    failed = [place for place in at if theirs[place] is None]
    ranks = read_tag_scores(other)
    if ranks is not None:
        ranks = [ranks[at[place]] if place in at else None for place in range(answered.table.rows)]
    return replace(answered, predictions=theirs, failed=failed, tag_scores=ranks), [*at]


def _check_same_truth(answered: AnsweredRows, other: AnswerTable, matched: Matched, given: str) -> None:
    """Refuse another file whose column of right answers says something else of a row."""
    if answered.reference not in other.columns or answered.reference == given:
        return
    right = other.answers(answered.reference)
    differing = [(one, two) for one, two in matched.pairs if answered.references[one] != right[two]]
    if differing:
        one, two = differing[0]
        rows = "a row" if len(differing) == 1 else f"{len(differing)} rows"
        raise DataError(
            f"{other.at(two)}: column {answered.reference!r} is not what it is in "
            f"{answered.table.at(one)} ({rows} in all): answers can be compared for the same questions "
            "only; if one of the files is outdated, give the right answers of both with --truth"
        )
