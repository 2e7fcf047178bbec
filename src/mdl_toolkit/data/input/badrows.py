"""Rows that can't be used: counted, named, and kept in a CSV from which they can be mended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mdl_toolkit.data.input.csvfile import CsvWriter
from mdl_toolkit.files import atomic_file

#: Bad rows that are named on the screen; all of them are in a CSV.
SHOWN_BAD_ROWS = 20


def damage(
    folder: Path, total: int, rows: Sequence[tuple[str, str]], advice: str = "convert the dataset again"
) -> str:
    """A message about rows of a converted folder, each with its name and what is wrong with it."""
    if len(rows) == 1:
        name, problem = rows[0]
        return f"{name}: {problem}: {advice}"
    lines = [f"{len(rows)} of {total} rows of {folder} are damaged:"]
    lines += [f"  {name}: {problem}" for name, problem in rows[:SHOWN_BAD_ROWS]]
    more = len(rows) - SHOWN_BAD_ROWS
    return "\n".join([*lines, f"  and {more} more: {advice}" if more > 0 else f"  {advice}"])


class BadRows:
    """Collects bad rows: counts them, keeps the first ones, and writes all of them to a CSV.

    Args:
        path: The CSV: the input's columns, ``line`` and ``error``. It appears only if there is a bad row.
        columns: The names of the input's columns.
        separator: The character between the input's cells, so that the same program opens both.
    """

    def __init__(self, path: Path, columns: Sequence[str], separator: str = ",") -> None:
        self.path, self.count, self.first = path, 0, list[str]()
        self._columns, self._separator = columns, separator
        self._kept = [i for i, name in enumerate(columns) if name not in ("line", "error")]
        self._stack = ExitStack()
        self._writer: CsvWriter | None = None

    def __enter__(self) -> BadRows:
        self._stack.__enter__()
        return self

    def __exit__(self, *raised: Any) -> bool | None:
        return self._stack.__exit__(*raised)

    def add(self, number: int, problem: str, cells: tuple[str, ...]) -> None:
        """Count a bad row, and write it to the CSV."""
        if self._writer is None:
            # Halves of surrogate pairs, which JSON can express, are written as \udXXX.
            opened = atomic_file(self.path, newline="", errors="backslashreplace")
            stream = self._stack.enter_context(opened)
            self._writer = CsvWriter(stream, self._separator, "\r\n")
            self._writer.writerow([*(self._columns[i] for i in self._kept), "line", "error"])
        self.count += 1
        if len(self.first) < SHOWN_BAD_ROWS:
            self.first.append(f"  line {number}: {problem}")
        padded = [*cells, *[""] * (len(self._columns) - len(cells))]
        kept = [padded[i] for i in self._kept]
        self._writer.writerow([*kept, number, problem, *padded[len(self._columns) :]])

    def summary(self, total: int, name: str, advice: str) -> str:
        """A message that names the first of them."""
        lines = [f"{self.count} of {total} rows of {name} can't be used:", *self.first]
        more = f"  and {self.count - len(self.first)} more; " if self.count > len(self.first) else "  "
        return "\n".join([*lines, f"{more}all of them are in {self.path}; {advice}"])
