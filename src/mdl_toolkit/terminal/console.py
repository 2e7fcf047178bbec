"""What the command line prints: lines on standard error, results on standard output.

Lines go to standard error, so that standard output stays free for results. Printing a line never raises:
where it can't be done, it isn't.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from mdl_toolkit.errors import MdlError
from mdl_toolkit.terminal import streams
from mdl_toolkit.terminal.live_line import LIVE
from mdl_toolkit.terminal.logs import PackageLogger

#: What stands before a message of a level.
_PREFIXES = {logging.WARNING: "warning: ", logging.ERROR: "error: "}


class ConsoleHandler(logging.Handler):
    """Prints the records of the package's loggers for a person, each on a line of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record's message on standard error; the live line makes room for it."""
        print_line(_PREFIXES.get(record.levelno, "") + record.getMessage())


@contextlib.contextmanager
def messages_on_console() -> Iterator[None]:
    """Print what the package's loggers say from INFO on, and leave nothing of it to handlers of others.

    Where it is done already, nothing changes, so that every message is printed once.
    """
    package = logging.getLogger("mdl_toolkit")
    if any(isinstance(handler, ConsoleHandler) for handler in package.handlers):
        yield
        return
    handler, before = ConsoleHandler(), (package.level, package.propagate)
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
    PackageLogger.on_console = True
    try:
        yield
    finally:
        PackageLogger.on_console = False
        package.removeHandler(handler)
        package.setLevel(before[0])
        package.propagate = before[1]


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Make sure that nothing that prints in a program of ours can end it or spoil its live line."""
    streams.guard(LIVE.make_room)
    LIVE.allowed = True
    try:
        yield
    finally:
        # The streams stay: what the interpreter prints and flushes at its end must not change the exit code.
        LIVE.clear()
        LIVE.allowed = False


def print_line(text: str) -> None:
    """Print a line on standard error, whatever has become of it."""
    LIVE.clear()
    streams.write_error(f"{text}\n")


def print_result(text: str, *, in_file: bool = False) -> None:
    """Print what a command was asked for, on standard output.

    A reader that has gone (``| head``) has what it wanted.

    Args:
        text: The result.
        in_file: Whether it was written to a file as well: then nothing is lost where it can't be printed.

    Raises:
        MdlError: It can't be written.
    """
    LIVE.clear()
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
    if problem is not None and not in_file and not isinstance(problem, BrokenPipeError):
        raise MdlError(f"standard output can't be written: {problem.strerror or problem}")


def flush() -> None:
    """Write out what was printed, as far as that can be done."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
