"""Signals that ask a run to stop: it finishes the step, saves, and ends with the exit code of the signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

from mdl_toolkit.errors import Stopped
from mdl_toolkit.terminal.interrupts import STOP_SIGNALS, Interrupted, Listener, current
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

__all__ = ["STOP_SIGNALS", "UNSAVED_AT_FIRST", "StopSignals", "agreed_signal", "nothing_unsaved"]

#: What a signal costs at first; see :meth:`StopSignals.note_unsaved`.
UNSAVED_AT_FIRST = "before the first step was finished"


class StopSignals:
    """Within the block, the first signal is remembered; a second one ends the process at once.

    Args:
        launched: Whether a launcher passes signals on; see :class:`mdl_toolkit.terminal.interrupts.Listener`.
    """

    def __init__(self, launched: bool | None = None) -> None:
        self._listener = (current() if launched is None else None) or Listener(launched)
        self._steps = True
        self._stack = ExitStack()

    def __enter__(self) -> StopSignals:
        self._stack.enter_context(self._listener.answered_by(self._note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def received(self) -> int | None:
        """The first signal that was received, if any."""
        return self._listener.received

    @property
    def seconds(self) -> float:
        """Seconds since it came; 0 if there was none."""
        return self._listener.seconds()

    def note_unsaved(self, unsaved: str) -> None:
        """Note what is lost if a second signal ends the process now.

        Args:
            unsaved: To stand behind a signal's name: ``with step 8 unsaved``; empty where nothing is lost.
        """
        self._listener.unsaved = unsaved

    def _note(self, number: int) -> None:
        if not self._steps:
            self._listener.interrupt(number)
        logger.info(f"{signal.Signals(number).name}: finishing this step, then saving (again: stop at once)")

    def flags(self) -> list[float]:
        """For each of :data:`STOP_SIGNALS` 1 if it was received, else 0; the ranks sum them up to agree."""
        return [float(self.received == number) for number in STOP_SIGNALS]

    @contextmanager
    def stop_at_once(self, message: str) -> Iterator[None]:
        """End the block at once when a signal comes, because there is no step to finish any more.

        The signal raises :class:`Interrupted` within the block. It is no ``Exception``, so that no code takes
        it for an error of its own work. It leaves the block as :class:`Stopped` with ``message``.
        """
        try:
            self._steps = False
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        except Interrupted as interrupt:
            raise Stopped(interrupt.number, message) from None


def nothing_unsaved() -> None:
    """Note that a run, which is resumed, has nothing to lose until its first step."""
    if listener := current():
        listener.unsaved = ""


def agreed_signal(summed: list[float]) -> int | None:
    """The signal that a run stops for, from the sums of :meth:`StopSignals.flags` over all ranks."""
    return next((int(number) for number, count in zip(STOP_SIGNALS, summed, strict=True) if count), None)
