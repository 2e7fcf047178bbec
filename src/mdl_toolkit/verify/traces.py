"""What a form of a model has answered, and how far that is from the reference. Numbers alone, no torch.

Dimensions: T tokens of an answer, its end token included; K of the likeliest tokens at each place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: Alternatives that are compared at each token, and the probability from which one counts.
ALTERNATIVES = 8
_COUNTS_FROM = math.log(1e-3)


@dataclass(frozen=True)
class Trace:
    """The reference's answer to a row.

    Attributes:
        tokens: Its ids, with the end token where it ended by itself.
        ids: int64 [T, K], the likeliest tokens at each place, the likeliest first.
        logprobs: float64 [T, K], their log-probabilities.
    """

    tokens: list[int]
    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]

    def margin(self, place: int) -> float:
        """How much likelier the token that was taken is than the next one, in nats."""
        return float(self.logprobs[place, 0] - self.logprobs[place, 1])


@dataclass(frozen=True)
class FormAnswer:
    """What another form has answered to a row.

    Attributes:
        tokens: Its ids, with the end token where it ended by itself.
        logprobs: float64 [T, K], the log-probabilities that it gives to the reference's ``ids`` where the
            reference's answer stands before them; ``None`` where it can't tell.
        own: The log-probabilities of its own tokens, where that is all that it tells.
    """

    tokens: list[int]
    logprobs: NDArray[np.float64] | None = None
    own: Sequence[float] | None = None


@dataclass(frozen=True)
class Parting:
    """Where an answer parts from the reference's.

    Attributes:
        row: Number of the row among those that were asked.
        place: The first token that differs, from 0.
        margin: How much likelier the reference's own token is there than the next one, in nats.
        expected: The reference's token; ``None`` where its answer has ended.
        found: The form's token; ``None`` where its answer has ended.
    """

    row: int
    place: int
    margin: float
    expected: int | None
    found: int | None


@dataclass
class FormComparison:
    """How far a form is from the reference.

    Attributes:
        rows: Rows that were compared.
        same: Answers that are the same to the last token.
        partings: The others.
        largest: The largest difference of a token's log-probability, in nats; ``None`` where none is known.
        mean: The mean of the differences.
        worst_row: The row with the largest difference.
    """

    rows: int = 0
    same: int = 0
    partings: list[Parting] = field(default_factory=list)
    largest: float | None = None
    mean: float | None = None
    worst_row: int | None = None

    def beyond(self, tolerance: float) -> list[Parting]:
        """Partings that a difference of so much, up for one token and down for the other, doesn't explain."""
        return [parting for parting in self.partings if not parting.margin <= 2 * tolerance]

    def passes(self, tolerance: float) -> bool:
        """Whether no difference is larger than this, and no answer parts where it isn't a near tie."""
        close = self.largest is None or self.largest <= tolerance
        return close and not self.beyond(tolerance)


def compare(reference: Sequence[Trace], found: Sequence[FormAnswer]) -> FormComparison:
    """Compare a form's answers with the reference's, row by row.

    Log-probabilities that are not numbers count as infinitely far.
    """
    result = FormComparison(rows=len(reference))
    every: list[NDArray[np.float64]] = []
    for row, (trace, answer) in enumerate(zip(reference, found, strict=True)):
        place = _parts_at(trace.tokens, answer.tokens)
        if place is None:
            result.same += 1
        else:
            result.partings.append(_parting(row, place, trace, answer))
        distances = _distances(trace, answer, len(trace.tokens) if place is None else place)
        if not len(distances):
            continue
        every.append(distances)
        largest = float(distances.max())
        if result.largest is None or largest > result.largest:
            result.largest, result.worst_row = largest, row
    if every:
        result.mean = float(np.concatenate(every).mean())
    return result


def _parts_at(expected: Sequence[int], found: Sequence[int]) -> int | None:
    """The first place at which two answers differ; ``None`` where they are the same."""
    if list(expected) == list(found):
        return None
    pairs = zip(expected, found, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(found)))


def _parting(row: int, place: int, trace: Trace, answer: FormAnswer) -> Parting:
    # Past the end of what the reference said there is nothing that it would rather have said.
    margin = trace.margin(place) if place < len(trace.tokens) else math.inf
    expected = trace.tokens[place] if place < len(trace.tokens) else None
    found = answer.tokens[place] if place < len(answer.tokens) else None
    return Parting(row, place, margin, expected, found)


def _distances(trace: Trace, answer: FormAnswer, agreed: int) -> NDArray[np.float64]:
    """Differences of log-probabilities, [N], of all tokens that count; those of an engine up to a parting."""
    if answer.logprobs is not None:
        counts = trace.logprobs >= _COUNTS_FROM
        counts[:, 0] = True  # the token that was taken, however unlikely
        differences = np.abs(answer.logprobs - trace.logprobs)[counts]
    elif answer.own is not None:
        own = np.asarray(answer.own[:agreed], dtype=np.float64)
        differences = np.abs(own - trace.logprobs[: len(own), 0])
    else:
        differences = np.zeros(0)
    return np.where(np.isnan(differences), np.inf, differences)
