"""Signals of a command that lets a child do its work: the child gets them, and decides what they do."""

from __future__ import annotations

import contextlib
import os

from mdl_toolkit.terminal.interrupts import Listener, current


class SignalForwarder:
    """While the block lasts, signals go to a child; what it does then is waited for.

    Start the child with :data:`~mdl_toolkit.terminal.interrupts.FORWARDED` set in its environment: a terminal
    sends its signals to both.
    """

    def __init__(self) -> None:
        self._listener, self._stack = current() or Listener(), contextlib.ExitStack()
        self._child: int | None = None
        self._early: list[int] = []

    def __enter__(self) -> SignalForwarder:
        self._stack.enter_context(self._listener.answered_by(self._forward, self._forward))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def received(self) -> int | None:
        """The first signal."""
        return self._listener.received

    def start(self, child: int) -> None:
        """Forward to this process, also what has come before it was there.

        Args:
            child: The child's process id.
        """
        self._child = child
        while self._early:
            self._forward(self._early.pop(0))

    def _forward(self, number: int) -> None:
        if self._child is None:
            self._early.append(number)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)
