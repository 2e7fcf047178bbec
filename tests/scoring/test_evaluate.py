"""The command: columns, a file of right answers, rows without an answer, slices, comparisons, messages."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.evaluations import Evaluate, lines

PREDICTIONS = """audio,speaker,reference,prediction
a.wav,anna,yes,yes
b.wav,anna,no,yes
c.wav,ben,yes,
d.wav,小明,maybe,maybe
"""


def test_a_table_of_predictions(evaluate: Evaluate):
    done = evaluate({"p.csv": PREDICTIONS}, "p.csv", "--task", "exact", "--slice-by", "speaker")
    assert done.code == 0
    assert done.scores["scores"]["accuracy"]["value"] == 0.5
    assert done.scores["no_answer"] == {"rows": 1, "line": [4]}
    assert done.scores["columns"] == {"reference": "reference", "prediction": "prediction"}
    assert "p.csv: 4 rows, task exact, 1 without an answer" in done.out
    assert "accuracy   50.00 %" in done.out
    assert "1 of 4 rows has no answer; that counts as wrong: line 4" in done.err
    assert "slices of speaker with fewer than 30 rows" in done.err
    assert [row["row"] for row in done.rows] == ["2", "3", "4", "5"]
    assert [row["correct"] for row in done.rows] == ["true", "false", "false", "true"]
    assert [row["speaker"] for row in done.rows][3] == "小明"


def test_slices_of_thirty_rows_are_not_warned_of(evaluate: Evaluate):
    rows = [{"id": i, "room": i % 2, "label": "x", "prediction": "x" if i % 3 else "y"} for i in range(60)]
    done = evaluate({"p.jsonl": lines(*rows)}, "p.jsonl", "--task", "exact", "--slice-by", "room")
    assert done.code == 0 and "fewer" not in done.err
    assert {name: part["rows"] for name, part in done.scores["slices"]["room"].items()} == {"0": 30, "1": 30}
    assert "small" not in done.scores["slices"]["room"]["0"]


def test_rows_that_are_all_right_leave_room_for_wrong_ones(evaluate: Evaluate):
    table = "reference,prediction,room\n" + "yes,yes,a\n" * 32 + "no,no,b\n" * 32
    done = evaluate({"p.csv": table}, "p.csv", "--task", "classification", "--slice-by", "room")
    accuracy = done.scores["scores"]["accuracy"]
    assert (accuracy["value"], accuracy["high"]) == (1, 1) and 0.943 < accuracy["low"] < 0.944
    assert done.scores["scores"]["macro_f1"] == {"value": 1, "low": None, "high": None}
    part = done.scores["slices"]["room"]["a"]["scores"]["accuracy"]
    assert (part["value"], part["high"]) == (1, 1) and 0.89 < part["low"] < 0.9
    assert "100.00 %   94.34 to 100.00" in done.out


def test_a_slice_is_small_by_the_rows_that_count(evaluate: Evaluate):
    table = "reference,prediction,room\n" + "yes,yes,a\n" * 29 + ",yes,a\n" * 10 + "yes,yes,b\n" * 30
    done = evaluate({"p.csv": table}, "p.csv", "--task", "exact", "--slice-by", "room")
    found = done.scores["slices"]["room"]
    assert found["a"]["small"] and found["a"]["rows"] == 39 and "small" not in found["b"]


def test_names_of_columns_as_people_write_them(evaluate: Evaluate):
    done = evaluate({"p.csv": "Text,model_output\na,a\nb,a\n"}, "p.csv", "--task", "exact")
    assert done.code == 0 and done.scores["columns"] == {"reference": "Text", "prediction": "model_output"}
    table = "said,heard\na,a\nb,a\n"
    words = ("--reference", "said", "--prediction", "heard")
    assert evaluate({"p.csv": table}, "p.csv", "--task", "exact", *words).code == 0


def test_a_list_in_a_column_of_labels(evaluate: Evaluate):
    rows = [{"label": ["bass", "low"], "model_output": "bass"}, {"label": ["reed"], "model_output": "bass"}]
    done = evaluate({"p.jsonl": lines(*rows)}, "p.jsonl", "--task", "exact")
    assert [row["correct"] for row in done.rows] == ["true", "false"]
    assert [row["label"] for row in done.rows] == ['["bass", "low"]', '["reed"]']
    # As `inference` writes such a row to a CSV, it is read as the same.
    again = evaluate({"p.csv": (done.folder / "rows.csv").read_text()}, "p.csv", "--task", "exact")
    assert again.scores["scores"] == done.scores["scores"]
    assert [*again.rows[0]][:5] == ["label", "model_output", "row_1", "score_1", "correct_1"]


def test_a_parquet_file(evaluate: Evaluate, tmp_path: Path):
    table = pa.table({"label": ["a", "b"], "prediction": ["a", None], "weight": [0.5, float("nan")]})
    pq.write_table(table, tmp_path / "p.parquet")
    done = evaluate({}, "p.parquet", "--task", "exact")
    assert done.scores["scores"]["accuracy"]["value"] == 0.5
    assert done.scores["no_answer"] == {"rows": 1, "row": [2]}
    assert [row["weight"] for row in done.rows] == ["0.5", ""]


def test_a_row_that_failed_counts_as_wrong(evaluate: Evaluate):
    table = 'reference,prediction,error\nyes,yes,\nyes,yes,"a.wav: no such file"\n'
    done = evaluate({"p.csv": table}, "p.csv", "--task", "exact")
    assert done.scores["scores"]["accuracy"]["value"] == 0.5
    assert "line 3 (the first error: a.wav: no such file)" in done.err


def test_a_column_of_errors_that_are_numbers_says_nothing_of_failures(evaluate: Evaluate):
    done = evaluate({"p.csv": "reference,prediction,error\na,a,0.12\nb,b,0\n"}, "p.csv", "--task", "exact")
    assert done.scores["scores"]["accuracy"]["value"] == 1 and done.scores["no_answer"]["rows"] == 0


def test_an_empty_answer_is_none_in_every_kind_of_file(evaluate: Evaluate):
    rows = [{"label": "a", "prediction": value} for value in ("", " ", None, "a")]
    done = evaluate({"p.jsonl": lines(*rows)}, "p.jsonl", "--task", "exact")
    assert done.scores["no_answer"] == {"rows": 3, "line": [1, 2, 3]}


def test_a_training_table_with_answers_beside(evaluate: Evaluate):
    table = "audio,prediction,model_output\n1.wav,a,a\n2.wav,b,c\n"
    done = evaluate({"p.csv": table}, "p.csv", "--task", "exact", "--prediction", "model_output")
    assert done.scores["columns"] == {"reference": "prediction", "prediction": "model_output"}
    assert done.scores["scores"]["accuracy"]["value"] == 0.5


def test_a_row_without_a_right_answer_is_left_out(evaluate: Evaluate):
    table = "reference,prediction,room\nyes,yes,a\n,yes,a\nnull,no,b\nno,yes,b\n"
    done = evaluate({"p.csv": table}, "p.csv", "--task", "exact", "--slice-by", "room")
    assert done.scores["scores"]["accuracy"]["value"] == 0.5 and done.scores["rows"] == 4
    assert done.scores["left_out"] == {"no reference": 2}
    assert "2 rows are left out of the scores (no reference): lines 3, 4" in done.err
    assert [row["score"] for row in done.rows] == ["1", "", "", "0"]
    values = {
        room: part["scores"]["accuracy"]["value"] for room, part in done.scores["slices"]["room"].items()
    }
    assert values == {"a": 1.0, "b": 0.0}


TRUTH = "audio,prediction,place\nd.wav,no,x\nb.wav,no,y\n./a.wav,yes,x\nlost.wav,yes,x\n"
ANSWERS = [
    {"audio": "a.wav", "prediction": "yes"},
    {"audio": "new.wav", "prediction": "yes"},
    {"audio": "b.wav", "prediction": "no"},
    {"audio": "d.wav", "prediction": "yes"},
]


def test_right_answers_of_another_file_are_matched_by_what_rows_are_of(evaluate: Evaluate):
    files = {"p.jsonl": lines(*ANSWERS), "truth.csv": TRUTH}
    words = ("p.jsonl", "--task", "exact", "--truth", "truth.csv", "--slice-by", "place")
    done = evaluate(files, *words)
    assert done.code == 0
    assert done.scores["scores"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert done.scores["missing"] == [{"line": 5, "audio": "lost.wav"}]
    assert done.scores["extra"] == [{"line": 2, "audio": "new.wav"}]
    assert done.scores["matched_by"] == ["audio"]
    assert "line 5 (lost.wav)" in done.err and "line 2 (new.wav)" in done.err
    assert [row["reference"] for row in done.rows] == ["yes", "", "no", "no"]
    assert [row["correct"] for row in done.rows] == ["true", "", "true", "false"]
    assert done.scores["slices"]["place"]["y"]["scores"]["accuracy"]["value"] == 1
    assert "4 rows, task exact, 1 left out, 1 missing, 1 extra" in done.out
    assert done.out.startswith("1 of 4 rows of truth.csv has no prediction and is in none of these scores:\n")


def test_a_file_that_answers_little_of_the_truth_does_not_look_perfect(evaluate: Evaluate):
    truth = "id,text\n" + "".join(f"{number},yes\n" for number in range(1000))
    answers = "id,prediction\n" + "".join(f"{number},yes\n" for number in range(10))
    words = ("p.csv", "--task", "exact", "--truth", "truth.csv")
    done = evaluate({"p.csv": answers, "truth.csv": truth}, *words)
    assert done.code == 0
    assert done.out.startswith("990 of 1,000 rows of truth.csv have no prediction and are in none of these")
    warned = "990 of 1,000 rows have no prediction (truth.csv), scores are of those answered alone"
    assert warned in done.err


def test_a_file_of_right_answers_brings_what_else_it_says_of_the_rows(evaluate: Evaluate):
    files = {
        "p.csv": "id,prediction\n1,grün\n2,二十\n",
        "truth.csv": "id,text,lang,error,prediction\n2,20,zh,x,y\n1,Grün!,de,x,y\n",
    }
    words = ("p.csv", "--task", "asr", "--truth", "truth.csv", "--reference", "text")
    done = evaluate(files, *words)
    assert done.scores["scores"]["wer"]["value"] == 0
    assert done.scores["normalizer"] == "basic and chinese"
    assert [*done.rows[0]][:4] == ["id", "prediction", "reference", "lang"]
    assert done.scores["no_answer"]["rows"] == 0  # the errors are another model's


def test_ranges_stand_in_their_order(evaluate: Evaluate):
    rows = [{"text": "a", "prediction": "a", "seconds": 9.5 + 0.25 * number} for number in range(41)]
    done = evaluate({"p.jsonl": lines(*rows)}, "p.jsonl", "--task", "exact", "--slice-by", "seconds")
    names = [*done.scores["slices"]["seconds"]]
    assert names == ["9.5 to 12", "12 to 14.5", "14.5 to 17", "17 to 19.5"]


def test_rows_are_matched_by_a_column_that_is_named(evaluate: Evaluate):
    files = {"p.csv": "n,prediction\n1,a\n2,b\n", "truth.csv": "n,text\n2,b\n1,x\n"}
    done = evaluate(files, "p.csv", "--task", "exact", "--truth", "truth.csv")
    assert done.code == 2 and "name one that both have with --match-by" in done.err
    done = evaluate(files, "p.csv", "--task", "exact", "--truth", "truth.csv", "--match-by", "n")
    assert [row["correct"] for row in done.rows] == ["false", "true"]
    done = evaluate(files, "p.csv", "--task", "exact", "--truth", "truth.csv", "--match-by", "m")
    assert done.code == 2 and "no column 'm' (--match-by); its columns are 'n', 'prediction'" in done.err


def test_segments_and_questions_tell_rows_of_one_clip_apart(evaluate: Evaluate):
    files = {
        "p.csv": "audio,start,end,prediction\na.wav,0,1.5,x\na.wav,1.5,3,y\n",
        "truth.csv": "audio,start,end,text\na.wav,1.50,3.0,y\na.wav,0.0,1.5,x\n",
    }
    done = evaluate(files, "p.csv", "--task", "exact", "--truth", "truth.csv")
    assert done.scores["scores"]["accuracy"]["value"] == 1
    files = {
        "p.csv": "audio,user_prompt,prediction\na.wav,Who?,x\na.wav,Where?,y\n",
        "truth.csv": "audio,user_prompt,answer\na.wav,Where?,y\na.wav,Who?,x\n",
    }
    done = evaluate(files, "p.csv", "--task", "exact", "--truth", "truth.csv")
    assert done.scores["scores"]["accuracy"]["value"] == 1
    assert done.scores["matched_by"] == ["audio", "user_prompt"]


def test_rows_that_are_there_twice_are_refused(evaluate: Evaluate):
    files = {"p.csv": "id,prediction\n1,a\n1,b\n2,c\n", "truth.csv": "id,text\n1,a\n2,b\n"}
    done = evaluate(files, "p.csv", "--task", "exact", "--truth", "truth.csv")
    assert done.code == 2 and "p.csv: lines 2, 3 have the same id '1'" in done.err
    assert not done.folder.exists()


def test_paths_of_other_folders_are_matched_by_their_names(evaluate: Evaluate):
    files = {
        "p.csv": "audio,prediction\n/x/1.wav,a\n/x/2.wav,b\n",
        "truth.csv": "audio,text\n2.wav,b\n1.wav,a\n",
    }
    done = evaluate(files, "p.csv", "--task", "exact", "--truth", "truth.csv")
    assert done.scores["scores"]["accuracy"]["value"] == 1
    assert "by the files' names (no whole path is the same)" in done.err
    files["truth.csv"] = "audio,text\n3.wav,b\n4.wav,a\n"
    done = evaluate(files, "p.csv", "--task", "exact", "--truth", "truth.csv")
    assert done.code == 2 and "no row of p.csv is in truth.csv by audio" in done.err


def test_two_files_of_predictions(evaluate: Evaluate):
    ids = range(200)
    ours = lines(*({"id": i, "text": "x", "prediction": "x" if i % 10 else "y"} for i in ids))
    theirs = lines(*({"id": i, "prediction": "x" if i % 4 else "y"} for i in reversed(ids)))
    words = ("ours.jsonl", "--task", "exact", "--against", "theirs.jsonl")
    done = evaluate({"ours.jsonl": ours, "theirs.jsonl": theirs}, *words)
    found = done.scores["against"]["accuracy"]
    assert (found["value"], found["other"]) == (0.9, 0.75)
    assert found["difference"] == pytest.approx(0.15) and 0 < found["low"] < 0.15 < found["high"]
    assert found["p"] < 0.01 and done.scores["against"]["file"] == "theirs.jsonl"
    assert "better" in done.out and "+15.00 %" in done.out
    swapped = ["theirs.jsonl", "--task", "exact", "--truth", "ours.jsonl", "--against", "ours.jsonl"]
    done = evaluate({}, *swapped)  # the truth, in a file that has predictions too
    assert done.code == 2 and "could be 'text', 'prediction'" in done.err
    again = evaluate({}, *swapped, "--reference", "text")
    assert again.scores["against"]["accuracy"]["difference"] == pytest.approx(-0.15)
    assert "worse" in again.out


def test_rows_of_one_file_alone_are_not_compared(evaluate: Evaluate):
    files = {
        "one.csv": "id,text,prediction\n1,a,a\n2,b,b\n3,c,x\n",
        "two.csv": "id,text,prediction\n4,d,d\n3,c,c\n1,a,a\n",
    }
    done = evaluate(files, "one.csv", "--task", "exact", "--against", "two.csv")
    assert done.scores["scores"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert done.scores["against"]["accuracy"]["value"] == 0.5
    assert done.scores["against"]["accuracy"]["other"] == 1
    assert "1 row of one.csv not in two.csv, not compared: line 3" in done.err
    assert "1 row of two.csv not in one.csv, not compared: line 2" in done.err


def test_each_file_of_tags_is_ranked_by_its_own_numbers(evaluate: Evaluate):
    def file(numbers: list[float]) -> str:
        rows = [{"id": i, "label": ["a" if i < 20 else "b"], "prediction": ["a"]} for i in range(40)]
        return lines(*({**r, "tag_scores": {"a": n, "b": 1 - n}} for r, n in zip(rows, numbers, strict=True)))

    files = {"good.jsonl": file([0.9] * 20 + [0.1] * 20), "bad.jsonl": file([0.1] * 20 + [0.9] * 20)}
    done = evaluate(files, "good.jsonl", "--task", "tagging", "--against", "bad.jsonl")
    found = done.scores["against"]["map"]
    assert found["value"] == 1 and found["other"] < 0.6


def test_what_can_not_be_compared_is_told_before_the_work(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mdl_toolkit.scoring.evaluate.judge_answered", lambda *_, **__: pytest.fail("scored"))
    rows = [{"id": n, "audio": f"{n}.wav", "text": "a", "prediction": "a"} for n in range(1100)]
    files = {"p.jsonl": lines(*rows), "q.csv": "key,prediction\n1,a\n"}
    words = ("p.jsonl", "--task", "exact")
    assert evaluate(files, *words, "--against", "q.csv").code == 2
    done = evaluate(files, *words, "--slice-by", "audio")
    assert done.code == 2 and "1,100 different values, more than 1,000" in done.err


def test_predictions_for_other_right_answers_are_not_compared(evaluate: Evaluate):
    files = {"one.csv": "id,text,prediction\n1,a,a\n", "two.csv": "id,text,prediction\n1,b,a\n"}
    done = evaluate(files, "one.csv", "--task", "exact", "--against", "two.csv")
    assert done.code == 2 and "two.csv line 2: column 'text' is not what it is in one.csv line 2" in done.err


@pytest.mark.parametrize(
    ("table", "words", "said"),
    [
        ("", (), "p.csv"),
        ("reference,prediction\n", (), "p.csv: no rows in it but its header"),
        ("a,b\nx,y\n", (), "no column of the model's answers is known by its name; its columns are 'a', 'b'"),
        ("a,prediction\nx,y\n", (), "or name the file that has them with --truth"),
        ("text,label,prediction\nx,y,z\n", (), "the right answers could be 'text', 'label'; its columns are"),
        ("label,prediction,model_output\nx,y,z\n", (), "could be 'prediction', 'model_output'"),
        ("reference,prediction\nx,y\n", ("--reference", "references"), "did you mean 'reference'?"),
        (
            "reference,prediction\nx,y\n",
            ("--reference", "prediction"),
            "and --prediction at once",
        ),
        ("reference,prediction\nx,y\n", ("--slice-by", "speaker"), "no column 'speaker' (--slice-by)"),
        ("reference,prediction,reference\nx,y,z\n", (), "column 'reference' is there twice"),
        ("reference,prediction\nx,y\nx,y,z\nx\n", (), "p.csv line 3: 3 cells where the header has 2"),
        ("reference,prediction\n,y\n", (), "no row has a right answer"),
        ("reference,prediction\nx,y\n", ("--truth", "none.csv"), "--truth: no file or folder none.csv"),
        ("reference,prediction\nx,y\n", ("--normalizer", "basic"), "--normalizer goes with --task asr only"),
        ("reference,prediction\nx,y\n", ("--encoding", "klingon"), "no such text encoding"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(evaluate: Evaluate, table: str, words: tuple[str, ...], said: str):
    done = evaluate({"p.csv": table}, "p.csv", "--task", "exact", *words)
    assert done.code == 2, done.err
    errors = done.err.splitlines()
    assert errors[-1].startswith("error: ") and said in done.err
    assert not done.folder.exists()


def test_a_long_text_in_a_message_is_cut_and_in_one_line(evaluate: Evaluate):
    row = {"label": "one\ntwo " + "x" * 5000, "prediction": "a", "choices": ["a", "b"]}
    done = evaluate({"p.jsonl": lines(row)}, "p.jsonl", "--task", "choice")
    assert done.code == 2 and len(done.err.splitlines()) == 1 and 'the reference "one two xxx' in done.err
    assert len(done.err) < 300


def test_values_that_are_no_answers(evaluate: Evaluate):
    row = {"label": "a", "prediction": {"text": "a"}}
    done = evaluate({"p.jsonl": lines({"label": "a", "prediction": "a"}, row)}, "p.jsonl", "--task", "exact")
    assert done.code == 2 and "p.jsonl line 2: column 'prediction' holds dict, not text" in done.err
    done = evaluate({"p.jsonl": lines({"label": [["a"]], "prediction": "a"})}, "p.jsonl", "--task", "exact")
    assert done.code == 2 and "holds a list of something else than texts" in done.err
    done = evaluate({"p.jsonl": '{"label": "\\ud800", "prediction": "a"}\n'}, "p.jsonl", "--task", "exact")
    assert done.code == 2 and "label is not valid Unicode text" in done.err
    text = lines({"label": 1, "prediction": 1}, {"label": True, "prediction": "true"})
    text += '{"label": 1, "prediction": NaN}\n'
    done = evaluate({"p.jsonl": text}, "p.jsonl", "--task", "exact")
    assert done.code == 0 and done.scores["scores"]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_a_failed_evaluation_leaves_an_earlier_one(evaluate: Evaluate):
    assert evaluate({"p.csv": PREDICTIONS}, "p.csv", "--task", "exact").code == 0
    before = sorted((path.name, path.read_bytes()) for path in Path("out").iterdir())
    assert evaluate({"q.csv": "a,b\n1,2\n"}, "q.csv", "--task", "exact").code == 2
    assert sorted((path.name, path.read_bytes()) for path in Path("out").iterdir()) == before
    assert evaluate({}, "out/rows.csv", "--task", "exact").code == 2  # it would replace what it reads


def test_the_libraries_are_asked_for_before_a_file_is_read(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jiwer" else find(name))
    done = evaluate({"p.csv": "\0"}, "p.csv", "--task", "asr")
    assert done.code == 2
    assert done.err == (
        "error: scores of asr need the evaluate extra (jiwer is not installed): "
        "pip install 'mdl-toolkit[evaluate]'\n"
    )


def test_the_same_seed_gives_the_same_file(evaluate: Evaluate):
    words = ("p.csv", "--task", "exact", "--resamples", "200")
    table = "reference,prediction\n" + "x,x\nx,y\n" * 40
    first = evaluate({"p.csv": table}, *words).scores
    assert evaluate({}, *words).scores == first
    assert evaluate({}, *words, "--seed", "1").scores["scores"] != first["scores"]
    without = evaluate({}, "p.csv", "--task", "exact", "--resamples", "0")
    assert without.scores["scores"]["accuracy"] == {"value": 0.5, "low": None, "high": None}
    assert "interval" not in without.out and json.dumps(without.scores)
