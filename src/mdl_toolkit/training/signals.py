"""Signals that ask a run to stop: let the step finish, save, and leave with a code that says so."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

from mdl_toolkit.errors import Stopped
from mdl_toolkit.terminal.interrupts import STOP_SIGNALS, Interrupted, Listener, current
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

__all__ = ["STOP_SIGNALS", "StopSignals", "agreed_signal"]


class StopSignals:
    """While the block lasts, the first signal is noted; a second one ends the process at once.

    Args:
        launched: As :class:`mdl_toolkit.terminal.interrupts.Listener` has it.
    """

    def __init__(self, launched: bool | None = None) -> None:
        self._listener = (current() if launched is None else None) or Listener(launched)
        self._steps = True
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
        if not self._steps:
            raise Interrupted(number)
        logger.info(f"{signal.Signals(number).name}: finishing this step, then saving (again: stop at once)")

    def flags(self) -> list[float]:
        """A number for each of :data:`STOP_SIGNALS`, 1 where it was received: summed over ranks to agree."""
        return [float(self.received == number) for number in STOP_SIGNALS]

    @contextmanager
    def stop_at_once(self, message: str) -> Iterator[None]:
        """From now on there is no step to finish: a signal ends the block wherever it stands.

        Within the block that is an :class:`Interrupted`, which no one takes for an error of what is being
        done; it leaves the block as :class:`Stopped` with ``message``.
        """
        try:
            self._steps = False
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        except Interrupted as interrupt:
            raise Stopped(interrupt.number, message) from None


def agreed_signal(summed: list[float]) -> int | None:
    """The signal that a run stops for, of the :meth:`StopSignals.flags` summed over all ranks."""
    return next((int(number) for number, count in zip(STOP_SIGNALS, summed, strict=True) if count), None)
