"""Learning rates equal those of the Transformers trainer's schedulers."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import get_scheduler

from mdl_toolkit.training.steps.schedule import LearningRates, interval


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_rates_are_those_of_transformers(kind: str, warmup: int):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    name = "constant_with_warmup" if kind == "constant" else kind
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=11)
    ours = LearningRates(kind, 0.01, warmup, 11)
    for done in range(11):
        assert math.isclose(ours.rate(done), theirs.get_last_lr()[0], rel_tol=1e-12, abs_tol=1e-18)
        optimizer.step()
        theirs.step()


def test_a_resumed_schedule_is_the_same_schedule():
    whole = LearningRates("cosine", 0.01, 2, 20)
    resumed = whole.resumed(7, whole.position(7), 20, new_total=20, stretch=True)
    assert [resumed.rate(n) for n in range(7, 20)] == [whole.rate(n) for n in range(7, 20)]


def test_the_rest_is_spread_over_other_numbers_of_steps():
    whole = LearningRates("linear", 0.01, 0, 100)
    # Half done, then twice the processes: 25 steps are left instead of 50.
    resumed = whole.resumed(50, whole.position(50), 100, new_total=75, stretch=True)
    assert math.isclose(resumed.rate(50), 0.005)
    assert math.isclose(resumed.rate(74), whole.rate(98))
    # And once more, to the old number.
    again = whole.resumed(60, resumed.position(60), 100, new_total=90, stretch=True)
    assert math.isclose(again.rate(60), resumed.rate(60))
    assert math.isclose(again.rate(90), 0.0, abs_tol=1e-12)


def test_a_run_made_longer_takes_the_new_length():
    whole = LearningRates("linear", 0.01, 0, 100)
    resumed = whole.resumed(50, 50.0, 100, new_total=200, stretch=False)
    assert math.isclose(resumed.rate(50), 0.01 * 150 / 200)


@pytest.mark.parametrize(
    ("ratio", "total", "steps"),
    [(0.0, 20, 0), (0.1, 70, 7), (0.1, 71, 8), (1, 5, 5), (0.1, 1, 0), (0.9, 2, 1)],
)
def test_a_warm_up_as_a_share_is_so_many_steps_rounded_up(ratio: float, total: int, steps: int):
    rates = LearningRates("linear", 0.01, 0, total, warmup_ratio=ratio)
    assert rates.warmup == steps
    in_steps = LearningRates("linear", 0.01, steps, total)
    assert [rates.rate(n) for n in range(total)] == [in_steps.rate(n) for n in range(total)]


def test_a_share_stays_that_of_the_schedule_when_the_rest_takes_other_steps():
    whole = LearningRates("linear", 0.01, 0, 100, warmup_ratio=0.2)
    resumed = whole.resumed(10, whole.position(10), 100, new_total=55, stretch=True)
    assert resumed.warmup == 20 and math.isclose(resumed.rate(10), 0.005)
    assert math.isclose(resumed.rate(15), 0.01)
    longer = whole.resumed(50, 50.0, 100, new_total=400, stretch=False)
    assert longer.warmup == 80, "a run made longer is the run that was longer from the start"


@pytest.mark.parametrize(
    ("warmup", "total", "highest"),
    [(0, 1, None), (1, 1, 0.0), (4, 5, None), (5, 5, 0.008), (50, 5, 0.0008), (1, 2, None)],
)
def test_a_warm_up_that_does_not_end_is_known(warmup: int, total: int, highest: float | None):
    rates = LearningRates("cosine", 0.01, warmup, total)
    found = rates.highest_in_warmup(total)
    assert found == (None if highest is None else pytest.approx(highest))
    assert found is None or found == max(rates.rate(n) for n in range(total))
    assert rates.resumed(total, float(total), total, total, stretch=True).highest_in_warmup(total) is None


@pytest.mark.parametrize(
    ("value", "total", "steps"), [(500, 100, 500), (0.1, 95, 10), (0.5, 3, 2), (0.001, 10, 1)]
)
def test_intervals(value: float, total: int, steps: int):
    assert interval(value, total) == steps
