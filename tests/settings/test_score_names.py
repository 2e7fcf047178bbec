"""Which scores are better when lower, by any name that metrics give them."""

from __future__ import annotations

import pytest

from mdl_toolkit.settings.score_names import MAIN_SCORE, is_lower_better


@pytest.mark.parametrize("name", ["wer", "eval_wer", "eval_wer/old", "cer", "eval_loss/main", "ece"])
def test_errors_and_losses_are_better_when_lower(name: str):
    assert is_lower_better(name)


@pytest.mark.parametrize("name", ["accuracy", "eval_accuracy", "map", "cider", "f1", "eval_f1/wer"])
def test_the_others_are_better_when_higher(name: str):
    assert not is_lower_better(name)


def test_every_task_has_a_score_that_counts():
    assert MAIN_SCORE["asr"] == "wer" and MAIN_SCORE["classification"] == "accuracy"
