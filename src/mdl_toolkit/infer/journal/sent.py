"""Lines of processes that don't see the journal's folder: they are sent, and rank 0 adds them to files there.

So every host can take part, whatever file systems it shares, and a run that was killed goes on with the
answers of all hosts. A line is sent as soon as it is there; what a kill can cost is the last second.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from mdl_toolkit.errors import MdlError
from mdl_toolkit.infer.journal.journal import Journal, append_whole, cannot_write
from mdl_toolkit.infer.journal.lines import Place, WindowLog, WindowRecord, make_line
from mdl_toolkit.infer.processes.link import Link

#: Seconds between two looks for lines.
_POLL_SECONDS = 0.5


class SentJournal(WindowLog):
    """The journal of a process whose lines go to rank 0.

    Args:
        link: The way there.
        window_rows: Rows of a window.
        done: Windows that were finished before, wherever.
    """

    def __init__(self, link: Link, window_rows: int, done: Iterable[int]) -> None:
        super().__init__(Path())
        self._link, self._size, self._sent = link, window_rows, 0
        self._done = {window: WindowRecord() for window in done}

    @property
    def window_rows(self) -> int:
        """Rows of a window, as the work was begun."""
        return self._size

    def refresh(self) -> None:
        """Nothing: what other processes do is rank 0's concern."""

    def leave(self) -> None:
        """Nothing: the link says when this process has left."""

    def close(self) -> None:
        """Nothing: there are no files."""

    def _write(self, value: Any) -> None:
        self._link.send(self._sent, make_line(value).decode("ascii"))
        self._sent += 1
        self._take(value, Place(Path(), 0, 0))


class Collector:
    """On rank 0: adds the lines that other processes send to their files in the journal's folder.

    A thread does it, as rank 0 has rows of its own to answer meanwhile.

    Args:
        link: The way from the others.
        journal: The journal, open.
        ranks: The processes that send their lines.
    """

    def __init__(self, link: Link, journal: Journal, ranks: Sequence[int]) -> None:
        self._link, self._files = link, {rank: journal.file_of(rank) for rank in ranks}
        self._next = dict.fromkeys(ranks, 0)
        self._streams = ExitStack()
        self._open: dict[int, IO[bytes]] = {}
        self._ended = threading.Event()
        self._problem: MdlError | None = None
        for rank, path in self._files.items():
            # What a kill has cut short goes, as at the beginning of this process's own file.
            stream = open(path, "ab", buffering=0)  # noqa: SIM115 -- closed in close
            self._open[rank] = self._streams.enter_context(stream)
            stream.truncate(journal.whole_bytes(path))
        self._thread = threading.Thread(target=self._collect, name="collector", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what has gone wrong, for example that the disk is full."""
        if self._problem is not None:
            raise self._problem

    def close(self) -> None:
        """Collect no more."""
        self._ended.set()
        self._thread.join()
        self._streams.close()

    def _collect(self) -> None:
        try:
            while not self._ended.wait(_POLL_SECONDS):
                for rank, stream in self._open.items():
                    self._take_from(rank, stream)
        except RuntimeError:
            return  # the store is lost, which ends the process by itself
        except MdlError as error:
            self._problem = error

    def _take_from(self, rank: int, stream: IO[bytes]) -> None:
        while (line := self._link.receive(rank, self._next[rank])) is not None:
            self._next[rank] += 1
            try:
                append_whole(stream, line)
            except OSError as error:
                raise cannot_write(self._files[rank], error) from None
