"""Which evaluation is the best, and how many have been no better since."""

from __future__ import annotations

import math

import pytest

from mdl_toolkit.training.steps.standing import Standing, is_better


def after(metric: str, *values: float) -> Standing:
    standing = Standing()
    for step, value in enumerate(values, start=1):
        standing = standing.after(metric, step, value)
    return standing


@pytest.mark.parametrize("metric", ["eval_loss", "eval_wer", "eval_cer", "eval_wer/dev", "eval_loss/old"])
def test_of_errors_the_lower_is_better(metric: str):
    assert is_better(metric, 0.1, 0.2) and not is_better(metric, 0.3, 0.2)


@pytest.mark.parametrize("metric", ["eval_accuracy", "eval_map", "eval_cider", "eval_f1/dev"])
def test_of_all_else_the_higher(metric: str):
    assert is_better(metric, 0.2, 0.1) and not is_better(metric, 0.2, 0.3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["eval_loss", "eval_accuracy"])
def test_what_is_no_number_never_wins(metric: str, value: float):
    assert not is_better(metric, value, None) and not is_better(metric, value, 0.5)
    assert after(metric, value) == Standing(metric=metric, since=1, counted=1)
    assert after(metric, value, 0.5) == Standing(metric=metric, step=2, value=0.5, counted=2)
    assert after(metric, 0.5, value).step == 1


def test_ties_keep_the_earlier_and_count_as_no_better():
    assert after("eval_loss", 2.0, 2.0) == Standing(metric="eval_loss", step=1, value=2.0, since=1, counted=2)
    assert after("eval_loss", 2.0, 2.0, 1.9).since == 0


def test_an_evaluation_is_counted_once():
    once = after("eval_loss", 2.0, 3.0)
    assert once.after("eval_loss", 2, 3.0) == once == once.after("eval_loss", 1, 1.0)


def test_another_metric_begins_anew():
    assert after("eval_loss", 2.0, 3.0).after("eval_wer", 3, 0.5) == Standing(
        metric="eval_wer", step=3, value=0.5, counted=3
    )


@pytest.mark.parametrize("strange", [[], "x", {"step": "one"}, {"metric": 3}, {"value": "low"}])
def test_a_strange_standing_is_none(strange: object):
    with pytest.raises(TypeError):
        Standing.of(strange)  # type: ignore[arg-type]


def test_a_checkpoint_without_one_or_of_a_later_version_is_read():
    assert Standing.of(None) == Standing()
    assert Standing.of({"step": 3, "value": 1.5, "metric": "eval_loss", "later": 1}).step == 3
