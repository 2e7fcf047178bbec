"""Task ``classification``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.api import score, write_evaluation
from mdl_toolkit.scoring.intervals import bootstrap, compare, point_scores

LABELS = ["bass", "bass drum", "flute", "organ"]


def _random(rows: int, seed: int = 0) -> tuple[list[str], list[str | None]]:
    rng = np.random.default_rng(seed)
    truth = [LABELS[number] for number in rng.choice(4, rows, p=[0.5, 0.3, 0.15, 0.05])]
    given = [
        label if rng.random() < 0.7 else [*LABELS, None, "noise"][int(rng.integers(0, 6))] for label in truth
    ]
    return truth, given


def test_scores_are_those_of_scikit_learn():
    truth, given = _random(500)
    found = score("classification", truth, given).values
    known = [label if label in LABELS else "none" for label in given]
    assert list(found) == ["accuracy", "macro_f1", "weighted_f1"]
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, known))
    for kind in ("macro", "weighted"):
        expected = f1_score(truth, known, labels=LABELS, average=kind)
        assert found[f"{kind}_f1"] == pytest.approx(expected)


def test_draws_and_slices_are_scored_as_the_rows_they_hold():
    """A draw with weights is the table in which rows stand as often."""
    truth, given = _random(60)
    statistics = score("classification", truth, given).judged.statistics
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 60, 60)
    weights = np.bincount(drawn, minlength=60)[None].astype(float)
    part = point_scores(statistics.take(drawn))
    for name, value in statistics.scores(weights).items():
        assert value[0] == pytest.approx(part[name])
    assert part == pytest.approx(
        score("classification", [truth[i] for i in drawn], [given[i] for i in drawn]).values
    )


def test_intervals_hold_the_value_and_a_better_model_is_told():
    truth, given = _random(400)
    one = score("classification", truth, given).judged.statistics
    other = score("classification", truth, [*[None] * 200, *given[200:]]).judged.statistics
    value, low, high = bootstrap(one, 300, 0)["accuracy"]
    assert low and value and high and low < value < high
    assert (compare(one, other, 300, 0)["accuracy"].p or 1) < 0.05


def test_answers_that_are_no_label_are_a_column_and_are_shown():
    truth = ["dog", "dog", "cat", "cat"]
    scored = score("classification", truth, ["a dog", "cat and dog", None, "bird"])
    details = scored.judged.details
    assert details["confusion"] == {"labels": ["cat", "dog", "(no label)"], "counts": [[0, 0, 2], [0, 1, 1]]}
    assert details["per_class"]["dog"] == {
        "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2,
    }  # fmt: skip
    assert details["unread"] == {"no_label": 2, "several_labels": 1}
    assert [row["given"] for row in scored.rows] == ["dog", None, None, None]
    assert [row["wanted"] for row in scored.rows] == truth
    assert [row["correct"] for row in scored.rows] == [True, False, False, False]
    assert scored.judged.unread == {"name no label": [2, 3], "name several labels": [1]}


def test_the_first_of_several_references_counts():
    scored = score("classification", [["bass", "organ"], '["organ", "bass"]'], ["bass", "organ"])
    assert scored.values["accuracy"] == 1


def test_labels_by_option_are_all_that_count():
    scored = score("classification", ["cat", "dog"], ["cat", "dog, not bird"], labels=["dog", "cat", "bird"])
    assert scored.values["accuracy"] == 0.5
    assert scored.judged.details["confusion"]["labels"] == ["dog", "cat", "bird", "(no label)"]


def test_a_reference_that_is_no_label_is_refused():
    with pytest.raises(UserError, match='row 2: the reference "dgo" is none of the 2 labels'):
        score("classification", ["cat", "dgo"], ["cat", "dog"], labels=["cat", "dog"])


def test_rows_without_a_reference_are_left_out():
    scored = score("classification", ["cat", "", "dog"], ["cat", "cat", "dog"])
    assert scored.values["accuracy"] == 1
    assert scored.judged.left_out == {"no label in the reference": [1]}
    assert [row["score"] for row in scored.rows] == [1.0, None, 1.0]
    assert scored.judged.details["per_class"]["cat"]["precision"] == 1


def test_many_labels_make_no_matrix_and_little_memory():
    names = [f"word{number}" for number in range(3000)]
    scored = score("classification", names, names[:1500] + names[:1500])
    assert scored.values["accuracy"] == 0.5
    assert "confusion" not in scored.judged.details
    assert (bootstrap(scored.judged.statistics, 50, 0)["accuracy"].low or 1) < 0.5


def test_the_published_accuracy_comes_out(shared_eval: Path, tmp_path: Path):
    lines = (shared_eval / "MiDashengLM_NSynth.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    scored = score("classification", [row["label"] for row in rows], [row["model_output"] for row in rows])
    assert scored.values["accuracy"] == pytest.approx(0.805176, abs=1e-6)
    assert scored.judged.details["unread"] == {"no_label": 25, "several_labels": 0}
    columns = {name: [str(row[name]) for row in rows] for name in ("audio", "label", "model_output")}
    written = write_evaluation(tmp_path, scored, columns, source="nsynth", resamples=50)
    assert written["scores"]["accuracy"]["low"] < 0.8052 < written["scores"]["accuracy"]["high"]
