"""Signals that ask a command to end: what the first one does, and what a second one does.

By themselves they would end the process without a word, or not at all: Python calls a handler only between
two of its own instructions, and a process that waits in C for another one makes none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from mdl_toolkit.terminal.console import flush, print_line
from mdl_toolkit.terminal.live_line import clear_live_line
from mdl_toolkit.terminal.logs import is_main_process
from mdl_toolkit.terminal.torchrun import report_failure

#: A terminal's Ctrl-C, a scheduler's notices, and the end of the terminal or connection.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

#: A launcher forwards a signal that the terminal or scheduler has sent to its children as well: what arrives
#: within so many seconds under a launcher is the same request, not a second one.
SAME_REQUEST_SECONDS = 2.0
#: ``timeout`` sends SIGTERM to its child and then to the child's whole group.
_SAME_TERM_SECONDS = 0.05
#: Seconds that a process stuck in C gets to hear the first signal, and a later one.
PATIENCE = (10.0, 1.0)
#: Set for children to which signals are passed on that they may have got themselves.
FORWARDED = "MDL_TOOLKIT_SIGNALS_FORWARDED"


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end, at whatever it was doing.

    Like a Ctrl-C it is no ``Exception``: nothing that goes on after an error goes on after this.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


class Listener:
    """Listens to :data:`STOP_SIGNALS` while the block lasts.

    The first signal raises :class:`Interrupted`, or does what :attr:`answer` says. A second one ends the
    process at once. A hang-up is never the second: the system and the shell both send it when a terminal is
    closed, and service managers send it after SIGTERM. Where it was ignored from the start (``nohup``) it
    stays so. Outside the main thread nothing can be listened to, and nothing is.

    Args:
        launched: Whether another program may send a signal again that this process has got itself.

    Attributes:
        received: The first signal.
        answer: Called with the first signal's number.
        again: Called with a second one's.
    """

    def __init__(self, launched: bool | None = None) -> None:
        self.received: int | None = None
        self.answer: Callable[[int], None] = self.interrupt
        self.again: Callable[[int], None] = _end_by
        known = "TORCHELASTIC_RUN_ID" in os.environ or FORWARDED in os.environ
        self._launched = known if launched is None else launched
        self._process, self._first = os.getpid(), 0.0
        self._before: dict[int, Any] = {}
        self._watch: _Watch | None = None

    def interrupt(self, number: int) -> None:
        """The usual answer."""
        raise Interrupted(number)

    def __enter__(self) -> Listener:
        global _current
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
            self._watch = _Watch(self)
            self._outer, _current = _current, self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        if self._watch is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()
        self._watch.close()
        self._watch, _current = None, self._outer

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _end_by(number)  # a child that a library forked: not this process's to answer
        now = time.monotonic()
        if self.received is None:
            self.received, self._first = number, now
            self.answer(number)
        elif self.is_another(number, now - self._first):
            self.again(number)

    def is_another(self, number: int, later: float) -> bool:
        """Whether a signal so many seconds after the first is a request of its own."""
        if number == signal.SIGHUP or (self._launched and later < SAME_REQUEST_SECONDS):
            return False
        return number != signal.SIGTERM or later > _SAME_TERM_SECONDS

    def may_end(self, again: bool) -> bool:
        """Whether the first signal, or another, ends what is being done wherever it stands."""
        return self.again == _end_by if again else self.answer == self.interrupt


#: The innermost that listens.
_current: Listener | None = None


def current() -> Listener | None:
    """Who listens in this process."""
    return _current


class PassedOn:
    """While the block lasts, signals go to a child that does the work: what it makes of them is waited for.

    Start the child with :data:`FORWARDED` set: a terminal sends its signals to both.

    Attributes:
        received: The first signal.
    """

    def __init__(self) -> None:
        self._listener, self._stack = _current or Listener(), contextlib.ExitStack()
        self._child: int | None = None
        self._early: list[int] = []

    def __enter__(self) -> PassedOn:
        if self._listener is not _current:
            self._stack.enter_context(self._listener)
        for name in ("answer", "again"):
            self._stack.callback(setattr, self._listener, name, getattr(self._listener, name))
            setattr(self._listener, name, self._pass_on)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def received(self) -> int | None:
        """The first signal."""
        return self._listener.received

    def to(self, child: int) -> None:
        """Now the child is there."""
        self._child = child
        while self._early:
            self._pass_on(self._early.pop(0))

    def _pass_on(self, number: int) -> None:
        if self._child is None:
            self._early.append(number)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)


def _end_by(number: int) -> None:
    """The system's own way of ending a process also tells the parent which signal it was."""
    clear_live_line()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the first process of a container: the system spares it


class _Watch:
    """Ends a process whose main thread is stuck in C, where it can't hear signals.

    Python writes the numbers of signals into a pipe as they come. A thread reads them, and asks the main
    thread by a harmless signal whether it still executes Python.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener, self._answered, self._closed = listener, threading.Event(), False
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
        first: float | None = None
        with contextlib.suppress(OSError):
            while numbers := os.read(self._read, 64):
                for number in numbers:
                    if number not in STOP_SIGNALS:
                        continue
                    now = time.monotonic()
                    again = first is not None and self._listener.is_another(number, now - first)
                    first = now if first is None else first
                    if self._listener.may_end(again) and self._is_stuck(PATIENCE[again]):
                        self._leave(number)
        os.close(self._read)

    def _is_stuck(self, patience: float) -> bool:
        self._answered.clear()
        if self._closed:
            return False
        signal.pthread_kill(self._main, signal.SIGURG)
        return not self._answered.wait(patience)

    def _leave(self, number: int) -> None:
        line = f"stopped by {signal.Signals(number).name}"
        report_failure(line)
        if is_main_process():
            print_line(line)
        flush()
        os._exit(128 + number)
