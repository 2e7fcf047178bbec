"""What the processes of an evaluation tell each other: who can't go on, and who is to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdl_toolkit.training.batches.loader import WaitEnded
from mdl_toolkit.training.batches.synchronized import NoBatch
from mdl_toolkit.training.signals import StopSignals, agreed_signal

if TYPE_CHECKING:
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.errors import MdlError


class EvaluationDropped(Exception):  # noqa: N818 -- no failure: somebody asked for it
    """A signal asked to stop, so the evaluation isn't finished; all processes raise this at the same point.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"dropped for signal {number}")


def is_interrupted(ranks: Ranks, signals: StopSignals | None) -> bool:
    """Whether to wait for nothing more: the next exchange between the processes ends the evaluation."""
    return bool(signals and signals.received) or ranks.peer_is_lost


def agree(
    ranks: Ranks,
    signals: StopSignals | None,
    cause: MdlError | None,
    total: float | None = None,
    *,
    done: bool,
) -> float:
    """Exchange with all processes what keeps one from going on, and add up a number.

    Args:
        ranks: The processes of the run.
        signals: The signals that ask the run to stop.
        cause: Why this process has no further batch.
        total: A number of this process; ``None`` while there are further batches.
        done: Whether to end now where a process has no further batch.

    Returns:
        The sum of the numbers.

    Raises:
        EvaluationDropped: A process was asked to stop before all batches were done.
        NoBatch: A process has no further batch.
    """
    failed = cause is not None and not isinstance(cause, WaitEnded)
    flags = signals.flags() if signals is not None else []
    mine = [total or 0.0, float(failed), float(cause is not None), *flags]
    whole, failures, missing, *flags = ranks.sum(mine)
    stop = agreed_signal(flags) if flags else None
    if stop is not None and not failures and (missing or total is None):
        raise EvaluationDropped(stop)
    if missing and done:
        raise NoBatch(cause)
    return whole
