"""Programs in a terminal of their own: their questions answered, and what a person sees of them."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from support.processes.launch import environment

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def answer(
    words: Sequence[str],
    answers: Sequence[tuple[str, str]],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float = 60,
) -> str:
    """Run a program in a terminal of its own and answer what it asks.

    Args:
        words: The command line.
        answers: Patterns of questions and what to type then; Enter, for the default, at any other question.
        cwd: Where it starts.
        env: Its whole environment.
        timeout: Seconds until it is ended and the test fails.

    Returns:
        What was on the screen.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(cwd)
        os.execvpe(words[0], list(words), dict(env))
    screen, answered = "", 0
    deadline = time.monotonic() + timeout
    try:
        while True:
            ready, _, _ = select.select([terminal], [], [], 0.15)
            if ready:
                try:
                    screen += _COLOURS.sub("", os.read(terminal, 65536).decode(errors="replace"))
                except OSError:
                    break  # the other end is closed
                continue
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                raise AssertionError(f"{words[0]} did not end:\n{screen}")
            question = screen[answered:]
            # A menu's question has its choices below it; a field ends with a colon or a question mark.
            if "?" in question or question.rstrip().endswith(":"):
                answered = len(screen)
                _type(terminal, next((text for pattern, text in answers if re.search(pattern, question)), ""))
    finally:
        os.close(terminal)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, screen
    return screen


def _type(terminal: int, text: str) -> None:
    for key in f"{text}\r":
        os.write(terminal, key.encode())
        time.sleep(0.02)


def rows(written: str) -> list[str]:
    """What stands on an endless screen after all that was written: returns and cleared lines count."""
    lines, column = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", written):
        if piece == "\n":
            lines.append("")
            column = 0
        elif piece == "\r":
            column = 0
        elif piece == "\x1b[2K":
            lines[-1] = ""
        elif not piece.startswith("\x1b"):
            before = lines[-1].ljust(column)
            lines[-1] = before[:column] + piece + before[column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines if line.strip()]


class Screen:
    """A program in a terminal. Made by :func:`started`.

    Attributes:
        process: Its id; it leads the terminal's session.
        written: All that it and its children have written so far.
    """

    def __init__(self, process: int, terminal: int, timeout: float) -> None:
        self.process, self._terminal, self.written = process, terminal, ""
        self._deadline = time.monotonic() + timeout
        self._bytes, self.ended = b"", False

    def read(self) -> None:
        """Take what has been written, waiting for it a moment."""
        if self.ended or not select.select([self._terminal], [], [], 0.05)[0]:
            return
        try:
            self._bytes += os.read(self._terminal, 65536)
        except OSError:
            self.ended = True  # the other end is closed
        # The terminal writes a return before each line's end.
        self.written = self._bytes.decode(errors="replace").replace("\r\n", "\n")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something to be so."""
        while not condition():
            self.read()
            assert not self.ended or condition(), f"ended before {what}:\n{self.written}"
            assert time.monotonic() < self._deadline, f"no time left for {what}:\n{self.written}"

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._terminal, keys.encode())

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end: exit code, and the lines that stay on the screen."""
        self.until(lambda: self.ended, "its end")
        _, status = os.waitpid(self.process, 0)
        self.process = 0
        return os.waitstatus_to_exitcode(status), rows(self.written)


@contextmanager
def started(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 240
) -> Iterator[Screen]:
    """Start a program in a terminal of its own; it ends with the block."""
    given = {**environment(cwd), "TERM": "xterm", **(env or {})}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(cwd)
        os.execvpe(words[0], list(words), given)
    screen = Screen(child, terminal, timeout)
    try:
        yield screen
    finally:
        if screen.process:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(terminal)
