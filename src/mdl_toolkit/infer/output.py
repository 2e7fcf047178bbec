"""The finished output, a CSV or JSON lines: each row of the input as it was, in order, and its prediction."""

from __future__ import annotations

import filecmp
import glob
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import IO, Any

from mdl_toolkit.data.input.compressed import unpacked_name
from mdl_toolkit.data.input.csvfile import CsvWriter, cell_text, text_cell
from mdl_toolkit.data.input.kinds import table_head
from mdl_toolkit.data.input.records import BadRow, Row, TableLayout, read_layout
from mdl_toolkit.errors import MdlError
from mdl_toolkit.files import PARTIAL_PREFIX, atomic_file
from mdl_toolkit.infer.columns import (
    ERROR,
    FINISH_REASON,
    PREDICTION,
    OutputColumns,
    named,
    output_columns,
)
from mdl_toolkit.infer.confidence.values import as_cell
from mdl_toolkit.infer.journal.journal import Journal
from mdl_toolkit.infer.journal.lines import RowResult
from mdl_toolkit.infer.windows import read_windows
from mdl_toolkit.settings.checks import output_kind


@dataclass(frozen=True)
class Written:
    """What is to be reported of an output.

    Attributes:
        kept: Where an earlier output with other content is kept.
        first_error: The first row that failed, and why.
        moved: Columns of the input whose place is taken, and the names that they have in the output.
    """

    kept: Path | None
    first_error: str | None
    moved: dict[str, str]


def write_output(
    source: Path, encoding: str, journal: Journal, output: Path, plan: OutputColumns, overwrite: bool = False
) -> Written:
    """Write the input's rows with their results from the journal, a window at a time.

    Args:
        source: The input.
        encoding: Its text encoding.
        journal: The journal with the results of all good rows.
        output: The file to make, of the kind that its name's ending says; it appears whole.
        plan: Its columns.
        overwrite: Whether an earlier output may go; else it is kept under another name.

    Raises:
        MdlError: Where the journal lacks a row, or the file can't be written.
    """
    layout = read_layout(source, encoding)
    columns = _columns_of(layout)
    kind = output_kind(output)
    failures: list[str] = []
    rows = _rows_with_results(source, encoding, journal, failures)
    # Where the name is a link, the file that it leads to is written, and the link stays.
    target = Path(os.path.realpath(output)) if output.is_symlink() else output
    _remove_unfinished(target)
    kept = None
    text = "utf-8" if kind == "jsonl" else output_encoding(source, encoding)
    try:
        # Halves of surrogate pairs, which JSON can express and no encoding, are written as \udXXX.
        with atomic_file(target, newline="", encoding=text, errors="backslashreplace") as stream:
            if kind == "jsonl":
                _write_json_lines(stream, rows, columns, plan)
            else:
                writer = CsvWriter(stream, _separator(layout, source, kind))
                writer.writerow([*layout.columns, *plan.header[len(columns) :]])
                _write_cells(writer, rows, columns, plan)
            stream.flush()
            if target.exists() and not overwrite and not filecmp.cmp(stream.name, target, shallow=False):
                kept = _keep(target)
    except OSError as error:
        raise MdlError(
            f"{output}: can't be written: {error.strerror or error}; all answers are kept: make room, then "
            "start the same command again"
        ) from error
    return Written(kept, failures[0] if failures else None, plan.moved)


def plan_output(
    source: Path, encoding: str, failed: bool, cut: bool, confidence: Collection[str]
) -> OutputColumns:
    """The columns of the output for an input; arguments as of :func:`output_columns`."""
    return output_columns(_columns_of(read_layout(source, encoding)), failed, cut, confidence)


def _columns_of(layout: TableLayout) -> Sequence[str]:
    return named(layout.columns) if layout.kind == "csv" else layout.columns


def _rows_with_results(
    source: Path, encoding: str, journal: Journal, failures: list[str]
) -> Iterator[tuple[Row | BadRow, RowResult]]:
    """The input's rows and their results; ``failures`` gets the first one that failed, and why."""
    for window in read_windows(source, encoding, journal.window_rows):
        results = journal.results(window.number)
        for offset, row in enumerate(window.rows):
            result = _result(row, window.first + offset, results, source)
            if result.error is not None and not failures:
                failures.append(f"line {row.number}: {result.error}")
            yield row, result


