"""Signals that ask a command to end: what the first one does, and what a second one does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mdl_toolkit.errors import STOPPED, STOPPED_UNSAVED, code_of_stop
from mdl_toolkit.terminal.console import print_line
from mdl_toolkit.terminal.ending import end_process
from mdl_toolkit.terminal.live_line import LIVE
from mdl_toolkit.terminal.logs import is_main_process
from mdl_toolkit.terminal.torchrun import report_failure
from mdl_toolkit.terminal.watchdog import SignalWatchdog

#: A terminal's Ctrl-C, a scheduler's notices, and the end of the terminal or connection.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

#: A launcher forwards a signal that the terminal or scheduler has sent to its children as well: what arrives
#: within so many seconds under a launcher is the same request, not a second one.
SAME_REQUEST_SECONDS = 2.0
#: Without a launcher, too, one request may come twice: a batch system signals a job's script, which passes it
#: on, and the job's processes. But a Ctrl-C that comes again is a person's second one.
_SAME_NOTICE_SECONDS = 1.0
#: Seconds that the main thread gets to react to the first signal and to a second one, before the process is
#: taken to be stuck in C.
PATIENCE = (10.0, 1.0)
#: Seconds after the work in which further signals do nothing: the process is ending, with its own exit code.
_LATE_SECONDS = 5.0
#: Environment variable of children to which signals are forwarded that they may have got themselves.
FORWARDED = "MDL_TOOLKIT_SIGNALS_FORWARDED"


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end, at whatever it was doing.

    Like a Ctrl-C it is no ``Exception``: code that continues after an error doesn't continue after this.
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
        launched: Whether another program may send a signal again that this process has got itself. Without
            it, the environment decides.

    Attributes:
        received: The first signal.
        unsaved: What would be lost if the process ended now, to stand behind a signal's name: ``with step 8
            unsaved``; empty where nothing would be.
        answer: Called with the first signal's number.
        again: Called with a second one's.
    """

    def __init__(self, launched: bool | None = None) -> None:
        self.received: int | None = None
        self.unsaved = ""
        self._interrupted = False
        self.answer: Callable[[int], None] = self.interrupt
        self.again: Callable[[int], None] = end_at_once
        self._launched = _may_be_sent_twice() if launched is None else launched
        self._process = os.getpid()
        self._first: float | None = None
        self._first_watched: float | None = None
        self._watched: int | None = None
        self._heard = False
        self._before: dict[int, Any] = {}
        self._watchdog: SignalWatchdog | None = None

    def interrupt(self, number: int) -> None:
        """Raise :class:`Interrupted`: what the first signal does where nothing else was set."""
        self._interrupted = True
        raise Interrupted(number)

    @contextmanager
    def answered_by(
        self, answer: Callable[[int], None], again: Callable[[int], None] | None = None
    ) -> Iterator[None]:
        """Listen while the block lasts, if this doesn't already, with other answers.

        Args:
            answer: Called with the first signal's number.
            again: Called with a second one's; the same as before if it is ``None``.
        """
        with nullcontext() if self is _current else self:
            before = self.answer, self.again
            self.answer, self.again = answer, again or self.again
            try:
                yield
            finally:
                self.answer, self.again = before

    @contextmanager
    def anew(self) -> Iterator[None]:
        """Forget the first signal; the next one within the block raises :class:`Interrupted`."""
        self.received = self._first = self._first_watched = self._watched = None
        self._heard = False
        with self.answered_by(self.interrupt):
            yield

    def __enter__(self) -> Listener:
        global _current
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
            self._watchdog = SignalWatchdog(self._patience, lambda: self._interrupted, _leave)
            self._outer, _current = _current, self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current, _listened_until
        if self._watchdog is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()
        self._watchdog.close()
        self._watchdog, _current = None, self._outer
        if _current is None:
            _listened_until = time.monotonic()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _as_by_default(number)  # a child that a library forked: not this process's to answer
        now = time.monotonic()
        if self.received is None:
            self.received, self._first = number, None if self._heard else now
            self.answer(number)
        elif self._first is None:
            self._first = now  # of the same request, which came by another process before
        elif self._is_another(number, now - self._first):
            self.again(number)

    def _is_another(self, number: int, later: float) -> bool:
        """Whether a signal so many seconds after the first is a request of its own."""
        if number == signal.SIGHUP or (self._launched and later < SAME_REQUEST_SECONDS):
            return False
        return number == signal.SIGINT or later > _SAME_NOTICE_SECONDS

    def _patience(self, number: int) -> float | None:
        """How long the watchdog waits after a signal for the main thread; ``None`` where nothing is to end.

        It is called in the watchdog's thread, also where the main thread is stuck and has noted nothing.
        """
        if number not in STOP_SIGNALS:
            return None
        now = time.monotonic()
        again = self._first_watched is not None and self._is_another(number, now - self._first_watched)
        if self._watched is None:
            self._watched, self._first_watched = number, None if self._heard else now
        elif self._first_watched is None:
            self._first_watched = now
        ends = self.again == end_at_once if again else self.answer == self.interrupt
        return PATIENCE[again] if ends else None

    @property
    def asked(self) -> int | None:
        """The first signal, also while the main thread is busy in C and has not received it."""
        return self.received if self.received is not None else self._watched

    def hear(self, number: int) -> None:
        """In any thread: take a signal that another process of the run has received for one of this process.

        The next one that this process receives itself may be the same request, however late it comes.

        Args:
            number: The signal.
        """
        self._heard = True
        os.kill(os.getpid(), number)

    def seconds(self) -> float:
        """Seconds since the first signal came; 0 where none has."""
        # The watchdog's thread sees a signal also while the main thread is busy in C.
        times = [at for at in (self._first, self._first_watched) if at is not None]
        return time.monotonic() - min(times) if times else 0.0


