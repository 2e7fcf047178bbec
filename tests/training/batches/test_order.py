"""Which step comes when, against plain counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mdl_toolkit.data.batching.plan import Plan
from mdl_toolkit.training.batches.order import DataPosition, RunOrder


def make_plan(rows: int = 50, micro_batches: int = 1, **kwargs) -> Plan:
    tokens = np.random.default_rng(0).integers(10, 60, rows)
    kwargs = kwargs or {"batch_size": 4}
    return Plan(tokens, tokens * 3000, tokens // 4, seed=1, micro_batches=micro_batches, **kwargs)


@pytest.mark.parametrize("num_epochs", [0.01, 0.5, 1, 1.5, 2, 2.54])
def test_counts_of_broken_epochs_are_those_of_the_transformers_trainer(num_epochs: float):
    plan = make_plan()
    order = RunOrder(plan, num_epochs)
    per_epoch = math.ceil(50 / 4)
    assert order.total_steps == math.ceil(num_epochs * per_epoch)
    numbers = [scheduled.number for scheduled in order]
    assert numbers == list(range(1, order.total_steps + 1))


@pytest.mark.parametrize("num_epochs", [0.01, 0.5, 1, 2.54])
def test_a_broken_epoch_of_batches_in_tokens_makes_its_share_of_that_epochs_steps(num_epochs: float):
    plan = make_plan(max_tokens=200)
    shares = [
        (min(1.0, num_epochs - epoch), len(plan.epoch(epoch))) for epoch in range(math.ceil(num_epochs))
    ]
    assert RunOrder(plan, num_epochs).total_steps == sum(math.ceil(share * steps) for share, steps in shares)


def test_every_whole_epoch_has_every_row_once():
    order = RunOrder(make_plan(), 2)
    seen = [i for scheduled in order for micro in scheduled.step.micro for i in micro]
    assert sorted(seen) == sorted([*range(50), *range(50)])
    assert list(order)[-1].epoch == 2.0


def test_max_steps_repeats_the_data_as_often_as_it_takes():
    order = RunOrder(make_plan(), 1, max_steps=40)
    steps = list(order)
    assert len(steps) == 40 and steps[-1].number == 40 and steps[-1].after.epoch == 3


@pytest.mark.parametrize("kwargs", [{"batch_size": 4}, {"max_tokens": 200}])
@pytest.mark.parametrize("cut", [1, 5, 10, 13, 15])
def test_going_on_makes_exactly_the_rest(kwargs, cut: int):
    plan = make_plan(**kwargs)
    steps = list(RunOrder(plan, 1.7))
    at = steps[cut - 1]
    rest = RunOrder(plan, 1.7, position=at.after, done=at.number)
    assert rest.total_steps == len(steps)
    assert [(s.number, s.step.micro, s.epoch) for s in rest] == [
        (s.number, s.step.micro, s.epoch) for s in steps[cut:]
    ]


def test_another_number_of_processes_goes_on_at_the_same_sample():
    one, four = make_plan(micro_batches=1), make_plan(micro_batches=4)
    at = list(RunOrder(one, 1))[4]
    assert at.after == DataPosition(0, 20)
    rest = list(RunOrder(four, 1, position=at.after, done=at.number))
    seen = [i for scheduled in rest for micro in scheduled.step.micro for i in micro]
    assert sorted(seen) == sorted(one.stream(0)[20:].tolist())
    assert len(rest) == math.ceil(30 / 16)


def test_nothing_is_left_after_the_end():
    plan = make_plan()
    end = list(RunOrder(plan, 2))[-1]
    rest = RunOrder(plan, 2, position=end.after, done=end.number)
    assert list(rest) == [] and rest.total_steps == end.number
