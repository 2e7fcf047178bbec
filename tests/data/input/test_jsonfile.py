"""JSON rows whose meaning isn't sure: keys that are there twice, numbers that JSON doesn't have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.input.records import BadRow, Row, read_records
from mdl_toolkit.errors import DataError
from support.data.clips import convert_settings, small_task

GOOD = '{"audio": "a.wav", "prediction": "one"}'


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ('{"audio": "a.wav", "prediction": "one", "prediction": "two"}', "prediction"),
        ('{"audio": "a.wav", "prediction": "one", "audio": "a.wav"}', "audio"),
        ('{"audio": "a.wav", "meta": {"speaker": 1, "speaker": 2}}', "speaker"),
        ('{"audio": "a.wav", "messages": [{"role": "user"}, {"role": "user", "role": "x"}]}', "role"),
        ('{"audio": "a.wav", "\\u0061udio": "b.wav"}', "audio"),
    ],
)
@pytest.mark.parametrize("kind", ["lines", "array"])
def test_a_key_that_is_there_twice_makes_a_bad_row(tmp_path: Path, row: str, key: str, kind: str):
    rows = [GOOD, row, GOOD]
    (tmp_path / "t.json").write_text("\n".join(rows) if kind == "lines" else f"[{', '.join(rows)}]")
    first, bad, last = read_records(tmp_path / "t.json")
    assert isinstance(first, Row) and isinstance(last, Row)
    assert isinstance(bad, BadRow) and bad.number == 2
    assert bad.problem == f"the key {key!r} is there twice; keep one"


def test_it_is_told_at_conversion_with_the_row(tmp_path: Path):
    small_task(tmp_path)
    row = {"audio": str(tmp_path / "clips/0.wav"), "prediction": "one"}
    twice = json.dumps(row)[:-1] + ', "prediction": "two"}'
    (tmp_path / "t.jsonl").write_text(f"{json.dumps(row)}\n{twice}\n")
    with pytest.raises(DataError, match=r"line 2: the key 'prediction' is there twice; keep one"):
        convert_dataset(convert_settings(tmp_path / "t.jsonl", tmp_path / "out"))


def test_where_every_row_has_one_the_first_is_told(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text('{"audio": "a.wav", "audio": "b.wav"}\n' * 3)
    with pytest.raises(DataError, match=r"t\.jsonl line 1: the key 'audio' is there twice"):
        list(read_records(tmp_path / "t.jsonl"))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_does_not_have_is_no_text(tmp_path: Path, number: str):
    (tmp_path / "t.jsonl").write_text(f'{GOOD}\n{{"audio": "a.wav", "prediction": {number}}}\n')
    _, bad = read_records(tmp_path / "t.jsonl")
    assert isinstance(bad, BadRow) and bad.problem.startswith("prediction is ")
    assert "no text; null says that there is none" in bad.problem


def test_what_follows_an_object_on_its_line_is_no_json(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text(f"{GOOD}\n{GOOD} x\n\t {GOOD} \r\n")
    first, bad, last = read_records(tmp_path / "t.jsonl")
    assert isinstance(first, Row) and isinstance(last, Row)
    assert isinstance(bad, BadRow) and bad.problem.startswith("not JSON: ")


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array(["a.wav"])
    pq.write_table(pa.Table.from_arrays([texts] * 3, ["audio", "note", "note"]), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"column 'note' is there twice"):
        list(read_records(tmp_path / "t.parquet"))