def _may_be_sent_twice() -> bool:
    """Whether another program may send this process a signal that it has got already."""
    if "TORCHELASTIC_RUN_ID" in os.environ or FORWARDED in os.environ:
        return True
    with suppress(OSError):  # timeout(1) signals its child, and then the group that the child is in
        return Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8") == "timeout\n"
    return False


#: The innermost listener.
_current: Listener | None = None
#: When this process last listened.
_listened_until = float("-inf")


def end_undisturbed() -> None:
    """Let signals that come when this process has just listened do nothing; call it before it listens.

    They are further ones of a request that was answered: a scheduler sends many to many processes. They must
    not change the exit code of a process that is ending.
    """

    def late(number: int, _frame: FrameType | None) -> None:
        if time.monotonic() - _listened_until > _LATE_SECONDS:
            _as_by_default(number)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, late)


def current() -> Listener | None:
    """The listener of this process, if it has one."""
    return _current


@contextmanager
def interrupted_anew() -> Iterator[None]:
    """Within the block a signal raises :class:`Interrupted`, also where others came before it."""
    with _current.anew() if _current is not None else nullcontext():
        yield


def stop_code(number: int) -> int:
    """The exit code of this process if a signal ends it now: whether something is lost decides it.

    Args:
        number: The signal.
    """
    return code_of_stop(number, unsaved=bool(_current and _current.unsaved))


def stop_line(number: int, again: bool = False, then: str = "") -> str:
    """The last line of this process if a signal ends it now.

    Args:
        number: The signal.
        again: Whether it is the second one.
        then: What is left, and how to go on.
    """
    which = f"{'a second ' if again else ''}{signal.Signals(number).name}"
    unsaved = _current.unsaved if _current else ""
    if unsaved:
        return f"{STOPPED_UNSAVED}: by {which} {unsaved}" + (f"; {then}" if then else "")
    return f"{STOPPED} by {which}" + (f": {then}" if then else "")


def end_at_once(number: int) -> None:
    """End the process here and now: what a second signal does where nothing else was set."""
    if _current is not None and _current.unsaved:
        _leave(number, again=True)
    _as_by_default(number)


def _leave(number: int, again: bool = False) -> None:
    """End the process. Its line doesn't go through ``logging``, a lock of which may be held for ever."""
    line = stop_line(number, again)
    report_failure(line, stop_code(number))
    if is_main_process():
        print_line(line)
    if number == signal.SIGINT and again:
        _as_by_default(number)
    end_process(stop_code(number), exit_functions=False)


def _as_by_default(number: int) -> None:
    """The system's own way of ending a process also tells the parent which signal it was."""
    LIVE.clear()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the first process of a container: the system spares it
