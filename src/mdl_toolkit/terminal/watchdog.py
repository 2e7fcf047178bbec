"""Ends a process that a signal should have ended, and that doesn't end.

Python calls a signal's handler between two of its own instructions only, and a process that waits in C for
another one makes none: the signal would do nothing, where the system's default would have ended the process.
Nor does it end where the exception that the handler raised got lost (Python ignores all that is raised while
it frees an object), or where what is left of the work waits for a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable

#: Seconds that a process gets to end by itself, once a signal has ended its work: within them it removes what
#: is half-written. A library may have taken the signal for an error of its own, or wait for a thread.
ENDING_SECONDS = 20.0


class SignalWatchdog:
    """A thread that sees every signal of this process and ends the process where its main thread doesn't.

    Python writes the numbers of signals into a pipe as they come. The thread reads them, and asks the main
    thread by a harmless signal (SIGURG) whether it still executes Python. Make it in the main thread.

    Args:
        patience: Says for a signal's number how many seconds the main thread gets to answer; ``None`` where
            this signal doesn't end the process.
        ending: Says whether a signal has ended the work of the main thread.
        leave: Ends the process, given the signal's number.
    """

    def __init__(
        self,
        patience: Callable[[int], float | None],
        ending: Callable[[], bool],
        leave: Callable[[int], None],
    ) -> None:
        self._patience, self._ending, self._leave = patience, ending, leave
        self._answered, self._closed = threading.Event(), False
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
            deadline, ended_by = None, 0
            numbers_come = select.poll()  # ``select.select`` refuses numbers of files above 1023
            numbers_come.register(self._read, select.POLLIN)
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
                if not numbers_come.poll(left):
                    self._leave(ended_by)
                numbers = os.read(self._read, 64)
                if not numbers:
                    break
                for number in numbers:
                    seconds = self._patience(number)
                    if seconds is None:
                        continue
                    if self._is_stuck(seconds):
                        self._leave(number)
                    if deadline is None and self._ending():
                        deadline, ended_by = time.monotonic() + ENDING_SECONDS, number
        os.close(self._read)

    def _is_stuck(self, patience: float) -> bool:
        self._answered.clear()
        if self._closed:
            return False
        signal.pthread_kill(self._main, signal.SIGURG)
        return not self._answered.wait(patience)
