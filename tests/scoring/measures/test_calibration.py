"""The reliability table and the expected calibration error."""

from __future__ import annotations

import numpy as np
import pytest

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.measures.calibration import calibration


def test_a_small_table_by_hand():
    found = calibration(["0.95", 0.85, "0.9", "", None, 0.05], [True, False, True, True, True, False])
    assert found is not None
    assert found["without"] == 2
    assert [part["rows"] for part in found["bins"]] == [1, 0, 0, 0, 0, 0, 0, 0, 1, 2]
    assert found["bins"][9] == {
        "low": 0.9, "high": 1.0, "rows": 2, "confidence": pytest.approx(0.925), "accuracy": 1.0,
    }  # fmt: skip
    assert found["bins"][1]["confidence"] is None and found["bins"][1]["accuracy"] is None
    assert found["ece"] == pytest.approx((0.075 * 2 + 0.85 + 0.05) / 4)


def test_an_edge_belongs_to_the_higher_bin_and_one_to_the_last():
    edges = [number / 10 for number in range(11)]
    found = calibration(edges, [True] * 11)
    assert found is not None
    assert [part["rows"] for part in found["bins"]] == [1] * 9 + [2]


def test_probabilities_that_are_true_have_no_error_and_sure_ones_have_much():
    rng = np.random.default_rng(0)
    said = rng.random(20000)
    right = rng.random(20000) < said
    honest, sure = calibration(list(said), list(right)), calibration([1.0] * 20000, list(right))
    assert honest is not None and honest["ece"] < 0.02
    assert sure is not None and sure["ece"] == pytest.approx(0.5, abs=0.02)


def test_without_probabilities_there_is_no_table():
    assert calibration([None, "", " "], [True, False, True]) is None


@pytest.mark.parametrize("cell", ["1.2", -0.1, "nan", "high", float("inf")])
def test_what_is_no_probability_is_named_by_its_row(cell: object):
    with pytest.raises(UserError, match="row 2: the column `probability`"):
        calibration([0.5, cell], [True, True])
