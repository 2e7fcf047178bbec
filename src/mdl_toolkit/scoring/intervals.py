"""How sure scores are: the bootstrap over rows, and two predictions compared on the same rows.

Rows are drawn with replacement, as many as there are, a thousand times; 95 % of the draws' scores lie in the
interval (its ends are their 2.5 % and 97.5 % quantiles). Two files of predictions are drawn together: the
same rows of both, so that what is hard in a row counts for both alike.

Draws say nothing of what no row shows: of 64 rows that are all right each draw is all right, and yet the next
row may be wrong. So a share of which few rows are right, or few are wrong, has Wilson's interval (Probable
inference, 1927), and any other score that is the same in all draws has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mdl_toolkit.scoring.task import Floats, Statistics

#: Weights that are held at a time: 16 MiB.
_WEIGHTS = 1 << 21
_ENDS = (2.5, 97.5)
#: From so many right and so many wrong rows on, draws show how far a share may lie.
_FEW = 10
#: Scores that are less apart are the same, but for rounding.
_SAME = 1e-12
#: 95 % of a normal distribution lie within so many standard deviations.
_DEVIATIONS = 1.959964


class Interval(NamedTuple):
    """A score and where it lies; all ``None`` where it isn't defined.

    Attributes:
        value: Over all rows, once each.
        low: The lower end of the 95 % interval; ``None`` where the rows don't say how far the score may lie.
        high: The upper end.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """A score of two predictions for the same rows.

    Attributes:
        value: The one's.
        other: The other's.
        difference: The one's minus the other's.
        low: The lower end of the difference's 95 % interval.
        high: The upper end.
        p: The two-sided probability of such a difference by chance, from the bootstrap: below 0.05 where the
            interval doesn't hold 0. 1 where both are the same in every draw.
    """

    value: float | None
    other: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None


def point_scores(statistics: Statistics) -> dict[str, float]:
    """The scores of all rows, counted once each; NaN where one isn't defined."""
    found = statistics.scores(np.ones((1, statistics.rows)))
    return {name: float(values[0]) for name, values in found.items()}


def bootstrap(statistics: Statistics, resamples: int, seed: int) -> dict[str, Interval]:
    """The scores with their intervals.

    Args:
        statistics: The rows.
        resamples: How many times they are drawn; 0: no intervals.
        seed: Of the random numbers; the same rows and seed give the same ends.
    """
    points = point_scores(statistics)
    drawn: dict[str, list[Floats]] = {name: [] for name in points}
    for weights in _weights(statistics.rows, resamples, seed):
        for name, values in statistics.scores(weights).items():
            drawn[name].append(values)
    shares = statistics.shares() if resamples else {}
    return {
        name: Interval(_known(points[name]), *_score_ends(drawn[name], *shares.get(name, (0, 0))))
        for name in points
    }


def wilson(right: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share, which is no point where all rows are right or none is.

    Args:
        right: The rows that are.
        rows: All of them; one at least.
    """
    share, spread = right / rows, _DEVIATIONS**2 / rows
    middle = share + spread / 2
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4)
    low, high = ((middle + side * half) / (1 + spread) for side in (-1, 1))
    return (low if right else 0.0), (high if right < rows else 1.0)


def compare(one: Statistics, other: Statistics, resamples: int, seed: int) -> dict[str, Comparison]:
    """The scores of two predictions for the same rows in the same order, and what the differences mean."""
    points, others = point_scores(one), point_scores(other)
    drawn: dict[str, list[Floats]] = {name: [] for name in points if name in others}
    for weights in _weights(one.rows, resamples, seed):
        found, beside = one.scores(weights), other.scores(weights)
        for name, values in drawn.items():
            values.append(found[name] - beside[name])
    return {
        name: Comparison(
            _known(points[name]),
            _known(others[name]),
            _known(points[name] - others[name]),
            *_ends(differences),
            _p_value(differences),
        )
        for name, differences in drawn.items()
    }


def _weights(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn, [draws, rows], some draws at a time."""
    if rows < 2:  # one row says nothing about others
        return
    rng = np.random.default_rng(seed)
    some = max(1, _WEIGHTS // rows)
    for start in range(0, resamples, some):
        draws = min(some, resamples - start)
        places = rng.integers(0, rows, (draws, rows), dtype=np.int32)
        places += np.arange(draws, dtype=np.int32)[:, None] * rows
        counts = np.bincount(places.ravel(), minlength=draws * rows)
        yield counts.reshape(draws, rows).astype(np.float64)


def _score_ends(drawn: list[Floats], right: int, rows: int) -> tuple[float | None, float | None]:
    """Of a score that is the share of ``right`` among ``rows``, or, where these are 0, of another one."""
    if rows > 1 and min(right, rows - right) < _FEW:
        return wilson(right, rows)
    defined = _defined(drawn)
    return _ends(drawn) if len(defined) and np.ptp(defined) > _SAME else (None, None)


def _ends(drawn: list[Floats]) -> tuple[float | None, float | None]:
    defined = _defined(drawn)
    if not len(defined):
        return None, None
    low, high = np.percentile(defined, _ENDS)
    return float(low), float(high)


def _p_value(drawn: list[Floats]) -> float | None:
    """By how many draws the difference has the other sign; one draw is added, so that p is never 0."""
    defined = _defined(drawn)
    if not len(defined):
        return None
    below, above = int((defined <= 0).sum()), int((defined >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(defined) + 1))


def _defined(drawn: list[Floats]) -> Floats:
    values = np.concatenate(drawn) if drawn else np.empty(0)
    return values[~np.isnan(values)]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
