"""What a person sees: one process of a run speaks, progress shows rate and time left, warnings stand out.

Everything goes to standard error, so that standard output stays free for results. Printing never raises:
where it can't be done, it isn't.

A terminal has one live line at most. It is cleared before anything else is printed, whoever prints in this
process. Where other processes print to the same terminal (torchrun does), nobody could clear it for them:
there, as in a file, is a line now and then instead. ``rich`` has live displays too, but on a closed pipe they
end the program, they add 60 ms to each start, and a thread of theirs redraws while the run computes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator

from mdl_toolkit.errors import MdlError
from mdl_toolkit.terminal import streams

#: Where torchrun looks for the cause of a process's failure.
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
#: Head start of the process that says what is wrong for all.
_MODESTY_SECONDS = 5.0
#: Back to the line's beginning, and clear it.
_CLEAR = "\r\x1b[2K"
#: Seconds between two looks of a live line.
_LIVE_SECONDS = 0.2


def is_main_process() -> bool:
    """Whether this is the one process of a launch that prints (rank 0; also outside any launcher)."""
    try:
        return int(os.environ.get("RANK") or 0) == 0
    except ValueError:
        return True  # whoever gave it is told so; someone has to


def say(message: str = "", everywhere: bool = False) -> None:
    """Print a line.

    Args:
        message: The line.
        everywhere: On every process of a launch, not only on the main one.
    """
    if everywhere or is_main_process():
        _live.clear()
        _put(f"{message}\n")


def warn(message: str, everywhere: bool = False) -> None:
    """Print a warning; arguments as :func:`say`."""
    say(f"warning: {message}", everywhere)


def result(text: str) -> None:
    """Print what a command was asked for, on standard output.

    A reader that has gone (``| head``) has what it wanted.

    Raises:
        MdlError: It can't be written.
    """
    _live.clear()
    problem: OSError | None = None
    try:
        if sys.stdout is not None:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
    except OSError as error:
        problem = error
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, streams.Descriptor):
        problem, raw.problem = raw.problem, None
    if problem is not None and not isinstance(problem, BrokenPipeError):
        raise MdlError(f"standard output can't be written: {problem.strerror or problem}")


def flush() -> None:
    """Write out what was printed, as far as that can be done."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """For a program of ours: whatever prints in it can neither end it nor spoil a live line."""
    streams.guard(_live.make_room)
    _live.allowed = True
    try:
        yield
    finally:
        # The streams stay: what the interpreter prints and flushes at its end must not change the exit code.
        _live.clear()
        _live.allowed = False


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """Show on a terminal what is being done, as long as nothing else is printed and the block lasts."""
    if is_main_process():
        _live.show(text)
    try:
        yield
    finally:
        _live.clear()


def is_live() -> bool:
    """Whether this process may keep a live line: the terminal is its own, and moves its cursor."""
    return _live.possible()


def clear_live() -> None:
    """Remove the live line if there is one, so that something else can stand there."""
    _live.clear()


def _put(text: str) -> None:
    """Write to standard error whatever has become of it, also in the middle of another write."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        stream.flush()
    except (OSError, ValueError):
        pass
    except RuntimeError:  # a signal's handler, while its own process was writing
        with contextlib.suppress(OSError):
            os.write(2, text.encode("utf-8", streams.PLAIN))


