"""Signals that ask a run to stop: let the step finish, save, and leave with a code that says so."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from types import TracebackType

from mdl_toolkit.console import say
from mdl_toolkit.errors import Stopped
from mdl_toolkit.interrupts import STOP_SIGNALS, Listener, current

__all__ = ["STOP_SIGNALS", "StopSignals", "agreed_signal"]


class StopSignals:
    """While the block lasts, the first signal is noted; a second one ends the process at once.

    Args:
        launched: As :class:`mdl_toolkit.interrupts.Listener` has it.
    """

    def __init__(self, launched: bool | None = None) -> None:
        self._listener = (current() if launched is None else None) or Listener(launched)
        self._immediate: str | None = None
        self._stack = ExitStack()

    def __enter__(self) -> StopSignals:
        if current() is not self._listener:
            self._stack.enter_context(self._listener)
        before, self._listener.answer = self._listener.answer, self._note
        self._stack.callback(setattr, self._listener, "answer", before)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def received(self) -> int | None:
        """The first signal."""
        return self._listener.received

    def _note(self, number: int) -> None:
        if self._immediate is not None:
            raise Stopped(number, self._immediate)
        say(f"{signal.Signals(number).name}: finishing this step, then saving (again: stop at once)")

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
