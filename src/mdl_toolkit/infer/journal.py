"""What is done already, on disk: a killed run that is started again resumes from it.

``OUT.partial/``, beside the output ``OUT``, holds ``work.json`` (what is being done) and, of each process,
``rank-N.jsonl``: a line for each answer, as soon as it is there, and one when a window of rows is done; and
``rank-N.left`` once that process has done its share. Every line has a checksum, which shows where a kill has
cut one short. Windows that are not done are answered again from their first row, with the same rows running
together, so that the result is the same as if nothing had happened.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import MdlError, UserError
from mdl_toolkit.files import lock_if_possible, write_json

WORK_NAME = "work.json"
#: Names of a journal's files, unfinished ones among them.
_OURS = re.compile(r"(\.partial-)?work\.json(-\d+)?|rank-\d+\.(jsonl|lock|left)")


@dataclass(frozen=True)
class RowResult:
    """The result of a row.

    Attributes:
        place: The row's place in the input, from 0.
        prediction: The answer; empty where there is none.
        error: Why there is no answer; ``None`` where there is one.
        cut: Whether the limit ended the answer.
    """

    place: int
    prediction: str = ""
    error: str | None = None
    cut: bool = False


@dataclass(frozen=True)
class _Line:
    """Where a line of a journal lies."""

    file: Path
    start: int
    length: int

    def read(self) -> Any:
        with open(self.file, "rb") as stream:
            stream.seek(self.start)
            return _parse(stream.read(self.length))


def _parse(line: bytes) -> Any:
    """The value of a line, or ``None`` where it is not whole."""
    if len(line) < 10 or not line.endswith(b"\n"):
        return None
    body = line[9:-1]
    if line[:9] != b"%08x " % zlib.crc32(body):
        return None
    return json.loads(body)


def partial_folder(output: Path) -> Path:
    """The journal's folder, beside the output."""
    return output.with_name(f"{output.name}.partial")


@dataclass
class _WindowRecord:
    """What a journal has of a window."""

    lines: list[_Line] = field(default_factory=list)
    rows: int = 0
    errors: int = 0
    cut: int = 0


