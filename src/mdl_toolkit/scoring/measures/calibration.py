"""Whether answers are right as often as the model's probabilities say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdl_toolkit.scoring.task import UnfitRowError

BINS = 10


def calibration(probabilities: Sequence[Any], correct: Sequence[bool]) -> dict[str, Any] | None:
    """The reliability table and the expected calibration error.

    The bins are of equal width; a probability on an edge belongs to the higher one, 1 to the last. The error
    is the mean over the rows of the distance between their bin's accuracy and its mean probability.

    Args:
        probabilities: The probability of each answer: a number, or a cell with one; ``None`` and empty: none.
        correct: Whether each answer is right.

    Returns:
        ``calibration`` of ``scores.json``: ``bins``, ``ece``, and ``without``, the number of rows without a
        probability; ``None`` where no row has one.

    Raises:
        UnfitRowError: A cell is no probability.
    """
    read = [_probability(cell, place) for place, cell in enumerate(probabilities)]
    there = np.array([value is not None for value in read], dtype=bool)
    if not there.any():
        return None
    values = np.array([value for value in read if value is not None])
    right = np.asarray(correct, dtype=np.float64)[there]
    places = np.minimum((values * BINS + 1e-9).astype(np.int64), BINS - 1)
    rows, confidence, hits = (
        np.bincount(places, weights, BINS) for weights in (np.ones(len(values)), values, right)
    )
    return {
        "bins": [
            {
                "low": place / BINS,
                "high": (place + 1) / BINS,
                "rows": int(rows[place]),
                "confidence": float(confidence[place] / rows[place]) if rows[place] else None,
                "accuracy": float(hits[place] / rows[place]) if rows[place] else None,
            }
            for place in range(BINS)
        ],
        "ece": float(np.abs(confidence - hits).sum() / len(values)),
        "without": int((~there).sum()),
    }


def _probability(cell: Any, place: int) -> float | None:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value <= 1:
        raise UnfitRowError(place, f"the column `probability` has {cell!r}, no number from 0 to 1")
    return value
