"""Signals that ask a run to stop: let the step finish, save, and leave with a code that says so."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

from mdl_toolkit.console import say
from mdl_toolkit.errors import Stopped

#: What a run listens to, in the order in which :meth:`StopSignals.flags` reports them.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

#: A launcher forwards a signal that the terminal or scheduler has sent to its children as well: what arrives
#: within so many seconds under a launcher is the same request, not a second one.
SAME_REQUEST_SECONDS = 2.0


class StopSignals:
    """Listens while the block lasts. The first signal is noted, a second one ends the process at once.

    Args:
        launched: Whether a launcher started this process and may send a signal again that it got itself.
    """

    def __init__(self, launched: bool | None = None) -> None:
        self.received: int | None = None
        self._launched = "TORCHELASTIC_RUN_ID" in os.environ if launched is None else launched
        self._first = 0.0
        self._immediate: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._first = number, now
            if self._immediate is not None:
                raise Stopped(number, self._immediate)
            say(f"{signal.Signals(number).name}: finishing this step, then saving (again: stop at once)")
        elif not (self._launched and now - self._first < SAME_REQUEST_SECONDS):
            # The system's own way of ending a process also tells the parent which signal it was.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def flags(self) -> list[float]:
        """A number for each of :data:`STOP_SIGNALS`, 1 where it was received: summed over ranks to agree."""
        return [float(self.received == number) for number in STOP_SIGNALS]

    def stop_at_once(self, message: str) -> None:
        """From now on there is no step to finish: a signal raises :class:`Stopped` with ``message``."""
        self._immediate = message
        if self.received is not None:
            raise Stopped(self.received, message)


def agreed_signal(summed: list[float]) -> int | None:
    """The signal that a run stops for, of the :meth:`StopSignals.flags` summed over all ranks."""
    return next((int(number) for number, count in zip(STOP_SIGNALS, summed, strict=True) if count), None)
