"""The live line: the one line of a terminal that is drawn again and again while the work goes on.

A terminal has one at most. It is cleared before anything else is printed, whoever prints in this process.
Where other processes print to the same terminal (torchrun does), nobody could clear it for them: there, as in
a file, a line is printed now and then instead.

``rich.progress`` was tried in its place (rich 15.0.0, ``auto_refresh=False`` and so no thread, drawing to the
same guarded stream). It loses what other code prints: a half line of another library is erased, and a line of
a library in C is glued to the live line, since rich leaves the cursor at its end; both are in
``tests/system/terminal/test_screen.py``. A process that is killed leaves the cursor hidden. The first line
takes 40 ms instead of 0.1, most of it the import (median of nine processes in turn with ours), a further one
225 µs instead of 16, and clearing it 650 µs instead of 3.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import unicodedata
from collections.abc import Iterator

from mdl_toolkit.terminal import streams

#: Back to the line's beginning, and clear it.
_CLEAR = "\r\x1b[2K"


class LiveLine:
    """The state of the live line.

    Attributes:
        allowed: Whether everything that is printed in this process goes through :meth:`make_room`.
    """

    def __init__(self) -> None:
        self.allowed = False
        self._shown = self._mid_line = False
        self._drawing: int | None = None  # the thread that draws

    def possible(self) -> bool:
        """Whether this process may keep a live line: the terminal is its own, and its cursor can be moved."""
        several = bool(os.environ.get("RANK")) and os.environ.get("WORLD_SIZE", "1") != "1"
        shared = several or "TORCHELASTIC_RUN_ID" in os.environ
        try:
            terminal = sys.stderr is not None and sys.stderr.isatty()
        except (OSError, ValueError):
            terminal = False
        return self.allowed and terminal and not shared and os.environ.get("TERM") not in ("dumb", "unknown")

    def show(self, text: str) -> None:
        """Draw a text in place of the one before, as much of it as fits into the terminal's width."""
        if not self.possible():
            return
        try:
            columns = os.get_terminal_size(2).columns or 80
        except OSError:
            columns = 80
        text = "".join(c if c.isprintable() else " " for c in text)
        while _width(text) >= columns and text:
            text = text[:-1]
        start = "\n" if self._mid_line else _CLEAR
        # The cursor goes back: what a library in C prints, past the streams, stands at a line's beginning.
        self._draw(f"{start}{text}\r")
        self._shown, self._mid_line = True, False

    def clear(self) -> None:
        """Remove the live line if there is one, so that something else can stand there."""
        if self._shown:
            self._shown = False
            self._draw(_CLEAR)

    def make_room(self, stream: streams.Descriptor, data: bytes) -> None:
        """Clear the live line, since something is about to be printed on one of the standard streams."""
        if self._drawing == threading.get_ident() or not data or not stream.isatty():
            return
        self.clear()
        # A bar of another library begins with a return and may be drawn over; a half line may not.
        self._mid_line = not data.endswith((b"\n", b"\r")) and b"\r" not in data

    def _draw(self, text: str) -> None:
        self._drawing = threading.get_ident()
        try:
            streams.write_error(text)
        finally:
            self._drawing = None


#: The live line of this process's terminal.
LIVE = LiveLine()


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """Show on a terminal what is being done, as long as nothing else is printed and the block lasts.

    On a process that isn't alone on its terminal nothing is shown.
    """
    LIVE.show(text)
    try:
        yield
    finally:
        LIVE.clear()


def _width(text: str) -> int:
    """How many columns a text takes: Chinese characters take two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )
