"""What other parts of the package call: scores of texts, and the folder of an evaluation."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from mdl_toolkit.errors import StorageError, UserError
from mdl_toolkit.scoring.api import score, write_evaluation


def test_the_scores_of_texts():
    scored = score("exact", ["a b", "c", ["d", "e"], "f"], [" a  b ", "C", "e", None])
    assert scored.values == {"accuracy": 0.5}
    assert [row["correct"] for row in scored.rows] == [True, False, True, False]
    assert scored.rows[1] == {"row": 2, "score": 0.0, "correct": False}


def test_what_can_not_be_scored():
    with pytest.raises(UserError, match="no rows"):
        score("exact", [], [])
    with pytest.raises(UserError, match="2 references and 1 predictions"):
        score("exact", ["a", "b"], ["a"])
    with pytest.raises(UserError, match="no task 'exakt'; there are asr"):
        score("exakt", ["a"], ["a"])


def test_an_evaluation_is_two_files(tmp_path: Path):
    columns = {
        "audio": ["1.wav", "2.wav", "3.wav"],
        "score": ["x", "y", 'say "z", or not'],
        "speaker": ["anna", "anna", "ben"],
        "reference": ["a", "b", "c"],
        "prediction": ["a", "c", ""],
    }
    scored = score("exact", columns["reference"], ["a", "c", None])
    said = write_evaluation(tmp_path / "run" / "dev", scored, columns, source="p.csv", slice_by=["speaker"])
    stored = json.loads((tmp_path / "run/dev/scores.json").read_text())
    assert stored == said
    assert stored["task"] == "exact" and stored["rows"] == 3 and stored["source"] == "p.csv"
    accuracy = stored["scores"]["accuracy"]
    assert math.isclose(accuracy["value"], 1 / 3) and 0 <= accuracy["low"] < accuracy["high"] <= 1
    assert stored["slices"]["speaker"]["anna"]["rows"] == 2 and stored["slices"]["speaker"]["ben"]["small"]
    with open(tmp_path / "run/dev/rows.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [*rows[0]] == [
        "audio", "score_1", "speaker", "reference", "prediction", "row", "score", "correct",
    ]  # fmt: skip
    assert rows[2] == {
        "audio": "3.wav", "score_1": 'say "z", or not', "speaker": "ben", "reference": "c", "prediction": "",
        "row": "3", "score": "0", "correct": "false",
    }  # fmt: skip


def test_a_folder_that_can_not_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    scored = score("exact", ["a"], ["a"])
    with pytest.raises(StorageError, match="file: can't be written"):
        write_evaluation(tmp_path / "file", scored, {"reference": ["a"]}, source="p.csv")