def _separator(layout: TableLayout, source: Path, kind: str | None) -> str:
    """The separator of the output's cells: the input's, unless the file names ask for another one."""
    if kind == "tsv":
        return "\t"
    named_for_tabs = layout.separator == "\t" and output_kind(unpacked_name(source)) == "tsv"
    return "," if named_for_tabs else layout.separator


def _write_cells(
    writer: CsvWriter,
    rows: Iterator[tuple[Row | BadRow, RowResult]],
    columns: Sequence[str],
    plan: OutputColumns,
) -> None:
    """A line of text for each row; a cell without a value is empty."""
    for row, result in rows:
        # A row with too few or too many cells is brought to the header's width.
        cells = [*row.cells[: len(columns)], *[""] * (len(columns) - len(row.cells))]
        said = {name: as_cell(value) for name, value in result.confidence.items()}
        result = replace(result, prediction=text_cell(result.prediction), confidence=said)
        joined = _joined(dict(zip(columns, cells, strict=True)), plan, result)
        writer.writerow(["" if (cell := joined.get(name)) is None else cell for name in plan.header])


def _write_json_lines(
    stream: IO[str],
    rows: Iterator[tuple[Row | BadRow, RowResult]],
    columns: Sequence[str],
    plan: OutputColumns,
) -> None:
    """An object for each row: the input's own values where they have types, else what its cells say."""
    for row, result in rows:
        values = row.typed
        if values is None:
            values = {name: cell_text(cell) or "" for name, cell in zip(columns, row.cells, strict=False)}
        stream.write(json.dumps(_joined(values, plan, result), ensure_ascii=False, default=str) + "\n")


def _joined(values: Mapping[str, Any], plan: OutputColumns, result: RowResult) -> dict[str, Any]:
    """A row's values in the order of the output's columns; what the row doesn't have isn't there."""
    reason = None if result.error is not None else "length" if result.cut else "stop"
    prediction = None if result.error is not None else result.prediction
    said = {PREDICTION: prediction, ERROR: result.error, FINISH_REASON: reason, **result.confidence}
    original = {new: values[old] for old, new in plan.moved.items() if old in values}
    every = {**values, **original, **{name: said.get(name) for name in plan.written}}
    return {name: every[name] for name in plan.header if name in every}


def _remove_unfinished(output: Path) -> None:
    """Remove unfinished copies of the output that killed processes left."""
    for path in output.parent.glob(f"{PARTIAL_PREFIX}{glob.escape(output.name)}-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
            path.unlink(missing_ok=True)


def _keep(output: Path) -> Path:
    """Give an earlier output a second name: the first free one of ``OUT.csv.1``, ``OUT.csv.2`` and so on."""
    for number in count(1):
        other = output.with_name(f"{output.name}.{number}")
        try:
            os.link(output, other)
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            if other.exists():
                continue
            shutil.copyfile(output, other)
        return other
    raise AssertionError("there is always a free number")


def output_encoding(source: Path, encoding: str) -> str:
    """What a CSV is written in: the input's encoding where that can hold every answer, else UTF-8.

    A byte-order mark stays where there was one, so that a spreadsheet opens both alike. GBK is widened to
    GB18030, which reads the same and holds all characters.
    """
    name = encoding.lower().replace("_", "-")
    if name in ("gbk", "gb2312", "gb18030", "cp936"):
        return "gb18030"
    if name.startswith("utf-16"):
        return "utf-16"
    marked = table_head(source).startswith(b"\xef\xbb\xbf")
    return "utf-8-sig" if marked or name == "utf-8-sig" else "utf-8"


def _result(row: Row | BadRow, place: int, results: dict[int, RowResult], source: Path) -> RowResult:
    if isinstance(row, BadRow):
        return RowResult(place, error=row.problem)
    if place not in results:
        raise MdlError(
            f"{source} line {row.number}: no result in the journal; with several machines, --output must be "
            "on a file system that all of them share"
        )
    return results[place]
