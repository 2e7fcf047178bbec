"""CSV as people have it: any of four separators, blanks around cells, and quotes that mean something.

Python's ``csv`` doesn't say which cells stood in quotes, and here it matters: ``"null"`` is a word, ``null``
is nothing. Lines without a quote, nearly all of them, are split; the others are walked through cell by cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO

from mdl_toolkit.errors import DataError

#: Characters that may separate cells; the first is used where the header doesn't tell.
SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
#: The number of characters of the longest cell; in a longer one, a quote was probably never closed.
MAX_CELL = 1 << 20
#: Lines that are looked at to find the header.
_HEADER_LINES = 64
#: The line above the header by which Excel is told the separator.
_SAID = re.compile(r'"?sep=(.)"?\s*')


class Quoted(str):
    """A cell that stood in quotes: text as it stands, also where it is ``null`` or begins with a blank."""

    __slots__ = ()


def cell_text(cell: str) -> str | None:
    """The text that a cell stands for; ``None`` where it says nothing.

    Blanks around a cell without quotes don't count, and without quotes the word ``null`` says nothing.
    """
    if isinstance(cell, Quoted):
        return str(cell) or None
    text = cell.strip()
    return None if text in ("", "null") else text


def text_cell(text: str) -> str:
    """The cell for a text: in quotes where it would otherwise be read as something else."""
    return Quoted(text) if text and cell_text(text) != text else text


def says_nothing(cells: Iterable[str]) -> bool:
    """Whether cells are empty and without quotes: spreadsheets write such ones where a cell was once used."""
    return not any(isinstance(cell, Quoted) or cell.strip() for cell in cells)


class CsvError(Exception):
    """A record that can't be read: the line on which it begins, and why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line

    def of(self, path: Path) -> DataError:
        """The error for a person, with the file's path."""
        return DataError(
            f"{path} line {self.line}: the record that begins here can't be read ({self}): is a quote open, "
            'or one inside a cell not doubled ("")?'
        )


def read_csv(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Records with the number of the line on which each begins; empty lines are passed over.

    Args:
        lines: The lines of the file, with their line ends.
        separator: The character between cells.

    Raises:
        CsvError: A quote is never closed, or text follows a closing one.
    """
    source = iter(lines)
    number = 0
    for line in source:
        number += 1
        if '"' not in line:
            text = line.rstrip("\r\n")
            if len(text) > MAX_CELL:
                _check_size(number, max(map(len, text.split(separator))))
            if text:
                yield number, text.split(separator)
            continue
        cells, more = _walk(line, source, separator, number)
        yield number, cells
        number += more


def _walk(line: str, source: Iterator[str], separator: str, number: int) -> tuple[list[str], int]:
    """The cells of a record that begins with this line, and how many more lines it has."""
    cells: list[str] = []
    at = more = 0
    quoted = _quoted(separator).match
    while True:
        if found := quoted(line, at):
            text, at = found[1], found.end()
            _check_size(number, len(text))
            cells.append(Quoted(text.replace('""', '"') if '""' in text else text))
        elif line.startswith('"', start := _past_blanks(line, at, separator)):
            text, line, at, read = _long_cell(line, start + 1, source, number)
            cells.append(Quoted(text))
            more += read
            at = _past_blanks(line, at, separator)
            if at < len(line) and line[at] != separator:
                raise CsvError(number, f"text after a closing quote: {line[at : at + 20].strip()!r}")
        else:
            end = line.find(separator, at)
            cells.append(line[at:].rstrip("\r\n") if end < 0 else line[at:end])
            _check_size(number, len(cells[-1]))
            at = len(line) if end < 0 else end
        if at >= len(line):
            return cells, more
        at += 1


@lru_cache(maxsize=len(SEPARATORS))
def _quoted(separator: str) -> re.Pattern[str]:
    """A cell in quotes that ends on its line, with the blanks around it."""
    blank, mark = rf"[^\S{separator}]*", re.escape(separator)
    return re.compile(rf'{blank}"([^"]*(?:""[^"]*)*)"{blank}(?={mark}|\Z)')


def _long_cell(line: str, at: int, source: Iterator[str], number: int) -> tuple[str, str, int, int]:
    """A cell in quotes that goes on over lines: its text, the line and place where it ends, lines read."""
    pieces: list[str] = []
    size = more = 0
    while True:
        end = line.find('"', at)
        pieces.append(line[at:] if end < 0 else line[at:end])
        size += len(pieces[-1])
        _check_size(number, size)
        if end < 0:
            line, at = next(source, ""), 0
            more += 1
            if not line:
                raise CsvError(number, "the file ends within quotes")
        elif line[end + 1 : end + 2] == '"':
            pieces.append('"')
            at = end + 2
        else:
            return "".join(pieces), line, end + 1, more


def _past_blanks(line: str, at: int, separator: str) -> int:
    while at < len(line) and line[at] != separator and line[at].isspace():
        at += 1
    return at


def _check_size(number: int, size: int) -> None:
    if size > MAX_CELL:
        raise CsvError(number, f"a cell of more than {MAX_CELL} characters")


def find_header(lines: Iterable[str]) -> tuple[str, int, list[str]]:
    """The separator of a CSV, the number of the line on which its header begins, and its columns.

    The separator is the one by which a column is named ``audio``; where none is, or several, the one that
    makes most columns. In a file of one column nothing separates: a comma does no harm there.

    Raises:
        CsvError: The header can't be read.
    """
    head = list(islice(lines, _HEADER_LINES))
    said = _SAID.fullmatch(head[0]) if head else None
    if said:
        head[0] = "\n"
    found: list[tuple[str, int, list[str]]] = []
    failure: CsvError | None = None
    for separator in (said[1],) if said else SEPARATORS:
        try:
            line, cells = next(read_csv(head, separator), (1, []))
        except CsvError as error:
            failure = failure or error
            continue
        found.append((separator, line, [cell.strip() for cell in cells]))
    if not found:
        raise failure or AssertionError
    return max(found, key=_likeliness)


def _likeliness(found: tuple[str, int, list[str]]) -> tuple[bool, bool, int]:
    columns = found[2]
    return "audio" in columns, "audio" in map(str.lower, columns), len(columns)


class CsvWriter:
    """Writes cells so that :func:`cell_text` says the same of them when they are read again.

    Args:
        stream: A text file that was opened with ``newline=""``.
        separator: The character between cells.
        line_end: The characters after each record.
    """

    def __init__(self, stream: IO[str], separator: str = ",", line_end: str = "\n") -> None:
        self._stream, self._separator, self._line_end = stream, separator, line_end
        self._special = re.compile(f'[{re.escape(separator)}"\r\n]')

    def writerow(self, cells: Sequence[str | int]) -> None:
        """Write a record. In quotes are the cells that stood in them and those that need them.

        NUL characters, which JSON can express, become U+FFFD: no table is read that has one.
        """
        written = [self._written(str(cell) if isinstance(cell, int) else cell) for cell in cells]
        # An empty line would be no record.
        record = self._separator.join(written) or '""'
        self._stream.write(record.replace("\0", "\ufffd") + self._line_end)

    def _written(self, cell: str) -> str:
        if isinstance(cell, Quoted):
            text: str = cell
        elif self._special.search(cell):
            text = cell.strip()  # blanks outside of quotes don't count
        else:
            return cell
        return '"' + text.replace('"', '""') + '"'
