"""Some rows of a dataset, as a dataset of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdl_toolkit.data.dataset.dataset import ClipDataset


class SomeRows(ClipDataset):
    """Some rows of a dataset, numbered from 0 in the order in which they are named.

    Args:
        data: The dataset.
        places: The rows.

    Attributes:
        places: The rows' numbers in the whole dataset.
    """

    def __init__(self, data: ClipDataset, places: Sequence[int]) -> None:
        super().__init__(data._parts)  # noqa: SLF001 -- the same folders, and nothing else of them
        self.places = np.asarray(places, dtype=np.int64)
        self.tokens, self.supervised, self.samples = (
            lengths[self.places] for lengths in (self.tokens, self.supervised, self.samples)
        )

    def __len__(self) -> int:
        return len(self.places)

    def _locate(self, index: int) -> Any:
        return super()._locate(int(self.places[index]))


def spread(count: int, rows: Sequence[int]) -> list[int]:
    """So many of some rows, at equal distances, so that a table in order of its answers gives different ones.

    Args:
        count: How many, at most.
        rows: The rows to choose from.
    """
    chosen = min(count, len(rows))
    return [int(rows[number * len(rows) // chosen]) for number in range(chosen)]