def _width(text: str) -> int:
    """Columns that a text takes: Chinese characters take two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


class _LiveLine:
    """The one line of a terminal that is drawn again and again.

    Attributes:
        allowed: Whether all that is printed in this process comes by :meth:`make_room`.
    """

    def __init__(self) -> None:
        self.allowed = False
        self._shown = self._mid_line = False
        self._drawing: int | None = None  # the thread that does

    def possible(self) -> bool:
        """Whether there is a terminal for it."""
        several = bool(os.environ.get("RANK")) and os.environ.get("WORLD_SIZE", "1") != "1"
        shared = several or "TORCHELASTIC_RUN_ID" in os.environ
        try:
            terminal = sys.stderr is not None and sys.stderr.isatty()
        except (OSError, ValueError):
            terminal = False
        return self.allowed and terminal and not shared and os.environ.get("TERM") not in ("dumb", "unknown")

    def show(self, text: str) -> None:
        """Draw it, as much of it as fits into the terminal's width."""
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
        """Remove it."""
        if self._shown:
            self._shown = False
            self._draw(_CLEAR)

    def make_room(self, stream: streams.Descriptor, data: bytes) -> None:
        """Something is about to be printed on one of the standard streams."""
        if self._drawing == threading.get_ident() or not data or not stream.isatty():
            return
        self.clear()
        # A bar of another library begins with a return and may be drawn over; a half line may not.
        self._mid_line = not data.endswith((b"\n", b"\r")) and b"\r" not in data

    def _draw(self, text: str) -> None:
        self._drawing = threading.get_ident()
        try:
            _put(text)
        finally:
            self._drawing = None


_live = _LiveLine()


def tell_torchrun(cause: str) -> bool:
    """Leave the cause of a failure where torchrun looks for it: it becomes the last thing in its own report.

    Returns:
        Whether torchrun (or accelerate, which uses it) will report it.
    """
    path = os.environ.get(_ERROR_FILE)
    if not path:
        return False
    report = {"message": {"message": cause, "extraInfo": {"timestamp": str(int(time.time()))}}}
    try:
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(report, stream)
    except OSError:
        return False
    return True


def give_way() -> None:
    """Under torchrun, wait for the end that the process with the cause brings; elsewhere do nothing.

    torchrun reports whichever process it sees ended first, and ends the others.
    """
    if os.environ.get(_ERROR_FILE):
        time.sleep(_MODESTY_SECONDS)


def duration(seconds: float) -> str:
    """A length of time for people: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Ticker:
    """A line that says how far the work is: live on a terminal, printed now and then elsewhere.

    Args:
        every: Seconds between lines where there is no live one.
    """

    def __init__(self, every: float = 10.0) -> None:
        self._every = every
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for :meth:`show`."""
        passed = time.monotonic() - self._last
        if passed < _LIVE_SECONDS or not is_main_process():
            return False
        return passed >= self._every or is_live()

    def show(self, line: str) -> None:
        """Show how far the work is now."""
        self._last = time.monotonic()
        if is_live():
            _live.show(line)
        else:
            say(line)


class Progress:
    """A counter with rate and time left: one live line on a terminal, a line now and then elsewhere.

    Args:
        label: What is being done.
        total: How many there are; ``None`` where it isn't known.
        unit: What is counted.
        every: Seconds between lines where there is no live one.
    """

    def __init__(self, label: str, total: int | None, unit: str = "rows", every: float = 10.0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self._ticker, self._start = Ticker(every), time.monotonic()
        self.done = 0

    def update(self, count: int = 1, note: str = "") -> None:
        """Count some more and show it when it is time to."""
        self.done += count
        if self._ticker.due():
            self._ticker.show(self._line(note))

    def _line(self, note: str) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = self.done / elapsed
        parts = [f"{self.label}: {self.done}"]
        if self.total:
            parts[0] += f"/{self.total} {self.unit} ({100 * self.done / self.total:.0f} %)"
        else:
            parts[0] += f" {self.unit}"
        parts.append(f"{rate:.1f}/s")
        if self.total and rate > 0:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        if note:
            parts.append(note)
        return ", ".join(parts)

    def clear(self) -> None:
        """Remove the live line, so that something else can stand there."""
        clear_live()

    def close(self, message: str | None = None) -> None:
        """Clear the live line and print a closing one."""
        elapsed = time.monotonic() - self._start
        say(message or f"{self.label}: {self.done} {self.unit} in {duration(elapsed)}")
