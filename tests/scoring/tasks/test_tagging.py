"""Task ``tagging``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.api import Scored, score
from mdl_toolkit.scoring.intervals import bootstrap, compare, point_scores

TAGS = ["speech", "music", "dog", "car"]


def _tables(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, tags given and scores of random rows; scores have ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random((rows, 4)) < [0.5, 0.3, 0.2, 0.05]
    scores = np.round(truth * 0.3 + rng.random((rows, 4)) * 0.7, 1)
    return truth, scores > 0.5, scores


def _lists(table: np.ndarray) -> list[list[str]]:
    return [[tag for tag, there in zip(TAGS, row, strict=True) if there] for row in table]


def _score(truth: np.ndarray, given: np.ndarray, scores: np.ndarray | None = None) -> Scored:
    return score(
        "tagging",
        [";".join(tags) for tags in _lists(truth)],
        [json.dumps(tags) for tags in _lists(given)],
        labels=TAGS,
        tag_scores=None
        if scores is None
        else [dict(zip(TAGS, map(float, row), strict=True)) for row in scores],
    )


@pytest.mark.parametrize("ranked", [False, True])
def test_scores_are_those_of_scikit_learn(ranked: bool):
    truth, given, scores = _tables(300)
    scored = _score(truth, given, scores if ranked else None)
    by = scores if ranked else given.astype(float)
    assert list(scored.values) == ["map", "micro_f1", "macro_f1"]
    assert scored.values["map"] == pytest.approx(average_precision_score(truth, by, average="macro"))
    assert scored.values["micro_f1"] == pytest.approx(f1_score(truth, given, average="micro"))
    assert scored.values["macro_f1"] == pytest.approx(f1_score(truth, given, average="macro"))
    per_label = scored.judged.details["per_label"]
    assert {tag: of["support"] for tag, of in per_label.items()} == dict(zip(TAGS, truth.sum(0), strict=True))
    for number, tag in enumerate(TAGS):
        assert per_label[tag]["ap"] == pytest.approx(average_precision_score(truth[:, number], by[:, number]))
        assert per_label[tag]["f1"] == pytest.approx(f1_score(truth[:, number], given[:, number]))


@pytest.mark.parametrize("ranked", [False, True])
def test_draws_are_scored_as_the_rows_they_hold(ranked: bool):
    truth, given, scores = _tables(80)
    statistics = _score(truth, given, scores if ranked else None).judged.statistics
    drawn = np.random.default_rng(1).integers(0, 80, 80)
    weights = np.stack([np.bincount(drawn, minlength=80), np.ones(80)]).astype(float)
    part = point_scores(statistics.take(drawn))
    both = statistics.scores(weights)
    whole = point_scores(statistics)
    by = (scores if ranked else given.astype(float))[drawn]
    there = truth[drawn].any(axis=0)
    assert part["map"] == pytest.approx(average_precision_score(truth[drawn][:, there], by[:, there]))
    for name, values in both.items():
        assert values == pytest.approx([part[name], whole[name]])


def test_a_better_model_is_told_from_a_worse():
    truth, given, _ = _tables(300)
    good, bad = (
        _score(truth, given).judged.statistics,
        _score(truth, np.roll(given, 7, axis=0)).judged.statistics,
    )
    assert (compare(good, bad, 200, 0)["map"].p or 1) < 0.05
    value, low, high = bootstrap(good, 200, 0)["map"]
    assert low and value and high and low < value < high


def test_tags_are_read_from_lists_and_texts():
    references = ["dog; Male speech, man speaking", ["dog", "male speech, man speaking"], '["dog"]', "", []]
    predictions = [
        "Dog;male speech man speaking.",
        "Male speech, man speaking; a dog",
        ["dog", "dog"],
        "",
        None,
    ]
    scored = score("tagging", references, predictions)
    assert [row["score"] for row in scored.rows] == [1.0] * 5
    assert [row["correct"] for row in scored.rows] == [True] * 5
    assert scored.values == {"map": 1.0, "micro_f1": 1.0, "macro_f1": 1.0}
    assert [row["given"] for row in scored.rows][2:] == ["dog", "", ""]


def test_a_tag_names_labels_as_whole_words():
    scored = score("tagging", ["female"], ["male; female"], labels=["male", "female"])
    assert scored.rows[0]["given"] == "female; male" or scored.rows[0]["given"] == "male; female"
    scored = score("tagging", ["female"], ["a female voice"], labels=["male", "female"])
    assert scored.rows[0]["given"] == "female"
    scored = score("tagging", ["dog; car"], ["A dog barks and a car passes."])
    assert scored.rows[0]["given"] == "car; dog"


def test_tags_that_are_no_label_are_wrong_and_shown():
    scored = score("tagging", ["dog", "cat"], ["dog; whale", "cat"])
    assert scored.values["micro_f1"] == pytest.approx(4 / 5)
    assert scored.rows[0]["score"] == pytest.approx(2 / 3) and scored.rows[0]["correct"] is False
    assert scored.judged.unread == {"have tags that are no label": [0]}
    assert scored.judged.details["unread"] == {"tags": 1}


def test_a_label_that_is_never_true_has_no_average_precision():
    scored = score("tagging", ["dog", "cat"], ["dog", "cat"], labels=["dog", "cat", "car"])
    assert scored.judged.details["per_label"]["car"] == {"ap": None, "f1": 0.0, "support": 0}
    assert scored.values["map"] == 1


def test_what_is_decided_about_a_table_is_said():
    assert any("tags are divided by `;`" in line for line in score("tagging", ["a, b"], ["a"]).judged.remarks)
    lines = score("tagging", ["a;b"], ["a"]).judged.remarks
    assert lines == ["average precision ranks by the tags given: there is no column `tag_scores`"]
    lines = score("tagging", ["a;b", "b"], ["a", "b"], tag_scores=[{"a": 0.9}, None]).judged.remarks
    assert lines == ["1 of 2 rows have no `tag_scores`: they rank last"]


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match='row 1: the tag "dgo" is none of the 1 labels'):
        score("tagging", ["dgo"], ["dog"], labels=["dog"])
    with pytest.raises(UserError, match="no reference has a tag"):
        score("tagging", ["", []], ["a", "b"])


@pytest.mark.parametrize("numbers", [[1 - n * 1e-12 for n in range(4)], [1e300, 1e60, 1e50, -1e300]])
def test_numbers_rank_rows_however_large_or_near_they_are(numbers: list[float]):
    given = [{"a": number, "b": float("nan")} for number in numbers]
    wanted = ["a", "b", "a", "b"]
    ap = score("tagging", wanted, [None] * 4, tag_scores=given).judged.details["per_label"]
    assert (
        ap["a"]["ap"] == pytest.approx(average_precision_score([1, 0, 1, 0], numbers)) == pytest.approx(5 / 6)
    )
    assert ap["b"]["ap"] == 0.5, "what has no number ranks last"
