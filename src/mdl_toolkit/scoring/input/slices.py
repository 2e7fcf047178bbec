"""The values of a column as the names of slices: as they are, or ranges where they are measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.input.table import plain_text

#: From this many different values on, numbers with decimals are measurements, and are sliced by ranges.
_MEASURED = 20
#: The ranges of a measurement, each with as many rows, about.
_RANGES = 4
#: A column of more different values names rows, not kinds of rows.
_MOST = 1000


def slice_names(column: str, values: Sequence[Any]) -> list[str]:
    """The slice of each row.

    Whole numbers are names, as speakers' numbers are. Of more than 20 different numbers, with decimals among
    them (lengths, noise levels), four ranges with as many rows each are made.

    Args:
        column: The column's name, for messages.
        values: Its values.

    Raises:
        UserError: There are too many different ones.
    """
    texts = [plain_text(value) for value in values]
    different = set(texts)
    if len(different) > _MEASURED and (numbers := _measurements(texts)):
        return _ranges(texts, numbers)
    if len(different) > _MOST:
        raise UserError(
            f"--slice-by {column}: {len(different):,} different values, more than {_MOST:,}; name a column "
            "whose values many rows share"
        )
    return texts


def _measurements(texts: Sequence[str]) -> dict[str, float]:
    """The numbers that all texts are, but for empty ones; none where some are names, or all are whole."""
    found: dict[str, float] = {}
    for text in set(texts) - {""}:
        try:
            found[text] = float(text)
        except ValueError:
            return {}
    if not all(map(math.isfinite, found.values())) or all(map(float.is_integer, found.values())):
        return {}
    return found


def _ranges(texts: Sequence[str], numbers: dict[str, float]) -> list[str]:
    shares = np.linspace(0, 1, _RANGES + 1)
    ends = np.unique(np.quantile([numbers[text] for text in texts if text], shares))
    if len(ends) <= _RANGES:  # a value that a quarter of all rows have: ranges of as many values, not rows
        ends = np.quantile([*numbers.values()], shares)
    names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(ends)]

    def name(number: float) -> str:
        place = int(np.searchsorted(ends, number, side="left")) - 1
        return names[min(max(place, 0), len(names) - 1)]

    return [name(numbers[text]) if text else "" for text in texts]
