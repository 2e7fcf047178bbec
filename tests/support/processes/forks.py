"""Real training processes without a start-up each: a server imports everything once, and forks itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.training.runs import environment

#: What the server does. A process of its own group for each command, its standard error in a file.
_SERVER = """
import os, signal, sys
from mdl_toolkit.cli import run
import mdl_toolkit.training.run, peft
for line in sys.stdin:
    words, log, before = eval(line)
    pid = os.fork()
    if not pid:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        exec(before)
        code = run(words)
        sys.stderr.flush()
        os._exit(code)
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Forks:
    """A server of processes that run a command each, one at a time.

    Attributes:
        log: What the last of them has said on its standard error.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder, self._count = process, folder, 0
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self.log = folder / "log-0"

    def start(self, words: list[str], before: str = "") -> int:
        """Start ``mdl-toolkit`` with some words.

        Args:
            words: Command and options.
            before: Python that the process runs first.

        Returns:
            Its process id, which is also its process group's.
        """
        self._count += 1
        self.log = self._folder / f"log-{self._count}"
        self._stdin.write(f"{(words, str(self.log), before)!r}\n")
        self._stdin.flush()
        return int(self._stdout.readline())

    def exit_code(self) -> int:
        """Wait for the process to end; negative for the signal that ended it."""
        return int(self._stdout.readline())

    @property
    def told(self) -> str:
        """What the last process has said on its standard error."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


@contextmanager
def serving_forks(folder: Path) -> Iterator[Forks]:
    """A server that ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        yield Forks(process, folder)
    finally:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
