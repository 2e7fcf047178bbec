"""Tables of any columns: what a file is, and the cells of its rows, each with its place in the file.

A file's content tells whether it is a CSV, JSON lines, a JSON array or Parquet. What is wrong with the whole
file is an error at once; what is wrong with one row comes out as a :class:`BadRow` in its place.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdl_toolkit.data.input import jsonfile
from mdl_toolkit.data.input.compressed import unpacked_name
from mdl_toolkit.data.input.csvfile import (
    SEPARATOR_NAMES,
    CsvError,
    find_header,
    read_csv,
    says_nothing,
    text_cell,
)
from mdl_toolkit.data.input.kinds import PARQUET, table_head
from mdl_toolkit.data.input.textfile import checked_lines, codec_name, is_utf8, opened
from mdl_toolkit.errors import DataError

_PARQUET_ROWS = 1024
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Cells:
    """What a row holds.

    Attributes:
        number: CSV, JSON lines: the line on which it begins (a CSV's header is line 1); Parquet, JSON array:
            the row, from 1.
        cells: CSV: all columns as they stood in the file: what stood in quotes is a ``csvfile.Quoted``.
        typed: JSON, Parquet: the values by name, of the types that they have there.
    """

    number: int
    cells: tuple[str, ...] = ()
    typed: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class BadRow:
    """A row that can't be used: where it is, what is wrong, and its cells as they stood in the file."""

    number: int
    problem: str
    cells: tuple[str, ...] = ()
    typed: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class TableLayout:
    """How a table is written.

    Attributes:
        kind: ``csv``, ``lines`` (of JSON), ``array`` (of JSON) or ``parquet``.
        columns: The columns' names in order; of JSON, all names that any row has, in order of appearance.
        separator: The character between the cells of a CSV.
        header_line: The line on which a CSV's header begins.
    """

    kind: str
    columns: tuple[str, ...]
    separator: str = ","
    header_line: int = 0

    def place(self, path: Path) -> str:
        """The table's columns for a message: the line of a CSV's header, else the file."""
        return f"{path} line {self.header_line}" if self.kind == "csv" else str(path)


def read_table_layout(path: Path, encoding: str = "utf-8") -> TableLayout:
    """What a table is, and its columns, whatever they are.

    Raises:
        DataError: The file is no table, can't be read, or has a name twice.
    """
    head = table_head(path)
    kind = _kind(path, head, encoding)
    if kind == "csv":
        layout = _csv_layout(path, encoding)
    elif kind == "parquet":
        layout = TableLayout("parquet", tuple(parquet_file(path).schema_arrow.names))
    else:
        layout = TableLayout(kind, tuple(_json_columns(path, encoding, kind)))
    twice = sorted({name for name in layout.columns if name and layout.columns.count(name) > 1})
    if twice:
        place = layout.place(path)
        raise DataError(f"{place}: column {', '.join(map(repr, twice))} is there twice; rename or remove one")
    return layout


def read_cells(path: Path, encoding: str, layout: TableLayout) -> Iterator[Cells | BadRow]:
    """The rows of a table in order. Memory does not grow with the file.

    Args:
        path: The table.
        encoding: The text encoding of a CSV or JSON.
        layout: What :func:`read_table_layout` says of it.

    Raises:
        DataError: Something is wrong with the file as a whole, for one that it has no rows.
    """
    read = {"csv": _csv_rows, "parquet": _parquet_rows}.get(layout.kind, _json_rows)
    empty = True
    for record in read(path, encoding, layout):
        empty = False
        yield record
    if empty:
        raise no_rows(path, layout)


def no_rows(path: Path, layout: TableLayout) -> DataError:
    """The error of a table without rows."""
    return DataError(f"{path}: no rows in it{' but its header' if layout.kind == 'csv' else ''}")


def _kind(path: Path, head: bytes, encoding: str) -> str:
    """By content, since names can be wrong; by name where the content could be anything."""
    suffix = unpacked_name(path).suffix.lower()
    if head.startswith(PARQUET) or suffix in (".parquet", ".pq"):
        return "parquet"
    if head.startswith(_UTF16_MARKS) and "16" not in encoding:
        raise DataError(f"{path} line 1: a UTF-16 file; say --encoding utf-16")
    if head.startswith(codecs.BOM_UTF8) and not is_utf8(encoding):
        raise DataError(f"{path} line 1: a UTF-8 file, as its mark says; leave out --encoding {encoding}")
    found = jsonfile.looks_like(_beginning(head, encoding))
    if found is None:
        return "lines" if suffix in (".jsonl", ".ndjson", ".json") else "csv"
    if found == "lines" and suffix not in (".jsonl", ".ndjson"):
        with opened(path, encoding) as stream:
            _, _, value = next(jsonfile.read_lines(checked_lines(stream, path)))
        if not isinstance(value, (dict, jsonfile.RepeatedKeyError)):
            raise DataError(
                f"{path} line 1: JSON, but neither an array of objects nor an object on each line: write it "
                'as one of the two, each object with the keys "audio" and "prediction"'
            )
    return found


def _beginning(head: bytes, encoding: str) -> str:
    """The first characters of a file, whatever of it can be read."""
    try:
        text = codecs.getincrementaldecoder(codec_name(encoding))("ignore").decode(head)
    except (LookupError, UnicodeError):  # reported when the file is read
        return ""
    return text.lstrip("\ufeff")


def _csv_layout(path: Path, encoding: str) -> TableLayout:
    with opened(path, encoding) as stream:
        try:
            separator, line, columns = find_header(checked_lines(stream, path))
        except CsvError as error:
            raise error.of(path) from error
    if not any(columns):
        raise DataError(f"{path} line 1: no header; the first line names the columns: audio,prediction,…")
    return TableLayout("csv", tuple(columns), separator, line)


def _csv_rows(path: Path, encoding: str, layout: TableLayout) -> Iterator[Cells | BadRow]:
    width, separator = len(layout.columns), layout.separator
    try:
        with opened(path, encoding) as stream:
            for number, cells in read_csv(checked_lines(stream, path), separator):
                if number <= layout.header_line or (len(cells) > 1 and says_nothing(cells)):
                    continue
                if len(cells) > width and says_nothing(cells[width:]):
                    del cells[width:]
                if len(cells) == width:
                    yield Cells(number, tuple(cells))
                elif not says_nothing(cells):
                    problem = (
                        f"{len(cells)} cells where the header has {width}; is a {SEPARATOR_NAMES[separator]} "
                        "not in quotes?"
                    )
                    yield BadRow(number, problem, tuple(cells))
    except CsvError as error:
        raise error.of(path) from error


def _json_values(path: Path, encoding: str, kind: str) -> Iterator[tuple[int, str, Any]]:
    """Line or row, text and value of each row; instead of a value its error."""
    with opened(path, encoding) as stream:
        if kind == "lines":
            yield from jsonfile.read_lines(checked_lines(stream, path))
            return
        try:
            for number, value in jsonfile.read_array(stream):
                plain = not isinstance(value, (dict, ValueError))
                yield number, json.dumps(value) if plain else "", value
        except jsonfile.ArrayError as error:
            raise DataError(
                f"{path} row {error.element}: the JSON array can't be read here ({error}); is the file cut "
                "short?"
            ) from error


def _json_columns(path: Path, encoding: str, kind: str) -> list[str]:
    found: dict[str, None] = {}
    repeated = ""
    for number, _, value in _json_values(path, encoding, kind):
        if isinstance(value, dict):
            found.update(dict.fromkeys(value))
        elif isinstance(value, jsonfile.RepeatedKeyError):
            repeated = repeated or f"{path} line {number}: {value}"
    if repeated and not found:
        raise DataError(repeated)
    if not found:
        raise DataError(f"{path}: no JSON object in it; each line is one, with at least the key audio")
    return list(found)


def _json_rows(path: Path, encoding: str, layout: TableLayout) -> Iterator[Cells | BadRow]:
    for number, text, value in _json_values(path, encoding, layout.kind):
        if isinstance(value, dict):
            yield Cells(number, typed=value)
        else:
            yield BadRow(number, _not_an_object(value, text))


def _not_an_object(value: Any, text: str) -> str:
    if isinstance(value, jsonfile.RepeatedKeyError):
        return str(value)
    what = "not JSON" if isinstance(value, Exception) else "not a JSON object"
    return f"{what}: {text.strip()[:60]!r}"


def parquet_file(path: Path) -> Any:
    """A Parquet file, opened.

    Raises:
        DataError: It can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _parquet_rows(path: Path, _encoding: str, _layout: TableLayout) -> Iterator[Cells | BadRow]:
    import pyarrow as pa

    number = 0
    try:
        for batch in parquet_file(path).iter_batches(batch_size=_PARQUET_ROWS):
            for value in batch.to_pylist():
                number += 1
                yield Cells(number, typed=value)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged after row {number} ({str(error).splitlines()[0]})") from error


def value_cell(value: Any) -> str:
    """The cell of a typed value: text as it stands, numbers written out, an empty one for null."""
    if value is None:
        return ""
    if isinstance(value, str):
        return text_cell(value)
    if isinstance(value, (dict, list, bool, int, float)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