class Journal:
    """The journal of one process, and what all of them have done.

    Args:
        output: The file that is being made.
        rank: The number of this process.

    Attributes:
        rows: Rows of finished windows.
        errors: Those of them that failed.
        cut: Those whose answers the length limit ended.
    """

    def __init__(self, output: Path, rank: int = 0) -> None:
        self.output, self.folder = output, partial_folder(output)
        self._path = self.folder / f"rank-{rank}.jsonl"
        self._lock: Any = None
        self._stream: Any = None
        self._open: dict[tuple[Path, int], _WindowRecord] = {}
        self._done: dict[int, _WindowRecord] = {}
        self._read_to: dict[Path, int] = {}
        self.rows = self.errors = self.cut = 0

    def prepare(self, work: Mapping[str, Any], window_rows: int, overwrite: bool) -> bool:
        """Make the folder, or find out whether what is there is the same work. One process alone does this.

        Args:
            work: All that decides the result, by the name that a person knows it under.
            window_rows: Rows of a window, for work that begins here.
            overwrite: Start anew where other work is there.

        Returns:
            Whether an earlier run's work is resumed.

        Raises:
            UserError: Where other work is there; it names what differs.
        """
        before = self._read_work()
        plain = json.loads(json.dumps(work))
        if before is not None and before.get("work") != plain:
            if not overwrite:
                raise UserError(
                    f"{self.folder} holds unfinished work of another command "
                    f"({_difference(before.get('work'), plain)}); repeat that command to finish it, or add "
                    "--overwrite to start anew"
                )
            before = None
        try:
            if before is None:
                self._refuse_if_busy()
                self._refuse_if_foreign()
                self._clear()
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(self.folder / WORK_NAME, {"work": plain, "window_rows": window_rows})
        except OSError as error:
            raise UserError(f"{self.folder}: can't be made: {error.strerror or error}") from None
        return before is not None

    @property
    def window_rows(self) -> int:
        """Rows of a window, as the work was begun."""
        size = (self._read_work() or {}).get("window_rows")
        if type(size) is not int or size < 1:
            raise UserError(f"{self.folder / WORK_NAME}: damaged; start anew with --overwrite")
        return size

    def _refuse_if_busy(self) -> None:
        for path in self.folder.glob("rank-*.lock"):
            with open(path, "a") as stream:
                _lock(stream, self.output)

    def _refuse_if_foreign(self) -> None:
        """Nothing that isn't a journal's is ever removed."""
        names = sorted(path.name for path in self._entries())
        foreign = [name for name in names if not _OURS.fullmatch(name) and not name.startswith(".nfs")]
        if foreign:
            raise UserError(
                f"{self.folder}: it holds {foreign[0]}, which is no part of unfinished work; move that "
                "folder away, or name another --output"
            )

    def _entries(self) -> list[Path]:
        try:
            return list(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _clear(self) -> None:
        """Remove the journal's own files, and the folder where nothing else is in it."""
        for path in self._entries():
            if _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _read_work(self) -> dict[str, Any] | None:
        """The work that the folder holds; ``None`` where there is none, empty where it can't be read."""
        try:
            value = json.loads((self.folder / WORK_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError:
            # Killed between making the folder and writing what it is for: nothing is lost.
            return {} if any(self.folder.glob("rank-*.jsonl")) else None
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def is_for(self, work: Mapping[str, Any]) -> bool:
        """Whether the folder is there, and for this work."""
        return bool((self._read_work() or {}).get("work") == json.loads(json.dumps(work)))

    def open(self) -> None:
        """Read what is done, and get ready to add to it.

        Raises:
            UserError: Where another process is using this journal.
        """
        try:
            self._lock = open(self.folder / f"{self._path.stem}.lock", "a")  # noqa: SIM115 -- closed in close
        except OSError as error:
            raise UserError(f"{self.folder}: can't be written: {error.strerror or error}") from None
        _lock(self._lock, self.output)
        self.refresh()
        self._stream = open(self._path, "ab")  # noqa: SIM115 -- closed in close
        self._stream.truncate(self._read_to.get(self._path, 0))

    def refresh(self) -> None:
        """Take in what has been added since the last time, by other processes too."""
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            position = self._read_to.get(path, 0)
            with open(path, "rb") as stream:
                stream.seek(position)
                for line in stream:
                    value = _parse(line)
                    if value is None:  # cut short by a kill, or being written right now
                        break
                    self._take(value, _Line(path, position, len(line)))
                    position += len(line)
            self._read_to[path] = position

    def _take(self, value: Any, line: _Line) -> None:
        number = value["window"]
        key = (line.file, number)
        if "begin" in value:
            self._open[key] = _WindowRecord()
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

    @property
    def windows(self) -> int:
        """Finished windows."""
        return len(self._done)

    def is_done(self, window: int) -> bool:
        """Whether a window is finished."""
        return window in self._done

    def results(self, window: int) -> dict[int, RowResult]:
        """Results of a finished window's rows by place."""
        found: dict[int, RowResult] = {}
        for line in self._done[window].lines if window in self._done else ():
            value = line.read()
            if value is None:
                raise MdlError(f"{line.file}: changed while it was in use")
            for place, prediction, error, cut in value["rows"]:
                found[place] = RowResult(place, prediction, error, bool(cut))
        return found

    def begin(self, window: int) -> None:
        """Note that a window is begun; what an earlier run had of it is ignored from now on."""
        self._write({"window": window, "begin": True})

    def add(self, window: int, results: Sequence[RowResult]) -> None:
        """Note results of a window."""
        rows = [[r.place, r.prediction, r.error, int(r.cut)] for r in results]
        self._write({"window": window, "rows": rows})

    def finish(self, window: int) -> None:
        """Note that a window is done: its results outlive a kill from here on."""
        self._write({"window": window, "done": self._open[self._path, window].rows})

    def _write(self, value: Any) -> None:
        body = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        try:
            self._stream.write(line)
            self._stream.flush()
        except OSError as error:
            raise MdlError(
                f"{self._path}: can't be written: {error.strerror or error}; what was done before is kept: "
                "start the same command again"
            ) from None
        start = self._read_to.get(self._path, 0)
        self._take(value, _Line(self._path, start, len(line)))
        self._read_to[self._path] = start + len(line)

    def leave(self) -> None:
        """Note that this process has nothing left to do: the folder may go."""
        with suppress(OSError):
            self._path.with_suffix(".left").touch()

    def left(self, size: int) -> bool:
        """Whether all of ``size`` processes but the first have left."""
        return all((self.folder / f"rank-{rank}.left").exists() for rank in range(1, size))

    def forget_left(self) -> None:
        """Forget which processes of an earlier launch had left."""
        for path in self.folder.glob("rank-*.left"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files."""
        for stream in (self._stream, self._lock):
            if stream is not None:
                stream.close()
        self._stream = self._lock = None

    def remove(self) -> None:
        """Remove the folder: the output is whole."""
        self.close()
        self._clear()


def _lock(stream: Any, output: Path) -> None:
    """Keep others out for as long as this process lives."""
    if not lock_if_possible(stream.fileno()):
        raise UserError(f"{output}: another inference is writing it; wait for it or end it")


def _difference(before: Any, now: Mapping[str, Any]) -> str:
    """What differs, for people: ``--max-new-tokens was 20, now 30``."""
    if not isinstance(before, dict) or not before:
        return "it can't be read"
    parts = []
    for name in [*now, *(key for key in before if key not in now)]:
        old, new = before.get(name), now.get(name)
        if old != new:
            plain = all(
                isinstance(v, (str, int, float, bool, type(None))) and len(str(v)) <= 40 for v in (old, new)
            )
            digest = name in ("input", "model")
            parts.append(f"{name} was {old}, now {new}" if plain and not digest else f"another {name}")
    return ", ".join(parts[:4])
