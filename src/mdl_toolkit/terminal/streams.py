"""Standard output and error that never end a run.

Even if the output can't be written (``… 2>&1 | head``, a full disk, a terminal that was closed, a
character that an ASCII terminal doesn't have), the work goes on and the exit code is that of the work.
Everything that prints in this process goes through these streams: libraries, warnings, progress bars,
tracebacks, and the interpreter's own flush at its end, which would turn exit code 0 into 120.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO

#: Name of the codec error handler that writes what a terminal can't show in other characters.
PLAIN = "mdl_toolkit.plain"
#: Seconds that a reader which others have made non-blocking gets to take more.
_POLL_SECONDS = 10.0

_PLAINER = str.maketrans({
    "…": "...", "→": "->", "×": "x", "·": "-", "–": "-", "—": "-", "█": "#", "’": "'", "‘": "'", "“": '"',
    "”": '"', "≤": "<=", "≥": ">=", "−": "-", "✓": "+", "✗": "x", "↵": "\\n",
})  # fmt: skip
_DIRECT_ERRORS = ("strict", "backslashreplace", "surrogateescape")


def plainer(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""Codec error handler: ``...`` for an ellipsis, a file name's own bytes, ``\u4e2d`` for the rest."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if all("\udc80" <= character <= "\udcff" for character in text):
        return bytes(ord(character) - 0xDC00 for character in text), error.end
    plain = text.translate(_PLAINER)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error(PLAIN, plainer)


class Descriptor(io.RawIOBase):
    """A file descriptor to which writing never fails: what can't be written is dropped.

    Args:
        number: The descriptor.
        before: Called with this object and the bytes that are about to be written.

    Attributes:
        problem: The first failure of a write since it was last set to ``None``.
    """

    mode = "wb"

    def __init__(self, number: int, before: Callable[[Descriptor, bytes], None]) -> None:
        super().__init__()
        self._number, self._before = number, before
        self.name = {1: "<stdout>", 2: "<stderr>"}.get(number, f"<{number}>")
        self.problem: OSError | None = None

    def fileno(self) -> int:
        """The descriptor's number."""
        return self._number

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._number)

    def writable(self) -> bool:
        """It always is."""
        return True

    def write(self, data: Any, /) -> int:
        """Write what can be written, and report all of it as written."""
        whole = bytes(data)
        self._before(self, whole)
        self.put(whole)
        return len(whole)

    def put(self, data: bytes) -> None:
        """Write as it is."""
        while data:
            try:
                data = data[os.write(self._number, data) :]
            except BlockingIOError as error:
                if not self._takes_more():
                    self.problem = self.problem or error
                    return
            except OSError as error:
                self.problem = self.problem or error
                return

    def _takes_more(self) -> bool:
        waiting = select.poll()  # for any number of a descriptor: select() knows the first 1,024
        waiting.register(self._number, select.POLLOUT)
        return bool(waiting.poll(1000 * _POLL_SECONDS))

    def close(self) -> None:
        """Leave the descriptor open: it is the process's, not this object's."""


def open_missing() -> None:
    """Let standard descriptors that were closed lead nowhere.

    Else the next file that is opened, a checkpoint's for example, takes the number, and whatever a library
    prints goes into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)  # children count on it as well


def unfailing(stream: TextIO | None, number: int, before: Callable[[Descriptor, bytes], None]) -> TextIO:
    """A stream for the place of ``sys.stdout`` or ``sys.stderr``: same descriptor, same encoding."""
    encoding, errors = getattr(stream, "encoding", None) or "utf-8", getattr(stream, "errors", "strict")
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return io.TextIOWrapper(
        Descriptor(number, before),
        encoding=encoding,
        errors=PLAIN if errors in _DIRECT_ERRORS else errors,
        write_through=True,
    )


def guard(before: Callable[[Descriptor, bytes], None]) -> None:
    """Put such streams in place of this process's standard output and error.

    Args:
        before: Called with a stream's descriptor and the bytes that are about to be written to it.
    """
    open_missing()
    sys.stdout, sys.stderr = unfailing(sys.stdout, 1, before), unfailing(sys.stderr, 2, before)


def write_error(text: str) -> None:
    """Write to standard error whatever has become of it, also in the middle of another write; never raise."""
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
            os.write(2, text.encode("utf-8", PLAIN))
