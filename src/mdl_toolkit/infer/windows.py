"""Rows in windows, each done as a whole; they depend on the input alone, so a resumed run has the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.data.audio.load import AudioLimits, clip_seconds
from mdl_toolkit.data.input.records import BadRow, Row, read_records

#: Batches in a window, by kind of device. In a long window batches stay full for longer, because its rows
#: take the places of those that end. That pays on GPUs, where a step takes as long for few rows as for many.
#: What a kill can cost is the window that was begun.
_BATCHES = {"cuda": 32}
_BATCHES_ELSEWHERE = 8
#: Windows that each of several processes should have at least, so that all are busy.
_SHARES = 2


@dataclass(frozen=True)
class Window:
    """Consecutive rows of the input.

    Attributes:
        number: Its number, from 0.
        first: Place of its first row in the input, from 0.
        rows: All of its rows, bad ones too.
    """

    number: int
    first: int
    rows: tuple[Row | BadRow, ...]

    def good(self) -> list[int]:
        """Places in the input of the rows that can be tried."""
        return [self.first + place for place, row in enumerate(self.rows) if isinstance(row, Row)]

    def row(self, place: int) -> Row:
        """The row at a place in the input, which is none of the bad ones."""
        row = self.rows[place - self.first]
        assert isinstance(row, Row)
        return row


def window_rows(batch_size: int, rows: int, processes: int, device: str = "cpu") -> int:
    """Rows of a window: some batches, fewer where many processes would otherwise wait for one."""
    most = _BATCHES.get(device, _BATCHES_ELSEWHERE)
    if processes == 1:
        return batch_size * most
    return batch_size * max(1, min(most, rows // (processes * _SHARES * batch_size)))


def read_windows(path: Path, encoding: str, size: int) -> Iterator[Window]:
    """The input, a window at a time."""
    rows: list[Row | BadRow] = []
    number = 0
    for record in read_records(path, encoding):
        rows.append(record)
        if len(rows) == size:
            yield Window(number, number * size, tuple(rows))
            rows, number = [], number + 1
    if rows:
        yield Window(number, number * size, tuple(rows))


def by_length(window: Window, limits: AudioLimits, pool: ThreadPoolExecutor) -> list[int]:
    """Places of a window's good rows, long clips first, as their files' headers say.

    Clips of like length are read together, and what needs most memory comes first.
    """
    places = window.good()
    seconds = list(pool.map(lambda place: _seconds(window.row(place), limits), places))
    return [place for _, place in sorted(zip(seconds, places, strict=True), key=lambda pair: -pair[0])]


def _seconds(row: Row, limits: AudioLimits) -> float:
    """Length of a clip; 0 where only loading it will tell. It decides an order and nothing else."""
    if row.end is not None:
        return row.end - (row.start or 0.0)
    return clip_seconds(row.audio, start=row.start, limits=limits) or 0.0
