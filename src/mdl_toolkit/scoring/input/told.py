"""What a table and options tell a task beside the answers: labels, options of rows, numbers of tags."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import DataError
from mdl_toolkit.scoring.input.table import AnswerTable
from mdl_toolkit.scoring.reading.options import options_of_rows

_CHOICES = ("choices", "options")
_PROMPTS = ("prompt", "user_prompt", "question")
_TAG_SCORES = ("tag_scores", "scores")
PROBABILITY = "probability"


def read_labels(given: str | None, encoding: str = "utf-8") -> list[str] | None:
    """The labels of ``--labels``.

    Args:
        given: A file with one a line, labels with commas between them, or a list in JSON.
        encoding: Of the file.

    Raises:
        DataError: The file can't be read, or there are fewer than two.
    """
    if given is None:
        return None
    path = Path(given)
    try:
        text = path.read_text(encoding=encoding) if _is_file(path) else None
    except (OSError, UnicodeError, LookupError) as error:
        raise DataError(f"{path}: can't be read as text in {encoding} ({error})") from None
    listed = _json(given if text is None else text)
    if isinstance(listed, list) and all(isinstance(label, str) for label in listed):
        labels = listed
    else:
        labels = given.split(",") if text is None else text.lstrip("\ufeff").splitlines()
    labels = [label.strip() for label in labels if label.strip()]
    if len(labels) < 2:
        raise DataError(
            f"--labels {given}: give a file that is there, with a label a line, or labels with commas "
            "between them, two at least"
        )
    return labels


def read_choices(table: AnswerTable) -> list[list[str] | None] | None:
    """The options of each row, from a column ``choices`` or ``options``, else from the prompt."""
    column, prompts = _column(table, _CHOICES), _column(table, _PROMPTS)
    return options_of_rows(
        None if column is None else table.columns[column], None if prompts is None else table.texts(prompts)
    )


def read_tag_scores(table: AnswerTable) -> list[Mapping[str, float] | None] | None:
    """The model's number for each tag, from a column of objects; ``None`` where there is no such column.

    Raises:
        DataError: A cell is no object of numbers; the message names the row.
    """
    column = _column(table, _TAG_SCORES)
    if column is None:
        return None
    found: list[Mapping[str, float] | None] = []
    for place, value in enumerate(table.columns[column]):
        value = _json(value) if isinstance(value, str) else value
        if value is not None and not _is_of_numbers(value):
            raise DataError(
                f'{table.at(place)}: column {column!r} is no object of tags and numbers ({{"dog": 0.9, …}})'
            )
        found.append(
            {tag: float(number) for tag, number in value.items() if number is not None} if value else None
        )
    return found


def _column(table: AnswerTable, names: Sequence[str]) -> str | None:
    return next((column for name in names for column in table.columns if column.lower() == name), None)


def _is_of_numbers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        number is None or (isinstance(number, (int, float)) and not isinstance(number, bool))
        for number in value.values()
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a long list is no path
        return False


def _json(text: str) -> Any:
    """A value in JSON; a text that is none is itself, and an empty one nothing."""
    try:
        return json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        return text
