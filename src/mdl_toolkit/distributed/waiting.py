"""What a process that waits for others of its launch prints, so that nobody watches a silent command.

A process may have been told of others by mistake, by variables left over in a shell. Without torchrun, which
starts all processes together, the message therefore comes early and says which variables to unset.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from mdl_toolkit.distributed.environment import (
    is_first_on_machine,
    is_started_by_torchrun,
    set_here,
    shown_rank,
)
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger

logger = get_logger(__name__)

#: Seconds until a process first says whom it waits for, and from one such message to the next.
_FIRST, _EVERY = 2.0, 30.0


class WaitingMessage:
    """Prints now and then, on one process of a machine, whom this process waits for.

    Args:
        what: Where the others are expected, or for what.
        environ: The environment in which this process learned of the others.

    Attributes:
        what: As given; it may change while this process waits.
        others: Whom this process waits for, where it can tell more than their number.
    """

    def __init__(self, what: str, environ: Mapping[str, str] = os.environ) -> None:
        self.what, self._environ = what, environ
        self.others: Callable[[], str] | None = None
        self._prints = is_first_on_machine(environ)
        self._due = time.monotonic() + (_EVERY if is_started_by_torchrun(environ) else _FIRST)

    def is_due(self) -> bool:
        """Whether it is time for the message."""
        return time.monotonic() >= self._due

    def __call__(self, missing: int) -> None:
        """Print the message if it is time for it.

        Args:
            missing: Number of processes that have not come yet.
        """
        if not self.is_due():
            return
        self.postpone()
        if self._prints:
            others = self.others() if self.others is not None else None
            logger.info(waiting_message(missing, self.what, self._environ, others), extra=EVERYWHERE)

    def postpone(self) -> None:
        """Print nothing for some time, because the others are known to be at work."""
        self._due = max(self._due, time.monotonic() + _EVERY)


def waiting_message(
    missing: int, what: str, environ: Mapping[str, str] = os.environ, others: str | None = None
) -> str:
    """The message for a person who waits, and may not know for what.

    Args:
        missing: Number of processes that have not come yet.
        what: Where they are expected, or for what.
        environ: The environment in which this process learned of the others.
        others: Who they are, where more is known than their number.
    """
    others = others or f"{missing} other process" + ("es" if missing != 1 else "")
    if is_started_by_torchrun(environ):
        return f"waiting for {others} {what}"
    return (
        f"waiting for {others} {what}, from {shown_rank(environ)}; if this process is to work alone: "
        f"unset {' '.join(set_here(environ))}"
    )
