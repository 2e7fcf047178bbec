"""What slices a column makes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.input.slices import slice_names


def test_values_are_names():
    assert slice_names("room", ["a", None, "b", 3, True]) == ["a", "", "b", "3", "true"]
    speakers = [str(number) for number in range(1000, 1100)]
    assert slice_names("speaker", speakers) == speakers
    assert slice_names("gain", ["0.5", "1.5"]) == ["0.5", "1.5"]


def test_measurements_are_sliced_by_ranges():
    seconds = np.random.default_rng(0).uniform(1, 9, 400).round(3)
    names = slice_names("seconds", [*map(str, seconds), "", None])
    assert names[-2:] == ["", ""]
    counts = Counter(names[:-2])
    assert len(counts) == 4 and all(95 <= count <= 105 for count in counts.values())
    for name, number in zip(names, seconds, strict=False):
        low, high = map(float, name.split(" to "))
        assert low - 0.01 <= number <= high + 0.01


def test_a_value_that_most_rows_share_leaves_ranges_for_the_others():
    names = slice_names("seconds", [1.5] * 300 + [2 + number / 100 for number in range(30)])
    assert set(names[:300]) == {"1.5 to 2.065"} and len(set(names)) == 4


def test_a_column_that_names_rows_makes_no_slices():
    with pytest.raises(UserError, match="--slice-by audio: 1,001 different values"):
        slice_names("audio", [f"{number}.wav" for number in range(1001)])
