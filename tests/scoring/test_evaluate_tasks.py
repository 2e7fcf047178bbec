"""The command on each task: what it takes from the table beside answers, what it prints and refuses."""

from __future__ import annotations

import json

import pytest

from support.evaluations import Evaluate, lines

SOUNDS = "audio,label,prediction,probability\na.wav,dog,A dog.,0.9\nb.wav,cat,dog,0.8\nc.wav,cat,what?,\n"


def test_classification_prints_labels_confusions_and_calibration(evaluate: Evaluate):
    done = evaluate({"p.csv": SOUNDS}, "p.csv", "--task", "classification")
    assert done.code == 0
    assert [row["given"] for row in done.rows] == ["dog", "dog", ""]
    assert [row["correct"] for row in done.rows] == ["true", "false", "false"]
    assert '1 of 3 answers name no label (line 4: "what?")' in done.err
    assert "most often confused" in done.out and "→ (no label)" in done.out
    assert done.scores["calibration"]["ece"] == pytest.approx((0.1 + 0.8) / 2)
    assert done.scores["calibration"]["without"] == 1
    assert "expected calibration error 45.00 %; 1 rows have no probability" in done.out
    assert done.scores["confusion"]["labels"] == ["cat", "dog", "(no label)"]


@pytest.mark.parametrize("labels", ["what,cat,dog", "labels.txt", '["what", "cat", "dog"]'])
def test_labels_by_option(evaluate: Evaluate, labels: str):
    files = {"p.csv": SOUNDS, "labels.txt": "\ufeffwhat\ncat\n\ndog\n"}
    done = evaluate(files, "p.csv", "--task", "classification", "--labels", labels)
    assert done.code == 0
    assert done.scores["confusion"]["labels"] == ["what", "cat", "dog", "(no label)"]
    assert [row["given"] for row in done.rows] == ["dog", "dog", "what"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--task", "classification", "--labels", "dog,bird"],
            'p.csv line 3: the reference "cat" is none of the 2',
        ),
        (
            ["--task", "classification", "--labels", "nowhere.txt"],
            "--labels nowhere.txt: give a file that is there",
        ),
        (
            ["--task", "exact", "--labels", "cat,dog"],
            "--labels goes with --task classification and tagging only",
        ),
        (["--task", "choice"], 'p.csv line 2: the reference "dog" is none of the options'),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(evaluate: Evaluate, words: list[str], said: str):
    done = evaluate({"p.csv": SOUNDS}, "p.csv", *words)
    assert done.code == 2 and said in done.err
    assert not done.folder.exists()


def test_a_probability_that_is_none_is_refused_with_its_line(evaluate: Evaluate):
    table = SOUNDS.replace("0.8", "80 %")
    done = evaluate({"p.csv": table}, "p.csv", "--task", "classification")
    assert done.code == 2 and "p.csv line 3: the column `probability` has '80 %'" in done.err


def test_choices_come_from_a_column_or_from_the_prompt(evaluate: Evaluate):
    rows: list[dict[str, object]] = [
        {"answer": "B", "prediction": "the dog", "choices": ["cat", "dog"], "prompt": "?"},
        {"answer": "cat", "prediction": "(a)", "choices": None, "prompt": "What? A. cat B. dog"},
        {"answer": "dog", "prediction": "A", "choices": "dog;cat", "prompt": "What? A. cat B. dog"},
        {"answer": "C", "prediction": "C.", "choices": None, "prompt": "What is it?"},
    ]
    done = evaluate({"p.jsonl": lines(*rows)}, "p.jsonl", "--task", "choice")
    assert done.code == 0
    assert [row["given"] for row in done.rows] == ["B", "A", "A", "C"]
    assert done.scores["scores"]["accuracy"]["value"] == 1


def test_tags_are_ranked_by_their_scores(evaluate: Evaluate):
    rows: list[dict[str, object]] = [
        {"label": ["dog", "car"], "prediction": "dog", "tag_scores": {"dog": 0.9, "car": 0.6}},
        {"label": ["dog"], "prediction": "dog; car", "tag_scores": {"dog": 0.8, "car": 0.7}},
        {"label": [], "prediction": "", "tag_scores": {"dog": 0.1, "car": 0.2}},
    ]
    plain = [{name: value for name, value in row.items() if name != "tag_scores"} for row in rows]
    files = {"p.jsonl": lines(*rows), "q.jsonl": lines(*plain)}
    done = evaluate(files, "p.jsonl", "--task", "tagging", "--against", "q.jsonl", "--match-by", "label")
    assert done.code == 0
    assert done.scores["per_label"]["car"] == {"ap": 0.5, "f1": 0.0, "support": 1}
    assert done.scores["scores"]["map"]["value"] == 0.75
    # The other file has no scores of its own: its rows are ranked by the tags given.
    assert done.scores["against"]["map"]["other"] == pytest.approx((1 + 1 / 3) / 2)
    broken: dict[str, object] = {**rows[0], "tag_scores": {"dog": "high"}}
    done = evaluate({"p.jsonl": lines(broken)}, "p.jsonl", "--task", "tagging")
    assert (
        done.code == 2 and "p.jsonl line 1: column 'tag_scores' is no object of tags and numbers" in done.err
    )


def test_captions_take_several_references(evaluate: Evaluate):
    table = 'caption,prediction\n"[""a dog barks"", ""barking""]",a dog barks\nrain falls,rain\n'
    done = evaluate({"p.csv": table}, "p.csv", "--task", "caption")
    assert done.code == 0
    assert list(done.scores["scores"]) == ["cider", "rouge_l", "bleu1", "bleu2", "bleu3", "bleu4"]
    assert done.rows[0]["rouge_l"] == "1"
    assert "FENSE is left out: aac-metrics isn't installed" in done.err + done.out
    assert json.dumps(done.scores)


def test_short_answers(evaluate: Evaluate):
    table = 'answer,prediction\n"[""a dog"", ""dogs""]",The dog!\ntwo cats,cats\n'
    done = evaluate({"p.csv": table}, "p.csv", "--task", "qa")
    assert done.code == 0
    scores = {name: part["value"] for name, part in done.scores["scores"].items()}
    assert scores == pytest.approx({"f1": (1 + 2 / 3) / 2, "exact_match": 0.5})
