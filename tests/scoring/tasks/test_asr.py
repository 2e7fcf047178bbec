"""Error rates of speech: counts held to plain ones, normalisers, rows left out, the view of errors."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from mdl_toolkit.scoring.api import score
from mdl_toolkit.scoring.speech.alignment import side_by_side
from support.evaluations import Evaluate, lines


def distance(one: list[str], other: list[str]) -> int:
    """The edit distance, by the plain recursion."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, beside in enumerate(other, start=1):
            before, row[j] = row[j], min(before + (letter != beside), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def test_published_word_error_rate(shared_eval: Path, evaluate: Evaluate):
    file = shared_eval / "MiDashengLM_LibriSpeech_test-clean.jsonl"
    done = evaluate({}, str(file), "--task", "asr", "--resamples", "200")
    assert done.code == 0
    found = done.scores["scores"]["wer"]
    assert found["value"] == pytest.approx(0.037189, abs=0.000005)
    assert found["low"] < found["value"] < found["high"]
    assert done.scores["normalizer"] == "english" and done.scores["rows"] == 2620
    assert "WER   3.72 %" in done.out and "normalizer english (by the language of each row" in done.err
    row = done.rows[1]
    assert row["normalized_reference"] == "stuff it into you his belly counseled him"
    assert (row["reference_words"], row["score"], row["correct"]) == ("8", "0", "true")


def test_error_rates_are_sums_over_words_and_characters():
    rng = random.Random(0)
    words = ["the", "a", "cat", "sat", "on", "mat", "now", "and", "then"]
    texts = [[" ".join(rng.choices(words, k=rng.randrange(1, 9))) for _ in range(60)] for _ in range(2)]
    scored = score("asr", texts[0], texts[1], normalizer="none")
    pairs = list(zip(*texts, strict=True))
    wer = sum(distance(a.split(), b.split()) for a, b in pairs) / sum(len(a.split()) for a, _ in pairs)
    cer = sum(distance([*a], [*b]) for a, b in pairs) / sum(len(a) for a, _ in pairs)
    assert scored.values == pytest.approx({"wer": wer, "cer": cer})
    errors = scored.judged.details["errors"]["words"]
    assert errors["reference"] == errors["hits"] + errors["substitutions"] + errors["deletions"]
    for row, (a, b) in zip(scored.rows, pairs, strict=True):
        found = distance(a.split(), b.split())
        assert row["substitutions"] + row["deletions"] + row["insertions"] == found
        assert row["score"] == pytest.approx(found / len(a.split())) and row["correct"] == (found == 0)


def test_kinds_of_errors():
    scored = score("asr", ["a b c d"], ["a x d e"], normalizer="none")
    row = scored.rows[0]
    assert (row["substitutions"], row["deletions"], row["insertions"]) == (2, 0, 1) or (
        row["substitutions"] + row["deletions"] + row["insertions"] == 3
    )
    assert scored.values["wer"] == 0.75
    deleted = score("asr", ["a b c"], [""], normalizer="none").rows[0]
    assert (deleted["deletions"], deleted["score"]) == (3, 1.0)
    inserted = score("asr", ["a"], ["a b c d"], normalizer="none").rows[0]
    assert (inserted["insertions"], inserted["score"]) == (3, 3.0)


def test_a_row_without_an_answer_misses_all_words():
    scored = score("asr", ["a b", "c d"], ["a b", None], normalizer="none")
    assert scored.values == {"wer": 0.5, "cer": 0.5}


def test_empty_references_are_left_out_and_counted(evaluate: Evaluate):
    table = 'text,prediction\nyes it is,yes it is\n"[noise]",something\n,anything\n"uh, um",\n'
    done = evaluate({"p.csv": table}, "p.csv", "--task", "asr")
    assert done.scores["scores"]["wer"]["value"] == 0
    assert done.scores["left_out"] == {"reference empty after the normaliser": 2, "no reference": 1}
    assert [row["score"] for row in done.rows] == ["0", "", "", ""]
    assert "2 rows are left out of the scores (reference empty after the normaliser): lines 3, 5" in done.err
    done = evaluate({"p.csv": 'text,prediction\n"[noise]",something\n'}, "p.csv", "--task", "asr")
    assert done.code == 0 and done.scores["scores"]["wer"] == {"value": None, "low": None, "high": None}


def test_chinese_is_counted_by_character(evaluate: Evaluate):
    rows = [
        {"id": 1, "text": "今天氣溫25℃。", "prediction": "今天气温二十五摄氏度"},
        {"id": 2, "text": "打开WiFi开关", "prediction": "打开 wife 开关"},
    ]
    done = evaluate({"p.jsonl": lines(*rows)}, "p.jsonl", "--task", "asr")
    assert done.scores["normalizer"] == "chinese"
    assert "by the look of the references" in done.err
    words = done.scores["errors"]["words"]
    assert (words["reference"], words["substitutions"], words["hits"]) == (15, 1, 14)
    assert done.scores["errors"]["characters"]["reference"] == 10 + 8
    assert done.rows[1]["normalized_prediction"] == "打 开 wife 开 关"


def test_each_row_by_its_language(evaluate: Evaluate):
    rows = [
        {"lang": "en", "text": "It's twenty one", "prediction": "it is 21"},
        {"lang": "zh-CN", "text": "二十一", "prediction": "21"},
        {"lang": "zh-CN", "text": "你好", "prediction": "你好"},
        {"lang": "de", "text": "Grün!", "prediction": "grün"},
    ]
    done = evaluate({"p.jsonl": lines(*rows)}, "p.jsonl", "--task", "asr", "--slice-by", "lang")
    assert done.scores["scores"]["wer"]["value"] == 0
    assert done.scores["normalizer"] == "chinese and basic and english"
    as_it_is = evaluate({}, "p.jsonl", "--task", "asr", "--normalizer", "none")
    assert as_it_is.scores["scores"]["wer"]["value"] == pytest.approx(5 / 6)
    assert as_it_is.scores["normalizer"] == "none"


def test_the_view_of_errors(evaluate: Evaluate):
    shown = side_by_side("the cat 坐 on mat", "the 猫 坐 on the mat")
    reference, answer, marks = shown.splitlines()
    assert reference == "reference the cat 坐 on *** mat"
    assert answer == "answer    the 猫  坐 on the mat"
    assert marks.split() == ["S", "I"] and marks.index("S") == 14
    table = "text,prediction\n" + "a b c d,a x c d\n" + "a b,a b\n" + "a b,x y\n"
    done = evaluate({"p.csv": table}, "p.csv", "--task", "asr", "--normalizer", "none")
    text = (done.folder / "alignments.txt").read_text()
    assert text.startswith("2 rows with errors, the worst first\n\nrow 4: 100.0 %\nreference a b\n")
    assert "line 4\nreference a b\nanswer    x y" in done.out
    # Another task leaves no view of an earlier one behind.
    assert evaluate({}, "p.csv", "--task", "exact").code == 0
    assert not (done.folder / "alignments.txt").exists()


def test_intervals_count_longer_rows_more():
    """The rate of a draw is its errors over its words, not a mean of rows' rates."""
    ten = "a b c d e f g h i j"
    scored = score("asr", [ten, "a"] * 40, [ten, "b"] * 40, normalizer="none")
    statistics = scored.judged.statistics
    weights = np.zeros((2, 80))
    weights[0, 0], weights[0, 1], weights[1, 1] = 3, 1, 5
    assert list(statistics.scores(weights)["wer"]) == pytest.approx([1 / 31, 1])


def test_texts_that_are_very_long_or_odd():
    long = "word " * 4000
    assert score("asr", [long], [long + "more"]).values["wer"] == pytest.approx(1 / 4000)
    assert score("asr", ["\u200b\u3000 a"], ["a\n\n"]).values["wer"] == 0
    assert score("asr", ["<unk> a"], ["a"]).values["wer"] == 0
