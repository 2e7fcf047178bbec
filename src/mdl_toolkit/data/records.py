"""Rows of a CSV, JSONL or Parquet file, one at a time, each with its place in the file.

What is wrong with the whole file (no ``audio`` column, wrong encoding) is an error at once. What is wrong
with one row comes out as a :class:`BadRow` in its place, so that a caller can report all of them.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import DataError

TEXT_FIELDS = ("audio", "prediction", "system_prompt", "user_prompt")
TIME_FIELDS = ("start", "end")
FIELDS = (*TEXT_FIELDS, *TIME_FIELDS)
#: Longest cell; beyond it a quote that is never closed has swallowed the lines after it.
MAX_CELL = 1 << 20

_PARQUET_ROWS = 1024
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Row:
    """A row of the input.

    Attributes:
        number: CSV, JSONL: the line on which it begins (a CSV's header is line 1); Parquet: the row, from 1.
        audio: Path or URL.
        prediction: The wanted answer.
        system_prompt: The row's own, or none.
        user_prompt: The row's own, or none.
        start: Where the clip begins in the file, in seconds; ``None``: at its beginning.
        end: Where it ends, in seconds; ``None``: at its end.
        extra: The other columns, in order.
        cells: All columns as they stood in the file, in order.
        typed: JSONL, Parquet: the values by name, of the types that they have there.
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


def read_rows(path: Path, encoding: str = "utf-8") -> Iterator[Row]:
    """The rows of a file; the first bad one is an error.

    Args:
        path: ``.csv`` (or any other name), ``.jsonl``/``.ndjson`` or ``.parquet``.
        encoding: Of a CSV or JSONL.

    Raises:
        DataError: Naming the file, the line and what to do.
    """
    for record in read_records(path, encoding):
        if isinstance(record, BadRow):
            raise DataError(f"{path} line {record.number}: {record.problem}")
        yield record


def read_records(path: Path, encoding: str = "utf-8") -> Iterator[Row | BadRow]:
    """The rows of a file, good and bad, in order. Memory does not grow with the file.

    Raises:
        DataError: For what is wrong with the file as a whole.
    """
    path = Path(path)
    kind = _kind(path)
    columns = read_header(path, encoding)
    records = {"csv": _csv_records, "jsonl": _json_records, "parquet": _parquet_records}[kind]
    empty = True
    for record in records(path, encoding, columns):
        empty = False
        yield record
    if empty:
        raise DataError(f"{path}: no rows in it{' but its header' if kind == 'csv' else ''}")


def read_header(path: Path, encoding: str = "utf-8") -> list[str]:
    """The columns of a file, in order. For JSONL all names that any line has, in order of appearance.

    Raises:
        DataError: For an unreadable file, a name that is there twice, or no ``audio`` column.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "csv":
        with _opened(path, encoding) as lines:
            header = next(_csv_reader(lines, path), (1, []))[1]
        if not any(cell.strip() for cell in header):
            raise DataError(f"{path} line 1: no header; the first line names the columns: audio,prediction,…")
        columns = [cell.strip() for cell in header]
    elif kind == "jsonl":
        columns = _json_columns(path, encoding)
    else:
        columns = list(_parquet_file(path).schema_arrow.names)
    _check_columns(path, columns)
    return columns


def is_null(cell: str | None) -> bool:
    """Whether a cell stands for nothing: empty, blank or the word ``null``."""
    return cell is None or cell.strip() in ("", "null")


def _is_unicode(text: str) -> bool:
    """False for halves of surrogate pairs, which JSON can express and no file or tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    return "parquet" if suffix in (".parquet", ".pq") else "csv"


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(
            f"{path} line 1: column {', '.join(map(repr, twice))} is there twice; rename or remove one"
        )
    if "audio" in columns:
        return
    hint = ""
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(columns) == 1 and mark in columns[0]:
            hint = f"; its cells are separated by {name}: save it with commas"
    near = difflib.get_close_matches("audio", [name.lower() for name in columns], n=1)
    if not hint and near:
        hint = f"; is it {near[0]!r}? Rename it to audio"
    listed = ", ".join(repr(name[:40]) for name in columns[:12]) or "none"
    raise DataError(f"{path} line 1: no column 'audio'; its columns are {listed}{hint}")


def _row(number: int, columns: Sequence[str], cells: tuple[str, ...]) -> Row | BadRow:
    """A row of its cells, or what is wrong with them."""
    named = dict(zip(columns, cells, strict=True))
    for name, cell in named.items():
        if not cell.isascii() and not _is_unicode(cell):
            return BadRow(number, f"{name} is not valid Unicode text", cells)
    if is_null(named["audio"]):
        return BadRow(number, "no audio: the cell is empty", cells)
    values: dict[str, Any] = {}
    for name in TEXT_FIELDS[1:]:
        values[name] = None if is_null(named.get(name)) else named[name]
    for name in TIME_FIELDS:
        cell = named.get(name, "")
        if is_null(cell):
            continue
        try:
            values[name] = float(cell)
        except ValueError:
            return BadRow(number, f"{name} {cell[:40]!r} is not a number of seconds", cells)
        if not (math.isfinite(values[name]) and values[name] >= 0):
            return BadRow(number, f"{name} {cell[:40]!r} is not a time in the clip, in seconds", cells)
    start, end = values.get("start") or 0.0, values.get("end")
    if end is not None and end <= start:
        return BadRow(number, f"the segment ends at {end:g} s, not after its start at {start:g} s", cells)
    extra = {name: cell for name, cell in named.items() if name not in FIELDS}
    return Row(number, named["audio"].strip(), extra=extra, cells=cells, **values)


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[Iterator[str]]:
    """The lines of a text file, line ends kept; a byte-order mark is left out."""
    try:
        with open(path, "rb") as raw:
            start = raw.read(4)
        if start[:2] in _UTF16_MARKS and "16" not in encoding:
            raise DataError(f"{path} line 1: a UTF-16 file; say --encoding utf-16")
        name = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
        with open(path, encoding=name, newline="") as stream:
            yield _checked(stream, path)
    except LookupError as error:
        raise DataError(
            f"--encoding {encoding}: no such text encoding; for example utf-8, gbk, utf-16"
        ) from error
    except UnicodeError as error:
        raise DataError(
            f"{path}{_undecodable_line(path, encoding)}: not {encoding} text ({_reason(error)}); say what it "
            "is, for example --encoding gbk, or save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from error


def _checked(stream: Iterator[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        if "\0" in line:
            raise DataError(
                f"{path} line {number}: a NUL character; the file is damaged or of another encoding "
                "(--encoding utf-16?)"
            )
        yield line


def _reason(error: UnicodeError) -> str:
    return error.reason if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)) else str(error)


def _undecodable_line(path: Path, encoding: str) -> str:
    """`` line 17``: the first line that isn't of the encoding; nothing where that can't be said."""
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    line.decode(encoding)
                except UnicodeError:
                    return f" line {number}"
    except (OSError, LookupError):
        pass
    return ""


def _csv_reader(lines: Iterator[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """Records with the number of the line on which each begins; empty lines are passed over."""
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(lines, strict=True)
    begins = 1
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path} line {begins}: the record that begins here can't be read ({error}): is a quote "
                'open, or one inside a cell not doubled ("")?'
            ) from error
        if record:
            yield begins, record
        begins = reader.line_num + 1


def _csv_records(path: Path, encoding: str, columns: Sequence[str]) -> Iterator[Row | BadRow]:
    with _opened(path, encoding) as lines:
        reader = _csv_reader(lines, path)
        next(reader, None)
        for number, record in reader:
            cells = tuple(record)
            if len(cells) != len(columns):
                yield BadRow(
                    number,
                    f"{len(cells)} cells where the header has {len(columns)}; is a comma not in quotes?",
                    cells,
                )
            else:
                yield _row(number, columns, cells)


def _json_lines(path: Path, encoding: str) -> Iterator[tuple[int, str, Any]]:
    """Line number, text and value of each line that isn't blank; instead of a value its error."""
    with _opened(path, encoding) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    value = error
                yield number, line, value


def _json_columns(path: Path, encoding: str) -> list[str]:
    found: dict[str, None] = {}
    for _, _, value in _json_lines(path, encoding):
        if isinstance(value, dict):
            found.update(dict.fromkeys(value))
    if not found:
        raise DataError(f"{path}: no JSON object in it; each line is one, with at least the key audio")
    return list(found)


def _json_records(path: Path, encoding: str, columns: Sequence[str]) -> Iterator[Row | BadRow]:
    for number, line, value in _json_lines(path, encoding):
        if not isinstance(value, dict):
            what = "not JSON" if isinstance(value, Exception) else "not a JSON object"
            yield BadRow(number, f"{what}: {line.strip()[:60]!r}")
        else:
            yield _typed_row(number, columns, value)


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _parquet_records(path: Path, encoding: str, columns: Sequence[str]) -> Iterator[Row | BadRow]:
    import pyarrow as pa

    number = 0
    try:
        for batch in _parquet_file(path).iter_batches(batch_size=_PARQUET_ROWS):
            for value in batch.to_pylist():
                number += 1
                yield _typed_row(number, columns, value)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged after row {number} ({str(error).splitlines()[0]})") from error


def _typed_row(number: int, columns: Sequence[str], value: Mapping[str, Any]) -> Row | BadRow:
    """A row of typed values. Text stays as it is, numbers are written out, null is an empty cell."""
    cells = tuple(_cell(value.get(name)) for name in columns)
    for name in TEXT_FIELDS:
        if isinstance(value.get(name), (dict, list, bytes, bool)):
            return BadRow(number, f"{name} is {type(value[name]).__name__}, not text", cells, value)
    return replace(_row(number, columns, cells), typed=value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list, bool, int, float)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
