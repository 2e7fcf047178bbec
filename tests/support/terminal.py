"""Answer the questions of a program that insists on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

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
                typed = next((text for pattern, text in answers if re.search(pattern, question)), "")
                answered = len(screen)
                for key in f"{typed}\r":
                    os.write(terminal, key.encode())
                    time.sleep(0.02)
    finally:
        os.close(terminal)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, screen
    return screen
