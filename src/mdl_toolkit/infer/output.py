"""The finished CSV: every input column as it was, in order, with the predictions."""

from __future__ import annotations

import csv
import filecmp
import os
import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from mdl_toolkit.data.records import BadRow, Row, read_header
from mdl_toolkit.errors import MdlError
from mdl_toolkit.files import atomic_file
from mdl_toolkit.infer.journal import Journal, Result
from mdl_toolkit.infer.windows import read_windows

PREDICTION, ERROR = "prediction", "error"


def write_output(
    source: Path, encoding: str, journal: Journal, output: Path, with_errors: bool, replace: bool = False
) -> Path | None:
    """Join the input and what the journal has, a window at a time.

    Args:
        source: The input.
        encoding: Its text encoding.
        journal: With the results of all good rows.
        output: The CSV to make; it appears whole.
        with_errors: Whether any row failed: there is an ``error`` column then.
        replace: Whether an earlier output may go; else it is kept under another name.

    Returns:
        Where an earlier output with other content is kept.

    Raises:
        MdlError: Where the journal lacks a row, or the CSV can't be written.
    """
    columns = read_header(source, encoding)
    added = [PREDICTION] + ([ERROR] if with_errors else [])
    header = columns + [name for name in added if name not in columns]
    places = {name: header.index(name) for name in added}
    kept = None
    try:
        with atomic_file(output, newline="", encoding=output_encoding(source, encoding)) as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(header)
            for window in read_windows(source, encoding, journal.window_rows):
                results = journal.results(window.number)
                for offset, row in enumerate(window.rows):
                    result = _result(row, window.first + offset, results, source)
                    writer.writerow(_cells(row.cells, len(columns), header, places, result))
            stream.flush()
            if output.exists() and not replace and not filecmp.cmp(stream.name, output, shallow=False):
                kept = _keep(output)
    except OSError as error:
        raise MdlError(f"{output}: can't be written: {error.strerror or error}") from error
    return kept


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
    """What the output is written in: the input's encoding where that can hold every answer, else UTF-8.

    A byte-order mark stays where there was one, so that a spreadsheet opens both alike. GBK is widened to
    GB18030, which reads the same and holds all characters.
    """
    name = encoding.lower().replace("_", "-")
    if name in ("gbk", "gb2312", "gb18030", "cp936"):
        return "gb18030"
    if name.startswith("utf-16"):
        return "utf-16"
    with open(source, "rb") as stream:
        marked = stream.read(3) == b"\xef\xbb\xbf"
    return "utf-8-sig" if marked or name == "utf-8-sig" else "utf-8"


def _result(row: Row | BadRow, place: int, results: dict[int, Result], source: Path) -> Result:
    if isinstance(row, BadRow):
        return Result(place, error=row.problem)
    if place not in results:
        raise MdlError(
            f"{source} line {row.number}: no result in the journal; with several machines, --output must be "
            "on a file system that all of them share"
        )
    return results[place]


def _cells(
    cells: Sequence[str], width: int, header: Sequence[str], places: dict[str, int], result: Result
) -> list[str]:
    """A row of the output. One with too few or too many cells is brought to the header's width."""
    filled = [*cells[:width], *[""] * (width - len(cells)), *[""] * (len(header) - width)]
    filled[places[PREDICTION]] = result.prediction
    if ERROR in places:
        filled[places[ERROR]] = result.error or ""
    return filled
