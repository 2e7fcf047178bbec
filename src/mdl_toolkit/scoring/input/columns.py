"""Which columns of a table hold the right answers and the answers given, where nobody says so."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from mdl_toolkit.errors import DataError
from mdl_toolkit.scoring.input.table import AnswerTable

#: What ``inference`` writes wins; the others are what people and published files call them.
_REFERENCES = (
    "reference", "text", "label", "labels", "answer", "answers", "target", "transcript", "transcription",
    "sentence", "caption", "captions", "ground_truth", "truth", "references",
)  # fmt: skip
_PREDICTIONS = ("prediction", "model_output", "predictions", "hypothesis", "output", "response")
_LANGUAGES = ("lang", "language")
_LISTED = 20


def find_answers(table: AnswerTable, wanted: str | None, option: str = "--prediction") -> str:
    """The column of the answers given.

    Args:
        table: The predictions.
        wanted: The column that was asked for.
        option: By which it is asked for, for messages.

    Raises:
        DataError: It isn't there, none is, or several could be meant.
    """
    if wanted is not None:
        return _asked_for(table, wanted, option)
    return _found(table, _PREDICTIONS, "the model's answers", option, "")


def find_references(table: AnswerTable, wanted: str | None, given: str | None) -> str:
    """The column of the right answers.

    Args:
        table: The predictions, or a table of right answers.
        wanted: The column that was asked for.
        given: The column of the answers given; ``None``: the table has none, so that, as in what a model is
            trained on, ``prediction`` is the right answer.

    Raises:
        DataError: It isn't there, none is, several could be meant, or it is ``given``.
    """
    if wanted is not None:
        found = _asked_for(table, wanted, "--reference")
        if found == given:
            raise DataError(f"{table.path}: column {found!r} can't be --reference and --prediction at once")
        return found
    if "reference" in table.columns and given != "reference":
        return "reference"
    if given is None:
        return _found(table, (*_REFERENCES, "prediction"), "the right answers", "--reference", "")
    # Where the model's answers are in another column, `prediction` is what the model was to say.
    names = tuple(name for name in (*_REFERENCES, "prediction") if name != given.lower())
    elsewhere = ", or name the file that has them with --truth"
    return _found(table, names, "the right answers", "--reference", elsewhere)


def find_language(table: AnswerTable) -> str | None:
    """The column that says in which language a row is."""
    return next((name for name in table.columns if name.lower() in _LANGUAGES), None)


def listed(columns: Sequence[str]) -> str:
    """The names of columns for a message."""
    more = f" and {len(columns) - _LISTED} more" if len(columns) > _LISTED else ""
    return ", ".join(repr(name[:40]) for name in columns[:_LISTED]) + more


def require_column(table: AnswerTable, wanted: str, option: str) -> str:
    """A column that an option names.

    Raises:
        DataError: It isn't there; the message lists those that are.
    """
    return _asked_for(table, wanted, option)


def _asked_for(table: AnswerTable, wanted: str, option: str) -> str:
    if wanted in table.columns:
        return wanted
    near = difflib.get_close_matches(wanted, table.columns, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(f"{table.path}: no column {wanted!r} ({option}); its columns are {_all(table)}{hint}")


def _found(table: AnswerTable, names: Sequence[str], what: str, option: str, elsewhere: str) -> str:
    found = [column for column in table.columns if column.lower() in names]
    if not found:
        raise DataError(
            f"{table.path}: no column of {what} is known by its name; its columns are {_all(table)}: say "
            f"which one with {option}{elsewhere}"
        )
    if len(found) > 1:
        raise DataError(
            f"{table.path}: {what} could be {listed(found)}; its columns are {_all(table)}: say which one "
            f"with {option}"
        )
    return found[0]


def _all(table: AnswerTable) -> str:
    return listed([*table.columns])
