"""Rows of a CSV, JSON or Parquet file, one at a time, each with its place in the file.

What is wrong with the whole file (no ``audio`` column, wrong encoding, a workbook) is an error at once. What
is wrong with one row comes out as a :class:`BadRow` in its place, so that a caller can report all of them.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdl_toolkit.data.input import jsonfile
from mdl_toolkit.data.input.columns import FIELDS, TEXT_FIELDS, TIME_FIELDS, no_column, without_header
from mdl_toolkit.data.input.compressed import unpacked_name
from mdl_toolkit.data.input.csvfile import (
    SEPARATOR_NAMES,
    CsvError,
    cell_text,
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
    read = {"csv": _csv_rows, "parquet": _parquet_rows}.get(layout.kind, _json_rows)
    empty = True
    for record in read(path, encoding, layout):
        empty = False
        yield record
    if empty:
        raise DataError(f"{path}: no rows in it{' but its header' if layout.kind == 'csv' else ''}")


def read_header(path: Path, encoding: str = "utf-8") -> list[str]:
    """The columns of a file, in order; see :func:`read_layout`."""
    return list(read_layout(path, encoding).columns)


def read_layout(path: Path, encoding: str = "utf-8") -> TableLayout:
    """What a table is, and its columns.

    Raises:
        DataError: The file is no table, can't be read, has a name twice, or has no ``audio`` column.
    """
    path = Path(path)
    head = table_head(path)
    kind = _kind(path, head, encoding)
    if kind == "csv":
        layout = _csv_layout(path, encoding)
    elif kind == "parquet":
        layout = _parquet_layout(path)
    else:
        layout = TableLayout(kind, tuple(_json_columns(path, encoding, kind)))
    _check_columns(path, layout)
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


def _check_columns(path: Path, layout: TableLayout) -> None:
    place = f"{path} line {layout.header_line}" if layout.kind == "csv" else str(path)
    columns = layout.columns
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(f"{place}: column {', '.join(map(repr, twice))} is there twice; rename or remove one")
    if "audio" in columns:
        return
    data = without_header(columns) if layout.kind == "csv" else None
    if data is not None:
        example = layout.separator.join(("audio", "prediction"))
        raise DataError(
            f"{place}: no header, the file begins with data ({data[:60]!r}): put a line above it that names "
            f"the columns, for example {example}"
        )
    raise DataError(f"{place}: {no_column('audio', columns)}")


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
            if not cell.isascii() and not _is_unicode(cell):
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
        cells = tuple(_cell(value.get(name)) for name in self._columns)
        for name in TEXT_FIELDS:
            if isinstance(number_given := value.get(name), float) and not math.isfinite(number_given):
                problem = f"{name} is {number_given}, which is no text; null says that there is none"
                return BadRow(number, problem, cells, value)
            if isinstance(value.get(name), (dict, list, bytes, bool)):
                what = type(value[name]).__name__
                hint = "; it takes the path or URL of one recording" if name == "audio" else ""
                return BadRow(number, f"{name} is {what}, not text{hint}", cells, value)
        return self.row(number, cells, value)


def _is_unicode(text: str) -> bool:
    """False for halves of surrogate pairs, which JSON can express and no file or tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv_layout(path: Path, encoding: str) -> TableLayout:
    with opened(path, encoding) as stream:
        try:
            separator, line, columns = find_header(checked_lines(stream, path))
        except CsvError as error:
            raise error.of(path) from error
    if not any(columns):
        raise DataError(f"{path} line 1: no header; the first line names the columns: audio,prediction,…")
    return TableLayout("csv", tuple(columns), separator, line)


def _csv_rows(path: Path, encoding: str, layout: TableLayout) -> Iterator[Row | BadRow]:
    # Spreadsheets that separate cells by semicolons do so because they write 1.5 as 1,5.
    rows = _Rows(layout.columns, "," if layout.separator == ";" else ".")
    width, separator = len(layout.columns), layout.separator
    try:
        with opened(path, encoding) as stream:
            for number, cells in read_csv(checked_lines(stream, path), separator):
                if number <= layout.header_line:
                    continue
                if len(cells) > width and says_nothing(cells[width:]):
                    del cells[width:]
                if len(cells) == width:
                    row = rows.row(number, tuple(cells))
                else:
                    problem = (
                        f"{len(cells)} cells where the header has {width}; is a {SEPARATOR_NAMES[separator]} "
                        "not in quotes?"
                    )
                    row = BadRow(number, problem, tuple(cells))
                if isinstance(row, Row) or not says_nothing(cells):
                    yield row
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


def _json_rows(path: Path, encoding: str, layout: TableLayout) -> Iterator[Row | BadRow]:
    rows = _Rows(layout.columns)
    for number, text, value in _json_values(path, encoding, layout.kind):
        if isinstance(value, dict):
            yield rows.typed_row(number, value)
        else:
            yield BadRow(number, _not_an_object(value, text))


def _not_an_object(value: Any, text: str) -> str:
    if isinstance(value, jsonfile.RepeatedKeyError):
        return str(value)
    what = "not JSON" if isinstance(value, Exception) else "not a JSON object"
    return f"{what}: {text.strip()[:60]!r}"


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _parquet_layout(path: Path) -> TableLayout:
    import pyarrow as pa

    schema = _parquet_file(path).schema_arrow
    if "audio" in schema.names:
        kind = schema.field("audio").type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise DataError(
                f"{path}: its column audio holds {str(kind)[:60]}, not the path or URL of one recording: "
                "write each recording to a file, and its path into the column"
            )
    return TableLayout("parquet", tuple(schema.names))


def _parquet_rows(path: Path, _encoding: str, layout: TableLayout) -> Iterator[Row | BadRow]:
    import pyarrow as pa

    rows = _Rows(layout.columns)
    number = 0
    try:
        for batch in _parquet_file(path).iter_batches(batch_size=_PARQUET_ROWS):
            for value in batch.to_pylist():
                number += 1
                yield rows.typed_row(number, value)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged after row {number} ({str(error).splitlines()[0]})") from error


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return text_cell(value)
    if isinstance(value, (dict, list, bool, int, float)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
