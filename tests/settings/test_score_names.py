"""Which scores are better when lower, by any name that metrics give them."""

from __future__ import annotations

import pytest

from mdl_toolkit.scoring.api import score
from mdl_toolkit.settings.score_names import MAIN_SCORE, SCORES, is_lower_better, missing_libraries


@pytest.mark.parametrize("name", ["wer", "eval_wer", "eval_wer/old", "cer", "eval_loss/main", "ece"])
def test_errors_and_losses_are_better_when_lower(name: str):
    assert is_lower_better(name)


@pytest.mark.parametrize("name", ["accuracy", "eval_accuracy", "map", "cider", "f1", "eval_f1/wer"])
def test_the_others_are_better_when_higher(name: str):
    assert not is_lower_better(name)


def test_every_task_has_a_score_that_counts():
    assert MAIN_SCORE["asr"] == "wer" and MAIN_SCORE["classification"] == "accuracy"


@pytest.mark.parametrize("task", SCORES)
def test_the_scores_of_a_task_are_those_that_it_gives(task: str):
    if missing_libraries(task):
        pytest.skip("its libraries are not installed")
    answers = ["a dog barks in the yard", "a cat sleeps on the roof"]
    choices = [answers, answers] if task == "choice" else None
    assert tuple(score(task, answers, answers, choices=choices).values) == SCORES[task]
