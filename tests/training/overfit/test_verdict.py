"""What is said of rows that were to be learned by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.overfit.verdict import LearnedAnswer, Verdict, likely_causes


def _verdict(losses: list[float], back: int = 0, rows: int = 4, **more: Any) -> Verdict:
    answers = [
        LearnedAnswer(f"t.csv row {n + 2}", f"answer {n}", f"answer {n}" if n < back else "no")
        for n in range(rows)
    ]
    return Verdict(losses, more.pop("norms", [1.0] * len(losses)), 1, more.pop("answers", answers), **more)


def _causes(verdict: Verdict, **options: Any) -> list[str]:
    settings = TrainSettings(
        train_dataset="t.csv", output=Path("o"), **{"lr": 1e-3, "max_steps": 300, **options}
    )
    return likely_causes(verdict, settings, 1e-3)


FALLING = [8.0 * 0.9**n for n in range(30)]
LEARNED = [8.0, 1.0, 0.01]


@pytest.mark.parametrize(
    ("verdict", "options", "said"),
    [
        (_verdict([8.0, 8.0, 7.99]), {"lr": 1e-8}, "--lr 1e-08 is too small"),
        (_verdict([8.0, 8.0], norms=[0.0, 0.0]), {"train_target": ["encoder"]}, "the gradient is 0"),
        (_verdict([8.0, 2.0, 9.0]), {"lr": 1e-3}, "the loss doesn't stay down at --lr 0.001"),
        (_verdict([8.0, 8.0, 8.0]), {"lr": 1.0}, "the loss doesn't stay down at --lr 1"),
        (_verdict([8.0, 7.9, 7.8]), {}, "is too little for these answers"),
        (_verdict([8.0, 7.9, 7.8]), {"warmup_steps": 10}, "3 steps are too few"),
        (_verdict(FALLING), {}, "the loss is still on its way: more --max-steps than 300"),
        (_verdict(FALLING), {"lr": 1e-4}, "--lr 0.0001 is small for so few steps: try 0.001"),
        (_verdict([8.0, 0.1, 4.0]), {}, "the loss jumps"),
        (_verdict(FALLING), {"lr": 0.5}, "--lr 0.5 is large"),
        (_verdict(FALLING), {"lora_rank": 2}, "--lora-rank 2 is small"),
        (_verdict(FALLING), {"lora_dropout": 0.5}, "--lora-dropout 0.5"),
        (_verdict(FALLING), {"train_target": ["encoder"]}, "the decoder isn't trained"),
        (_verdict([8.0, float("nan")]), {}, "the loss is not a finite number"),
        (_verdict(LEARNED), {}, "generation_config.json"),
        (
            _verdict(LEARNED, answers=[LearnedAnswer("row 2", "a b", "a", cut=True)]),
            {},
            "answers are cut before they end",
        ),
        (_verdict(FALLING, silent=["t.csv row 3"]), {}, "nothing is to be heard in t.csv row 3"),
    ],
)  # fmt: skip
def test_a_likely_cause_is_said(verdict: Verdict, options: dict[str, Any], said: str):
    assert not verdict.learned
    assert any(said in cause for cause in _causes(verdict, **options))


def test_rows_that_contradict_each_other_are_cause_enough():
    names = [f"t.csv row {n}" for n in (2, 3, 4, 5)]
    causes = _causes(_verdict([8.0, 0.7], back=1, contradicting=[names]))
    assert causes == [
        "t.csv row 2, t.csv row 3, t.csv row 4, t.csv row 5 have the same clip and prompt and different "
        "answers: no model can tell them apart; mend the table"
    ]
    # Others that weren't learned have another cause.
    assert len(_causes(_verdict([8.0, 0.7], contradicting=[names[:2]]))) == 2


def test_nine_of_ten_answers_are_enough():
    assert _verdict(LEARNED, back=9, rows=10).learned
    assert not _verdict(LEARNED, back=8, rows=10).learned
    assert _verdict(LEARNED, back=1, rows=1).learned and not _verdict(LEARNED, back=0, rows=1).learned


def test_the_summary_and_the_rows_that_are_lost():
    verdict = _verdict(LEARNED, back=2, rows=12)
    assert verdict.summary() == "loss 8 -> 0.01 in 3 steps, 2 of 12 answers come back exactly"
    lost = verdict.lost()
    assert lost[0] == "  t.csv row 4: 'answer 2' -> 'no'" and lost[-1] == "  and 2 more" and len(lost) == 9
    broken = LearnedAnswer("row 2", "a", None, "not enough memory")
    assert _verdict(LEARNED, answers=[broken]).lost() == ["  row 2: 'a' -> none (not enough memory)"]


def test_losses_are_those_of_a_whole_pass():
    verdict = Verdict([9.0, 7.0, 2.0, 4.0], [1.0] * 4, 2, [])
    assert (verdict.first, verdict.last) == (8.0, 3.0)


def test_rows_of_one_answer_say_little():
    assert _verdict(
        LEARNED, answers=[LearnedAnswer("a", "yes", "yes"), LearnedAnswer("b", "yes", "yes")]
    ).same_answer()
    assert not _verdict(LEARNED).same_answer() and not _verdict(LEARNED, rows=1).same_answer()
