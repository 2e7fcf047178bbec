"""The bootstrap, held to what is known of it, and its comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mdl_toolkit.scoring.intervals import Interval, bootstrap, compare, point_scores, wilson
from mdl_toolkit.scoring.task import SumStatistics, ratio


def ends(found: Interval) -> tuple[float, float]:
    assert found.low is not None and found.high is not None
    return found.low, found.high


def share(right: np.ndarray) -> SumStatistics:
    values = np.stack([right.astype(float), np.ones(len(right))], axis=1)
    return SumStatistics(
        values, lambda sums: {"accuracy": ratio(sums[:, 0], sums[:, 1])}, counted={"accuracy": (0, 1)}
    )


def mean(values: np.ndarray) -> SumStatistics:
    table = np.stack([values, np.ones(len(values))], axis=1)
    return SumStatistics(table, lambda sums: {"mean": ratio(sums[:, 0], sums[:, 1])})


def test_an_interval_is_as_wide_as_theory_has_it():
    """Of a share p of n rows the standard deviation is sqrt(p (1 - p) / n)."""
    right = np.arange(2000) % 5 != 0
    found = bootstrap(share(right), 4000, seed=1)["accuracy"]
    half = 1.96 * math.sqrt(0.8 * 0.2 / 2000)
    assert found.value == 0.8
    assert found.low == pytest.approx(0.8 - half, abs=0.003)
    assert found.high == pytest.approx(0.8 + half, abs=0.003)


def test_an_interval_holds_the_truth_nearly_always():
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        found = bootstrap(mean(rng.normal(3, 1, 80)), 400, seed)["mean"]
        low, high = ends(found)
        held += low <= 3 <= high
    assert 178 <= held <= 198


def test_the_same_rows_and_seed_give_the_same_ends():
    right = np.arange(50) % 3 == 0
    assert bootstrap(share(right), 300, 7) == bootstrap(share(right), 300, 7)
    assert bootstrap(share(right), 300, 7) != bootstrap(share(right), 300, 8)


def test_draws_do_not_depend_on_how_many_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch):
    values = np.arange(100.0)
    before = bootstrap(mean(values), 200, 3)
    monkeypatch.setattr("mdl_toolkit.scoring.intervals._WEIGHTS", 700)
    assert bootstrap(mean(values), 200, 3) == before


def test_rows_that_leave_nothing_to_draw():
    one = share(np.array([True]))
    assert bootstrap(one, 100, 0)["accuracy"] == (1.0, None, None)
    assert bootstrap(share(np.array([True, True])), 0, 0)["accuracy"] == (1.0, None, None)
    none = mean(np.empty(0))
    assert bootstrap(none, 100, 0)["mean"] == (None, None, None)
    assert math.isnan(point_scores(none)["mean"])


def test_rows_that_are_all_right_do_not_make_it_certain():
    def interval(right: bool) -> Interval:
        return bootstrap(share(np.full(64, right)), 100, 0)["accuracy"]

    assert ends(interval(True)) == pytest.approx((0.9434, 1), abs=1e-4)
    assert ends(interval(False)) == pytest.approx((0, 0.0566), abs=1e-4)
    assert (interval(True).value, interval(True).high, interval(False).low) == (1, 1, 0)
    alike = bootstrap(mean(np.full(64, 0.1)), 100, 0)["mean"]
    assert alike.low is alike.high is None, "of a mean no row says how far it may lie"
    part = share(np.arange(64) > 30).take(np.arange(40, 50))
    assert ends(bootstrap(part, 100, 0)["accuracy"]) == wilson(10, 10)
    lows = [ends(bootstrap(share(np.arange(64) >= n), 2000, 0)["accuracy"])[0] for n in range(15)]
    assert lows == sorted(lows, reverse=True), "each wrong row lowers the end"


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (3, 7), (9, 1000), (64, 64), (1, 2)])
def test_wilson_is_the_interval_that_scipy_has(right: int, rows: int):
    stats = pytest.importorskip("scipy.stats")
    found = stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert wilson(right, rows) == pytest.approx((found.low, found.high), abs=1e-6)


def test_an_interval_of_a_share_near_its_edge_holds_the_truth():
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        low, high = ends(bootstrap(share(rng.random(60) < 0.97), 200, seed)["accuracy"])
        held += low <= 0.97 <= high
    assert held >= 180


def test_a_difference_that_is_there_and_one_that_is_not():
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 3, 300)
    one = mean(hard + rng.normal(0.2, 0.5, 300))
    better = compare(one, mean(hard), 2000, 0)["mean"]
    # Alone, the rows differ so much that 0.2 would be lost in it; on the same rows it isn't.
    assert (
        better.difference == pytest.approx(0.2, abs=0.1) and (better.low or 0) > 0 and (better.p or 1) < 0.01
    )
    low, high = ends(bootstrap(one, 2000, 0)["mean"])
    assert low < 0 < high
    same = compare(one, one, 500, 0)["mean"]
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_p_is_below_the_level_as_often_as_it_says():
    """Two predictions of the same quality: 5 % of comparisons have p < 0.05, about."""
    rng = np.random.default_rng(4)
    below = sum(
        (compare(mean(rng.normal(0, 1, 60)), mean(rng.normal(0, 1, 60)), 300, seed)["mean"].p or 1) < 0.05
        for seed in range(200)
    )
    assert 2 <= below <= 22
