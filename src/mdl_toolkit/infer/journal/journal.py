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
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from mdl_toolkit.errors import MdlError, UserError
from mdl_toolkit.files import lock_if_possible, write_json
from mdl_toolkit.infer.journal.lines import Place, RowResult, WindowLog, make_line, parse_line

WORK_NAME = "work.json"
#: Names of a journal's files, unfinished ones among them.
_OURS = re.compile(r"(\.partial-)?work\.json(-\d+)?|rank-\d+\.(jsonl|lock|left)|start-[0-9a-f]+")


def partial_folder(output: Path) -> Path:
    """The journal's folder, beside the output."""
    return output.with_name(f"{output.name}.partial")


class Journal(WindowLog):
    """The journal of one process, and what all of them have done.

    Args:
        output: The file that is being made.
        rank: The number of this process.
    """

    def __init__(self, output: Path, rank: int = 0) -> None:
        self.output, self.folder = output, partial_folder(output)
        super().__init__(self.file_of(rank))
        self._lock: Any = None
        self._stream: Any = None
        self._read_to: dict[Path, int] = {}

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

    def file_of(self, rank: int) -> Path:
        """The file of a process's lines."""
        return self.folder / f"rank-{rank}.jsonl"

    def whole_bytes(self, path: Path) -> int:
        """The number of bytes of a file that are whole lines, as far as they have been taken in."""
        return self._read_to.get(path, 0)

    def mark(self, name: str) -> None:
        """Leave a mark by which other processes recognise the folder as the one that they share."""
        for path in self.folder.glob("start-*"):
            path.unlink(missing_ok=True)
        (self.folder / f"start-{name}").touch()

    def has_mark(self, name: str) -> bool:
        """Whether the mark is seen from here. A list of names is fresher than a question for one, on NFS."""
        return f"start-{name}" in {path.name for path in self._entries()}

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

    def difference(self, work: Mapping[str, Any]) -> str:
        """What differs between the work that the folder holds and another; empty where it holds none."""
        before = self._read_work()
        return "" if before is None else _difference(before.get("work"), json.loads(json.dumps(work)))

    def open(self) -> None:
        """Read what is done, and get ready to add to it.

        Raises:
            UserError: Where another process is using this journal.
        """
        try:
            self._lock = open(self.folder / f"{self._own.stem}.lock", "a")  # noqa: SIM115 -- closed in close
        except OSError as error:
            raise UserError(f"{self.folder}: can't be written: {error.strerror or error}") from None
        _lock(self._lock, self.output)
        self.refresh()
        # Without a buffer, so that nothing is left to be written when it is closed.
        self._stream = open(self._own, "ab", buffering=0)  # noqa: SIM115 -- closed in close
        self._stream.truncate(self.whole_bytes(self._own))

    def refresh(self) -> None:
        """Take in what has been added since the last time, by other processes too."""
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            position = self._read_to.get(path, 0)
            with open(path, "rb") as stream:
                stream.seek(position)
                for line in stream:
                    value = parse_line(line)
                    if value is None:  # cut short by a kill, or being written right now
                        break
                    self._take(value, Place(path, position, len(line)))
                    position += len(line)
            self._read_to[path] = position

    def results(self, window: int) -> dict[int, RowResult]:
        """Results of a finished window's rows by place."""
        found: dict[int, RowResult] = {}
        for line in self._done[window].lines if window in self._done else ():
            value = line.read()
            if value is None:
                raise MdlError(f"{line.file}: changed while it was in use")
            for result in map(RowResult.from_json, value["rows"]):
                found[result.place] = result
        return found

    def _write(self, value: Any) -> None:
        line = make_line(value)
        try:
            append_whole(self._stream, line)
        except OSError as error:
            raise cannot_write(self._own, error) from None
        start = self.whole_bytes(self._own)
        self._take(value, Place(self._own, start, len(line)))
        self._read_to[self._own] = start + len(line)

    def leave(self) -> None:
        """Note that this process has nothing left to do: the folder may go."""
        with suppress(OSError):
            self._own.with_suffix(".left").touch()

    def left(self, size: int) -> bool:
        """Whether all of ``size`` processes but the first have left."""
        return not self.not_left(size)

    def not_left(self, size: int) -> list[int]:
        """Those of ``size`` processes but the first that have not left."""
        return [rank for rank in range(1, size) if not (self.folder / f"rank-{rank}.left").exists()]

    def forget_left(self) -> None:
        """Forget which processes of an earlier launch had left."""
        for path in self.folder.glob("rank-*.left"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files."""
        with ExitStack() as stack:  # which closes the second where the first fails, too
            for stream in (self._lock, self._stream):
                if stream is not None:
                    stack.callback(stream.close)
            self._stream = self._lock = None

    def remove(self) -> None:
        """Remove the folder: the output is whole."""
        self.close()
        self._clear()


def append_whole(stream: IO[bytes], line: bytes) -> None:
    """Write all of a line to a file that has no buffer.

    Raises:
        OSError: It can't be written, or only a part of it can.
    """
    rest = memoryview(line)
    while rest:
        rest = rest[stream.write(rest) or 0 :]


def cannot_write(path: Path, error: OSError) -> MdlError:
    """The error for a line that can't be added to a journal's file."""
    return MdlError(
        f"{path}: can't be written: {error.strerror or error}; what was done before is kept: make room, then "
        "start the same command again"
    )


def _lock(stream: Any, output: Path) -> None:
    """Keep others out for as long as this process lives."""
    if not lock_if_possible(stream.fileno()):
        raise UserError(f"{output}: another inference is writing it; wait for it or end it")


def differences(before: Any, now: Mapping[str, Any]) -> list[tuple[str, Any, Any, bool]]:
    """What differs between two descriptions: a name, both values, and whether they tell a person much."""
    found = []
    for name in [*now, *(key for key in before if key not in now)]:
        values = before.get(name), now.get(name)
        if values[0] != values[1]:
            short = all(isinstance(v, (str, int, float, type(None))) and len(str(v)) <= 40 for v in values)
            found.append((name, *values, short and name not in ("input", "model")))
    return found


def _difference(before: Any, now: Mapping[str, Any]) -> str:
    """What differs from the work that was begun, for people: ``--max-new-tokens was 20, now 30``."""
    if not isinstance(before, dict) or not before:
        return "it can't be read"
    told = [
        f"{name} was {old}, now {new}" if tells else f"another {name}"
        for name, old, new, tells in differences(before, now)
    ]
    return ", ".join(told[:4])
