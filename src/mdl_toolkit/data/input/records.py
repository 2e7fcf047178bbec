"""Rows of a CSV, JSON or Parquet file, one at a time, each with its place in the file.

What is wrong with the whole file (no ``audio`` column, wrong encoding, a workbook) is an error at once. What
is wrong with one row comes out as a :class:`BadRow` in its place, so that a caller can report all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdl_toolkit.data.input.columns import FIELDS, TEXT_FIELDS, TIME_FIELDS, no_column, without_header
from mdl_toolkit.data.input.csvfile import cell_text, says_nothing
from mdl_toolkit.data.input.tables import (
    BadRow,
    TableLayout,
    no_rows,
    parquet_file,
    read_cells,
    read_table_layout,
    value_cell,
)
from mdl_toolkit.errors import DataError

__all__ = ["BadRow", "Row", "TableLayout", "check_table", "read_header", "read_layout", "read_records"]


@dataclass(frozen=True)
class Row:
    """A row of the input.

    Attributes:
        number: CSV, JSON lines: the line on which it begins (a CSV's header is line 1); Parquet, JSON array:
            the row, from 1.
        audio: Path or URL.
        prediction: The wanted answer.
        system_prompt: The row's own, or none.
        user_prompt: The row's own, or none.
        start: Where the clip begins in the file, in seconds; ``None``: at its beginning.
        end: Where the clip ends in the file, in seconds; ``None``: at its end.
        extra: The other columns, in order.
        cells: All columns as they stood in the file, in order: what stood in quotes is a ``csvfile.Quoted``.
        typed: JSON, Parquet: the values by name, of the types that they have there.
    """

    number: int
    audio: str
    prediction: str | None = None
    system_prompt: str | None = None
    user_prompt: str | None = None
    start: float | None = None
    end: float | None = None
    extra: dict[str, str] = field(default_factory=dict)
    cells: tuple[str, ...] = ()
    typed: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)


def read_records(
    path: Path, encoding: str = "utf-8", layout: TableLayout | None = None
) -> Iterator[Row | BadRow]:
    """The rows of a file, good and bad, in order. Memory does not grow with the file.

    Args:
        path: A CSV, JSON lines, a JSON array of objects, or Parquet; its content tells which.
        encoding: The text encoding of a CSV or JSON.
        layout: What :func:`read_layout` says of the file, where that is known; for JSON it reads all of it.

    Raises:
        DataError: Something is wrong with the file as a whole.
    """
    path = Path(path)
    layout = layout or read_layout(path, encoding)
    # Spreadsheets that separate cells by semicolons do so because they write 1.5 as 1,5.
    rows = _Rows(layout.columns, "," if layout.separator == ";" else ".")
    empty = True
    for record in read_cells(path, encoding, layout):
        made: Row | BadRow
        if isinstance(record, BadRow):
            made = record
        elif record.typed is not None:
            made = rows.typed_row(record.number, record.typed)
        else:
            made = rows.row(record.number, record.cells)
            if isinstance(made, BadRow) and says_nothing(record.cells):
                continue
        empty = False
        yield made
    if empty:
        raise no_rows(path, layout)


def read_header(path: Path, encoding: str = "utf-8") -> list[str]:
    """The columns of a file, in order; see :func:`read_layout`."""
    return list(read_layout(path, encoding).columns)


def read_layout(path: Path, encoding: str = "utf-8") -> TableLayout:
    """What a table is, and its columns.

    Raises:
        DataError: The file is no table, can't be read, has a name twice, or has no ``audio`` column.
    """
    path = Path(path)
    layout = read_table_layout(path, encoding)
    _check_recordings(path, layout)
    return layout


def check_table(path: Path, encoding: str) -> TableLayout:
    """How a table to train on is written. Quick, and nothing large is imported for a CSV or JSON.

    Raises:
        DataError: The file is no table, or one without recordings or answers.
    """
    layout = read_layout(path, encoding)
    if "prediction" not in layout.columns:
        raise DataError(f"{path}: {no_column('prediction', layout.columns)}")
    return layout


def _check_recordings(path: Path, layout: TableLayout) -> None:
    """Refuse a table without a column of recordings."""
    columns = layout.columns
    if "audio" in columns:
        if layout.kind == "parquet":
            _check_paths(path)
        return
    data = without_header(columns) if layout.kind == "csv" else None
    if data is not None:
        example = layout.separator.join(("audio", "prediction"))
        raise DataError(
            f"{layout.place(path)}: no header, the file begins with data ({data[:60]!r}): put a line above "
            f"it that names the columns, for example {example}"
        )
    raise DataError(f"{layout.place(path)}: {no_column('audio', columns)}")


def _check_paths(path: Path) -> None:
    """Refuse a Parquet file that holds the recordings themselves."""
    import pyarrow as pa

    kind = parquet_file(path).schema_arrow.field("audio").type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise DataError(
            f"{path}: its column audio holds {str(kind)[:60]}, not the path or URL of one recording: "
            "write each recording to a file, and its path into the column"
        )


class _Rows:
    """Makes rows of cells.

    Args:
        columns: The names of the table's columns.
        decimal: The decimal mark of numbers of seconds; a point is always one.
    """

    def __init__(self, columns: Sequence[str], decimal: str = ".") -> None:
        places = {name: place for place, name in enumerate(columns)}
        self._decimal = decimal
        self._columns, self._audio = columns, places["audio"]
        self._texts = [(name, places[name]) for name in TEXT_FIELDS[1:] if name in places]
        self._times = [(name, places[name]) for name in TIME_FIELDS if name in places]
        self._extra = [(name, place) for name, place in places.items() if name not in FIELDS]

    def row(
        self, number: int, cells: tuple[str, ...], typed: Mapping[str, Any] | None = None
    ) -> Row | BadRow:
        """A row of its cells, or what is wrong with them."""
        for name, cell in zip(self._columns, cells, strict=True):
            if not cell.isascii() and not is_unicode(cell):
                return BadRow(number, f"{name} is not valid Unicode text", cells, typed)
        audio = cell_text(cells[self._audio])
        audio = audio and audio.strip()
        if not audio:
            return BadRow(number, "no audio: the cell is empty, or null without quotes", cells, typed)
        values: dict[str, Any] = {name: cell_text(cells[place]) for name, place in self._texts}
        for name, place in self._times:
            text = cells[place].strip()
            if text in ("", "null"):
                continue
            try:
                values[name] = float(text.replace(self._decimal, "."))
            except ValueError:
                hint = f"; write it with a point: {text.replace(',', '.')}" if text.count(",") == 1 else ""
                return BadRow(number, f"{name} {text[:40]!r} is not a number of seconds{hint}", cells, typed)
            if not (math.isfinite(values[name]) and values[name] >= 0):
                problem = f"{name} {text[:40]!r} is not a time in the clip, in seconds"
                return BadRow(number, problem, cells, typed)
        if self._times:
            start, end = values.get("start") or 0.0, values.get("end")
            if end is not None and end <= start:
                problem = f"the segment ends at {end:g} s, not after its start at {start:g} s"
                return BadRow(number, problem, cells, typed)
        extra = {name: str(cells[place]) for name, place in self._extra}
        return Row(number, audio, extra=extra, cells=cells, typed=typed, **values)

    def typed_row(self, number: int, value: Mapping[str, Any]) -> Row | BadRow:
        """A row of typed values. Text stays as it is, numbers are written out, null is an empty cell."""
        cells = tuple(value_cell(value.get(name)) for name in self._columns)
        for name in TEXT_FIELDS:
            if isinstance(number_given := value.get(name), float) and not math.isfinite(number_given):
                problem = f"{name} is {number_given}, which is no text; null says that there is none"
                return BadRow(number, problem, cells, value)
            if isinstance(value.get(name), (dict, list, bytes, bool)):
                what = type(value[name]).__name__
                hint = "; it takes the path or URL of one recording" if name == "audio" else ""
                return BadRow(number, f"{name} is {what}, not text{hint}", cells, value)
        return self.row(number, cells, value)


def is_unicode(text: str) -> bool:
    """False for halves of surrogate pairs, which JSON can express and no file or tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
