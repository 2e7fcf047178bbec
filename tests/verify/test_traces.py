"""How far two forms of a model are from each other, in numbers alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mdl_toolkit.verify.traces import FormAnswer, Trace, compare

LIKELY = np.log([[0.6, 0.3, 0.0999, 0.0001], [0.5, 0.49, 0.01, 1e-9], [0.9, 0.05, 0.04, 0.01]])


def trace(tokens: tuple[int, ...] = (3, 5, 9)) -> Trace:
    ids = np.array([[token, token + 1, token + 2, token + 3] for token in tokens])
    return Trace(list(tokens), ids, LIKELY[: len(tokens)])


def answered(tokens: tuple[int, ...], change: float = 0.0, place: tuple[int, int] = (0, 0)) -> FormAnswer:
    logprobs = LIKELY.copy()
    logprobs[place] += change
    return FormAnswer(list(tokens), logprobs)


def test_the_same_is_the_same():
    found = compare([trace()], [answered((3, 5, 9))])
    assert (found.same, found.largest, found.mean, found.partings) == (1, 0.0, 0.0, [])
    assert found.passes(0.0)


def test_the_largest_difference_counts_and_names_its_row():
    found = compare([trace(), trace()], [answered((3, 5, 9)), answered((3, 5, 9), 0.2, (2, 1))])
    assert found.largest == pytest.approx(0.2) and found.worst_row == 1
    assert found.passes(0.21) and not found.passes(0.19)


def test_tokens_that_nobody_would_take_do_not_count():
    assert compare([trace()], [answered((3, 5, 9), 5.0, (1, 3))]).largest == 0.0


def test_not_a_number_is_infinitely_far():
    found = compare([trace()], [answered((3, 5, 9), math.nan)])
    assert found.largest == math.inf and not found.passes(1e6)


def test_a_near_tie_may_part_where_differences_allow_it():
    """At the second token the next one is 0.02 nats behind."""
    found = compare([trace()], [answered((3, 6))])
    [parting] = found.partings
    assert (parting.place, parting.expected, parting.found) == (1, 5, 6)
    assert parting.margin == pytest.approx(math.log(0.5 / 0.49))
    assert found.passes(0.02) and not found.passes(0.001)


def test_an_answer_that_goes_on_or_stops_early_parts():
    longer, shorter = compare([trace(), trace()], [answered((3, 5, 9, 1)), answered((3,))]).partings
    assert (longer.place, longer.expected, longer.found) == (3, None, 1) and longer.margin == math.inf
    assert (shorter.place, shorter.expected, shorter.found) == (1, 5, None)


def test_an_engine_that_tells_its_own_tokens_is_compared_until_it_parts():
    own = [math.log(0.6) + 0.1, math.log(0.49), -7.0]
    found = compare([trace()], [FormAnswer([3, 6, 2], own=own)])
    assert found.largest == pytest.approx(0.1)


def test_an_engine_that_tells_nothing_is_judged_by_its_answers():
    assert compare([trace()], [FormAnswer([3, 5, 9])]).largest is None
    assert compare([trace()], [FormAnswer([3, 5, 9])]).passes(0.0)
    assert not compare([trace()], [FormAnswer([4, 5, 9])]).passes(0.1)
