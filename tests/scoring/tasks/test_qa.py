"""Task ``qa``: exact match and F1 of words, as SQuAD has them; Chinese by character."""

from __future__ import annotations

import pytest

from mdl_toolkit.scoring.api import score
from mdl_toolkit.scoring.intervals import bootstrap


@pytest.mark.parametrize(
    ("reference", "prediction", "f1", "exact"),
    [
        ("the dog", "A dog.", 1.0, 1.0),
        ("New York", "new york city", 0.8, 0.0),
        ("two dogs bark", "dogs bark two", 1.0, 0.0),
        ("dog dog cat", "dog cat cat", 2 / 3, 0.0),
        ("it's", "its", 1.0, 1.0),
        ("well-known", "wellknown", 1.0, 1.0),
        ("$5", "5", 1.0, 1.0),
        ("ＤＯＧ", "dog", 1.0, 1.0),
        ("cat", "dog", 0.0, 0.0),
        ("cat", "", 0.0, 0.0),
        ("cat", None, 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("", None, 0.0, 0.0),
        ("", "cat", 0.0, 0.0),
        ("the", "a", 1.0, 1.0),
        ("一只狗", "一只狗。", 1.0, 1.0),
        ("一只狗", "两只狗", 2 / 3, 0.0),
        ("在Beijing", "在 beijing", 1.0, 1.0),
        (["a cat", "a dog"], "dog", 1.0, 1.0),
        ('["a cat", "a dog"]', "dog", 1.0, 1.0),
        (["big cat", "big dog"], "dog", 2 / 3, 0.0),
        ("dog", "<think>a cat?</think> dog", 1.0, 1.0),
    ],
)
def test_an_answer_is_worth(reference: str | list[str], prediction: str | None, f1: float, exact: float):
    scored = score("qa", [reference], [prediction])
    assert scored.values == pytest.approx({"f1": f1, "exact_match": exact})
    assert list(scored.values) == ["f1", "exact_match"]
    assert scored.rows[0]["correct"] is bool(exact)
    assert scored.rows[0]["score"] == pytest.approx(f1)


def test_intervals_hold_the_value():
    scored = score("qa", ["a dog", "two cats"] * 50, ["dog", "three cats"] * 50)
    value, low, high = bootstrap(scored.judged.statistics, 200, 0)["f1"]
    assert value == 0.75 and low and high and low < value < high
