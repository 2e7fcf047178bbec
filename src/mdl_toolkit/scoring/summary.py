"""What ``scores.json`` says: scores with their intervals, for all rows and for slices of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any

import numpy as np

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.intervals import Interval, bootstrap, compare
from mdl_toolkit.scoring.task import Judged, Statistics

#: In a slice of fewer rows an interval says little: it is marked as small.
SMALL_SLICE = 30
#: How often rows are drawn for an interval, unless something else is asked for.
RESAMPLES = 1000


def summarize(
    task: str,
    judged: Judged,
    slices: Mapping[str, Sequence[str]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The scores of a table as ``scores.json`` has them.

    Args:
        task: The task's name.
        judged: What it made of the table.
        slices: Columns by which to slice, each with a value a row; an empty value is a slice as any other.
        resamples: How often rows are drawn for the intervals; 0: no intervals.
        seed: Of the draws.
    """
    statistics = judged.statistics
    unscored = {place for places in judged.left_out.values() for place in places}
    found: dict[str, Any] = {
        "task": task,
        "rows": statistics.rows,
        "scores": _scores(bootstrap(statistics, resamples, seed)),
        "slices": {
            column: _sliced(statistics, unscored, values, resamples, seed)
            for column, values in (slices or {}).items()
        },
    }
    left_out = {reason: len(places) for reason, places in judged.left_out.items() if places}
    return {**found, **({"left_out": left_out} if left_out else {}), **judged.details}


def against(
    judged: Judged, other: Judged, file: str, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """How these scores differ from those of another file's predictions for the same rows in the same order.

    Raises:
        UserError: The other file has another number of rows.
    """
    if judged.statistics.rows != other.statistics.rows:
        raise UserError(f"{file}: {other.statistics.rows} rows to compare with {judged.statistics.rows}")
    found = compare(judged.statistics, other.statistics, resamples, seed)
    return {
        "file": file,
        "rows": judged.statistics.rows,
        **{name: asdict(comparison) for name, comparison in found.items()},
    }


def _ordered(places: Mapping[str, Sequence[int]]) -> list[str]:
    """Slices as a person wants to read them: the largest first, ranges of a measurement from low to high."""
    if all(re.fullmatch(r"-?[\d.e+-]+ to -?[\d.e+-]+", name) for name in places if name):
        return sorted(places, key=lambda name: float(name.split(" to ")[0]) if name else math.inf)
    return sorted(places, key=lambda name: (-len(places[name]), name))


def _sliced(
    statistics: Statistics, unscored: Set[int], values: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
    places: dict[str, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    found = {}
    for value in _ordered(places):
        part = statistics.take(np.array(places[value], dtype=np.int64))
        found[value] = {
            "rows": part.rows,
            "scores": _scores(bootstrap(part, resamples, seed)),
            **({"small": True} if len({*places[value]} - unscored) < SMALL_SLICE else {}),
        }
    return found


def _scores(found: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {name: interval._asdict() for name, interval in found.items()}
