"""The lines of a journal: what they say of windows and rows, and a checksum that shows where one is cut."""

from __future__ import annotations

import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RowResult:
    """The result of a row.

    Attributes:
        place: The row's place in the input, from 0.
        prediction: The answer; empty where there is none.
        error: Why there is no answer; ``None`` where there is one.
        cut: Whether the limit ended the answer.
        confidence: What is said beside the answer, by column, as JSON has it.
    """

    place: int
    prediction: str = ""
    error: str | None = None
    cut: bool = False
    confidence: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> list[Any]:
        """What a line holds of it."""
        plain = [self.place, self.prediction, self.error, int(self.cut)]
        return [*plain, dict(self.confidence)] if self.confidence else plain

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> RowResult:
        """What a line says."""
        place, prediction, error, cut, *more = value
        return cls(place, prediction, error, bool(cut), *more)


def make_line(value: Any) -> bytes:
    """A value as a line with its checksum."""
    body = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse_line(line: bytes) -> Any:
    """The value of a line, or ``None`` where it is not whole."""
    if len(line) < 10 or not line.endswith(b"\n"):
        return None
    body = line[9:-1]
    if line[:9] != b"%08x " % zlib.crc32(body):
        return None
    return json.loads(body)


@dataclass(frozen=True)
class Place:
    """Where a line lies, if it lies in a file."""

    file: Path
    start: int
    length: int

    def read(self) -> Any:
        """The value of the line; ``None`` where it isn't there any more."""
        with open(self.file, "rb") as stream:
            stream.seek(self.start)
            return parse_line(stream.read(self.length))


@dataclass
class WindowRecord:
    """What the lines say of a window."""

    lines: list[Place] = field(default_factory=list)
    rows: int = 0
    errors: int = 0
    cut: int = 0


class WindowLog(ABC):
    """Notes results of windows, and counts what all processes have noted as far as it is known here.

    Args:
        own: The file of this process's own lines.

    Attributes:
        rows: Rows of finished windows.
        errors: Those of them that failed.
        cut: Those whose answers the length limit ended.
    """

    def __init__(self, own: Path) -> None:
        self._own = own
        self._open: dict[tuple[Path, int], WindowRecord] = {}
        self._done: dict[int, WindowRecord] = {}
        self.rows = self.errors = self.cut = 0

    @property
    @abstractmethod
    def window_rows(self) -> int:
        """Rows of a window, as the work was begun."""

    @abstractmethod
    def refresh(self) -> None:
        """Take in what other processes have noted since the last time."""

    @abstractmethod
    def _write(self, value: Any) -> None:
        """Note a line, so that it outlives this process, and take it in."""

    @abstractmethod
    def leave(self) -> None:
        """Note that this process has nothing left to do."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files."""

    def begin(self, window: int) -> None:
        """Note that a window is begun; what an earlier run had of it is ignored from now on."""
        self._write({"window": window, "begin": True})

    def add(self, window: int, results: Sequence[RowResult]) -> None:
        """Note results of a window."""
        self._write({"window": window, "rows": [result.as_json() for result in results]})

    def finish(self, window: int) -> None:
        """Note that a window is done: its results outlive a kill from here on."""
        self._write({"window": window, "done": self._open[self._own, window].rows})

    def is_done(self, window: int) -> bool:
        """Whether a window is finished."""
        return window in self._done

    @property
    def done(self) -> Iterable[int]:
        """The numbers of finished windows."""
        return self._done.keys()

    @property
    def windows(self) -> int:
        """Finished windows."""
        return len(self._done)

    def _take(self, value: Any, line: Place) -> None:
        """Take in what a line says."""
        number = value["window"]
        key = (line.file, number)
        if "begin" in value:
            self._open[key] = WindowRecord()
        elif "rows" in value and key in self._open:
            window = self._open[key]
            window.lines.append(line)
            window.rows += len(value["rows"])
            window.errors += sum(row[2] is not None for row in value["rows"])
            window.cut += sum(bool(row[3]) for row in value["rows"])
        elif "done" in value and key in self._open:
            window = self._open.pop(key)
            if number not in self._done and window.rows == value["done"]:
                self._done[number] = window
                self.rows += window.rows
                self.errors += window.errors
                self.cut += window.cut
