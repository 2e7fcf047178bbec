"""Task ``caption``: CIDEr-D, BLEU, ROUGE-L, and FENSE through a stand-in for its package."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.api import score
from mdl_toolkit.scoring.intervals import bootstrap, point_scores

REFERENCES = [
    ["A dog barks in the rain.", "Rain falls while a dog barks loudly", "a dog is barking"],
    ["A man speaks, and a car passes by", "a man is talking as a car drives past"],
    ["birds sing in the forest", "birds are chirping and singing"],
    ["Water drips into a metal bucket"],
    ["people applaud", "a crowd claps and cheers"],
]
CANDIDATES = [
    "A dog barks while rain falls.",
    "a man is speaking",
    "Birds sing in the forest, birds sing",
    "a metal bucket",
    "a crowd applauds and cheers loudly",
]


def _plain(text: str) -> str:
    return text.lower().replace(",", "").replace(".", "")


def test_scores_are_those_of_the_libraries():
    scored = score("caption", REFERENCES, CANDIDATES)
    longest = max(map(len, REFERENCES))
    streams = [[_plain(row[n]) if n < len(row) else None for row in REFERENCES] for n in range(longest)]
    given = [_plain(text) for text in CANDIDATES]
    assert list(scored.values) == ["cider", "rouge_l", "bleu1", "bleu2", "bleu3", "bleu4"]
    for order in (1, 2, 3, 4):
        bleu = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, force=True)
        expected = bleu.corpus_score(given, streams).score / 100
        assert scored.values[f"bleu{order}"] == pytest.approx(expected)
    scorer = RougeScorer(["rougeL"])
    each = [
        max(scorer.score(_plain(reference), text)["rougeL"].fmeasure for reference in row)
        for row, text in zip(REFERENCES, given, strict=True)
    ]
    assert scored.values["rouge_l"] == pytest.approx(np.mean(each))
    assert [row["rouge_l"] for row in scored.rows] == pytest.approx(each)
    assert scored.values["cider"] == pytest.approx(np.mean([row["score"] for row in scored.rows]))


def test_the_references_themselves_are_perfect_and_nothing_is_nothing():
    own = score("caption", [row[:1] for row in REFERENCES], [row[0] for row in REFERENCES]).values
    assert own["bleu4"] == own["bleu1"] == own["rouge_l"] == pytest.approx(1.0)
    assert own["cider"] == pytest.approx(10.0, abs=2.6)  # where a caption has fewer than four words
    nothing = score("caption", REFERENCES, [None, "", "?", "xyz", "-"]).values
    assert set(nothing.values()) == {0.0}


def test_chinese_is_compared_by_character():
    scored = score("caption", ["一只狗在雨中叫。", "鸟在唱歌"], ["一只狗在叫", "鸟在唱歌"]).values
    assert 0.5 < scored["rouge_l"] < 1 and 0 < scored["bleu1"] < 1 and scored["cider"] > 1


def test_references_may_be_lists_in_json():
    lists = [json.dumps(row) for row in REFERENCES]
    assert score("caption", lists, CANDIDATES).values == score("caption", REFERENCES, CANDIDATES).values


def test_draws_are_scored_as_the_rows_they_hold():
    statistics = score("caption", REFERENCES, CANDIDATES).judged.statistics
    drawn = np.array([0, 0, 2, 3, 4])
    weights = np.bincount(drawn, minlength=5)[None].astype(float)
    part = point_scores(statistics.take(drawn))
    for name, values in statistics.scores(weights).items():
        assert values[0] == pytest.approx(part[name])
    value, low, high = bootstrap(statistics, 100, 0)["bleu1"]
    assert low and value and high and low < value < high


def test_rows_without_a_reference_are_left_out():
    scored = score("caption", [*REFERENCES, "", []], [*CANDIDATES, "a dog", "a cat"])
    assert scored.values == score("caption", REFERENCES, CANDIDATES).values
    assert scored.judged.left_out == {"no reference": [5, 6]}
    assert scored.rows[5]["score"] is None
    with pytest.raises(UserError, match="no row has a reference"):
        score("caption", ["", []], ["a", "b"])


def test_without_the_package_a_line_says_how_to_get_it():
    remarks = score("caption", REFERENCES, CANDIDATES).judged.remarks
    assert remarks[0] == (
        "FENSE is left out: aac-metrics isn't installed (pip install aac-metrics, then aac-metrics-download)"
    )
    assert "5 are few" in remarks[1]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``aac_metrics`` that scores a caption by its letters, and the place of its models."""
    functional = tmp_path / "packages" / "aac_metrics" / "functional"
    functional.mkdir(parents=True)
    for folder in (functional.parent, functional):
        (folder / "__init__.py").write_text("")
    (functional / "fense.py").write_text(
        "import os\n"
        "def fense(candidates, mult_references, *, echecker, device):\n"
        "    assert device == 'cpu' and os.environ['HF_HUB_OFFLINE'] == '1' and all(mult_references)\n"
        "    if 'fail' in candidates: raise RuntimeError('the model is damaged')\n"
        "    print('Loading')\n"
        "    return {'fense': 0.5}, {'fense': [len(text) / 100 for text in candidates]}\n"
    )
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("FENSE_DATA", str(tmp_path / "models"))
    return tmp_path / "models"


def test_fense_is_a_score_where_package_and_models_are_at_hand(stand_in: Path):
    missing = score("caption", REFERENCES[:2], CANDIDATES[:2]).judged.remarks[0]
    assert (
        missing.startswith("FENSE is left out: ")
        and "echecker_clotho_audiocaps_base.ckpt is missing" in missing
    )
    (stand_in / "echecker_clotho_audiocaps_base.ckpt").write_bytes(b"")
    scored = score("caption", REFERENCES, CANDIDATES)
    expected = [len(text) / 100 for text in CANDIDATES]
    assert scored.values["fense"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert [row["fense"] for row in scored.rows] == pytest.approx(expected, abs=1e-6)
    assert not any("FENSE" in line for line in scored.judged.remarks)
    damaged = score("caption", REFERENCES[:1], ["fail"])
    assert "fense" not in damaged.values
    assert "the model is damaged" in damaged.judged.remarks[0]
    assert not any(math.isnan(value) for value in damaged.values.values())
