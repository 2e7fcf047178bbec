"""A table of predictions, or of right answers: its columns as texts and values, and its rows' numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl_toolkit.data.input.csvfile import cell_text
from mdl_toolkit.data.input.records import is_unicode
from mdl_toolkit.data.input.tables import BadRow, read_cells, read_table_layout
from mdl_toolkit.errors import DataError
from mdl_toolkit.scoring.task import Answer

#: Rows that a message names.
_NAMED = 10


@dataclass(frozen=True)
class AnswerTable:
    """A table, whole.

    Attributes:
        path: The file, for messages.
        columns: Every column in order, each with a value a row: the text of a CSV's cell, or a value as JSON
            and Parquet have it; ``None`` where the cell says nothing.
        numbers: The number of each row in the file.
        unit: What the numbers count: ``line`` of a CSV or of JSON lines, ``row`` of other files.
    """

    path: Path
    columns: dict[str, list[Any]]
    numbers: list[int]
    unit: str

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.numbers)

    def texts(self, column: str) -> list[str]:
        """A column's values as texts; nothing is an empty one."""
        return [plain_text(value) for value in self.columns[column]]

    def answers(self, column: str) -> list[Answer | None]:
        """A column of answers: texts or lists of them; ``None`` where there is none.

        Raises:
            DataError: A value is neither; the message names the row.
        """
        found: list[Answer | None] = []
        for place, value in enumerate(self.columns[column]):
            try:
                found.append(_answer(value))
            except ValueError as error:
                raise DataError(f"{self.at(place)}: column {column!r} {error}") from None
        return found

    def at(self, place: int) -> str:
        """A row for a message: ``p.csv line 7``."""
        return f"{self.path} {self.unit} {self.numbers[place]}"

    def named(self, places: Sequence[int]) -> str:
        """Some rows for a message: ``lines 7, 9 and 12 more``."""
        shown = ", ".join(str(self.numbers[place]) for place in places[:_NAMED])
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        return f"{self.unit}{'' if len(places) == 1 else 's'} {shown}{more}"


def read_table(path: Path, encoding: str = "utf-8") -> AnswerTable:
    """Read a CSV, JSON lines, a JSON array or Parquet, whatever its columns are.

    Raises:
        DataError: It can't be read, or some of its rows can't; the message names them.
    """
    layout = read_table_layout(path, encoding)
    names = [name or f"column_{place}" for place, name in enumerate(layout.columns, start=1)]
    columns: list[list[Any]] = [[] for _ in names]
    numbers: list[int] = []
    bad: list[str] = []
    unit = "line" if layout.kind in ("csv", "lines") else "row"
    for record in read_cells(path, encoding, layout):
        problem = record.problem if isinstance(record, BadRow) else None
        if not isinstance(record, BadRow):
            typed = record.typed
            values = [*map(cell_text, record.cells)] if typed is None else [*map(typed.get, layout.columns)]
            problem = _not_unicode(names, values)
            for column, value in zip(columns, values, strict=True):
                column.append(value)
            numbers.append(record.number)
        if problem:
            bad.append(f"{unit} {record.number}: {problem}")
    if bad:
        more = f"; {len(bad) - 1} more rows can't be read either" if len(bad) > 1 else ""
        raise DataError(f"{path} {bad[0]}{more}: mend or remove {'them' if more else 'it'}")
    return AnswerTable(path, dict(zip(names, columns, strict=True)), numbers, unit)


def plain_text(value: Any) -> str:
    """A value as text; nothing is an empty one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _answer(value: Any) -> Answer | None:
    """An answer as tasks take it.

    Raises:
        ValueError: It is neither a text, a number nor a list of them; says what it is.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        if not value.strip():
            return None
        return _listed(value) if value.startswith("[") and value.endswith("]") else value
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (dict, list, tuple)) for item in value):
            raise ValueError("holds a list of something else than texts")
        return [plain_text(item) for item in value]
    if isinstance(value, (bool, int, float)):
        return plain_text(value)
    raise ValueError(f"holds {type(value).__name__}, not text")


def _listed(text: str) -> Answer:
    """The texts of a list as JSON writes it; other texts that begin with a bracket are what they are."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    plain = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return value if plain else text


def _not_unicode(names: Sequence[str], values: Sequence[Any]) -> str | None:
    """Halves of surrogate pairs, which JSON can express and no file or library takes."""
    for name, value in zip(names, values, strict=True):
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isascii() and not is_unicode(text):
                return f"{name} is not valid Unicode text"
    return None
