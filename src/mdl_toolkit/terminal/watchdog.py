"""Ends a process whose main thread is stuck in C, where it can't react to signals.

Python calls a signal's handler between two of its own instructions only, and a process that waits in C for
another one makes none: the signal would do nothing, where the system's default would have ended the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable

from mdl_toolkit.terminal.console import print_line
from mdl_toolkit.terminal.ending import end_process
from mdl_toolkit.terminal.logs import is_main_process
from mdl_toolkit.terminal.torchrun import report_failure


class SignalWatchdog:
    """A thread that sees every signal of this process and ends the process where its main thread doesn't.

    Python writes the numbers of signals into a pipe as they come. The thread reads them, and asks the main
    thread by a harmless signal (SIGURG) whether it still executes Python. Make it in the main thread.

    Args:
        patience: Says for a signal's number how many seconds the main thread gets to answer; ``None`` where
            this signal doesn't end the process.
    """

    def __init__(self, patience: Callable[[int], float | None]) -> None:
        self._patience, self._answered, self._closed = patience, threading.Event(), False
        self._main = threading.get_ident()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._urgent = signal.signal(signal.SIGURG, lambda *_: self._answered.set())
        threading.Thread(target=self._run, name="signal-watch", daemon=True).start()

    def close(self) -> None:
        """Leave everything as it was before."""
        self._closed = True
        self._answered.set()
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGURG, signal.SIG_DFL if self._urgent is None else self._urgent)
        os.close(self._write)  # the thread ends with the pipe

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while numbers := os.read(self._read, 64):
                for number in numbers:
                    seconds = self._patience(number)
                    if seconds is not None and self._is_stuck(seconds):
                        _leave(number)
        os.close(self._read)

    def _is_stuck(self, patience: float) -> bool:
        self._answered.clear()
        if self._closed:
            return False
        signal.pthread_kill(self._main, signal.SIGURG)
        return not self._answered.wait(patience)


def _leave(number: int) -> None:
    """End the process. Its line doesn't go through ``logging``, a lock of which may be held for ever."""
    line = f"stopped by {signal.Signals(number).name}"
    report_failure(line)
    if is_main_process():
        print_line(line)
    end_process(128 + number, exit_functions=False)
