"""Which columns an output has: those of the input, each in its place, and what inference adds to them.

Nothing of the input is lost. Where it has a column of a name that inference writes, that place gets what
inference has to say, and what stood there moves to the end under another name: the truth in ``prediction``
becomes ``reference``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import count

PREDICTION, REFERENCE = "prediction", "reference"
#: The mean and the lowest natural logarithm of the probabilities of an answer's tokens.
MEAN_LOGPROB, MIN_LOGPROB = "mean_logprob", "min_logprob"
#: The probability of the answer; where it was chosen among given ones, among these.
PROBABILITY = "probability"
#: The second of the given answers, and its probability among them.
RUNNER_UP, RUNNER_UP_PROBABILITY = "runner_up", "runner_up_probability"
#: The best answers of a beam search with their probabilities.
N_BEST = "n_best"
CONFIDENCE = (MEAN_LOGPROB, MIN_LOGPROB, PROBABILITY, RUNNER_UP, RUNNER_UP_PROBABILITY, N_BEST)
#: Why a row has no prediction.
ERROR = "error"
#: How an answer ended, as serving engines call it: ``stop`` by itself, ``length`` where the limit cut it.
FINISH_REASON = "finish_reason"


@dataclass(frozen=True)
class OutputColumns:
    """The columns of an output.

    Attributes:
        header: All of them, in order.
        written: Those that inference writes.
        moved: Columns of the input whose place is taken, and the names that their cells go under.
    """

    header: list[str]
    written: list[str]
    moved: dict[str, str] = field(default_factory=dict)


def output_columns(
    columns: Sequence[str], failed: bool, cut: bool, confidence: Collection[str] = ()
) -> OutputColumns:
    """The columns of the output for an input with these.

    Args:
        columns: The columns of the input.
        failed: Whether any row failed: there is an ``error`` column then.
        cut: Whether the limit cut any answer: there is a ``finish_reason`` column then.
        confidence: Those of ``CONFIDENCE`` that there are values for.
    """
    # A column that the input has under our name would be read as ours: it is written in any case.
    needed = {*confidence, *((ERROR,) if failed else ()), *((FINISH_REASON,) if cut else ())}
    last = [name for name in (*CONFIDENCE, ERROR, FINISH_REASON) if name in needed or name in columns]
    moved: dict[str, str] = {}
    for name in (PREDICTION, *last):
        if name in columns:
            taken = {*columns, *moved.values(), PREDICTION, *last}
            wanted = REFERENCE if name == PREDICTION else f"{name}_1"
            moved[name] = wanted if wanted not in taken else _free_name(name, taken)
    header = list(columns)
    for name in (PREDICTION, *moved.values(), *last):
        if name not in header:
            header.append(name)
    return OutputColumns(header, [PREDICTION, *last], moved)


def named(columns: Sequence[str]) -> list[str]:
    """Names for all columns of a CSV: ``column_3`` for the third, where a spreadsheet has given it none."""
    found: list[str] = []
    for place, name in enumerate(columns, start=1):
        found.append(name or _free_name("column", {*columns, *found}, place))
    return found


def _free_name(name: str, taken: Collection[str], first: int = 1) -> str:
    """``prediction_1``, ``prediction_2`` and so on: the first one that isn't there."""
    return next(other for number in count(first) if (other := f"{name}_{number}") not in taken)
