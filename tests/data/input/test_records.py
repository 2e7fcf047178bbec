"""Rows of CSV, JSONL and Parquet: what is read, and that each fault is one clear error with its place."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdl_toolkit.data.input.records import BadRow, Row, check_table, read_header, read_records
from mdl_toolkit.errors import DataError


def _csv(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _error(path: Path, encoding: str = "utf-8") -> str:
    """What is wrong with the first bad row, or with the file as a whole."""
    try:
        bad = next(record for record in read_records(path, encoding) if isinstance(record, BadRow))
    except DataError as error:
        message = str(error)
        assert str(path) in message or "--encoding" in message
    else:
        message = f"line {bad.number}: {bad.problem}"
    assert "\n" not in message
    return message


def _rows(path: Path, encoding: str = "utf-8") -> list[Row]:
    """All rows of a file without bad ones."""
    rows = []
    for record in read_records(path, encoding):
        assert isinstance(record, Row), record
        rows.append(record)
    return rows


def test_a_plain_csv(tmp_path: Path):
    path = _csv(
        tmp_path, "audio,prediction,speaker,system_prompt\na.wav,zero,george,\nb.wav,one,lucas,Listen\n"
    )
    first, second = _rows(path)
    assert first == Row(
        2, "a.wav", "zero", extra={"speaker": "george"}, cells=("a.wav", "zero", "george", "")
    )
    assert (second.number, second.system_prompt, second.user_prompt) == (3, "Listen", None)


@pytest.mark.parametrize("cell", ["", "null", " ", " null "])
def test_null_is_null(tmp_path: Path, cell: str):
    path = _csv(tmp_path, f"audio,prediction,user_prompt\na.wav,{cell},{cell}\n")
    (row,) = _rows(path)
    assert row.prediction is None and row.user_prompt is None
    assert row.cells == ("a.wav", cell, cell)


def test_a_spreadsheet_round_trip(tmp_path: Path):
    """Byte-order mark, CRLF, quotes within quotes, line breaks within cells, other alphabets."""
    text = '\ufeffaudio,prediction,note\r\n"a, b.wav","says ""hi""\r\nand more","ä"\r\n\r\nc.wav,数字,x\r\n'
    first, second = _rows(_csv(tmp_path, text))
    assert (first.number, first.audio, first.prediction) == (2, "a, b.wav", 'says "hi"\r\nand more')
    assert first.extra == {"note": "ä"}
    assert (second.number, second.prediction) == (5, "数字")  # lines 2 and 3 are one row, line 4 is empty


def test_other_encodings_by_option(tmp_path: Path):
    path = _csv(tmp_path, "audio,prediction\na.wav,你好\n".encode("gbk"))
    assert _rows(path, "gbk")[0].prediction == "你好"
    path = _csv(tmp_path, "audio,prediction\na.wav,你好\n".encode("utf-16"))
    assert _rows(path, "utf-16")[0].prediction == "你好"


def test_segments_are_seconds(tmp_path: Path):
    path = _csv(tmp_path, "audio,start,end\na.wav,1.5,2\na.wav,,3\na.wav,4,null\n")
    assert [(row.start, row.end) for row in _rows(path)] == [(1.5, 2.0), (None, 3.0), (4.0, None)]


@pytest.mark.parametrize(
    ("start", "end", "problem"),
    [
        ("a", "2", "start 'a' is not a number"),
        ("nan", "2", "start 'nan' is not a time"),
        ("-1", "2", "not a time"),
        ("1", "inf", "end 'inf' is not a time"),
        ("2", "2", "ends at 2 s, not after its start at 2 s"),
        ("0", "0", "ends at 0 s"),
    ],
)
def test_segments_that_are_none(tmp_path: Path, start: str, end: str, problem: str):
    message = _error(_csv(tmp_path, f"audio,start,end\na.wav,{start},{end}\n"))
    assert "line 2" in message and problem in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["line 1", "no header"]),
        ("\n\n", ["line 1", "no header"]),
        ("audio,prediction\n", ["no rows"]),
        ("file,prediction\na,b\n", ["line 1", "no column 'audio'", "'file', 'prediction'"]),
        ("Audio,prediction\na,b\n", ["no column 'audio'", "rename 'Audio' to audio"]),
        ("audio_path,text\na,b\n", ["rename 'audio_path' to audio and 'text' to prediction"]),
        ("AUDIO ;label\na;b\n", ["rename 'AUDIO' to audio and 'label' to prediction"]),
        ("wav;Prediction\na;b\n", ["'wav' to audio and 'Prediction' to prediction"]),
        ("wave_file,x\na,b\n", ["no column 'audio'", "'wave_file', 'x'"]),
        ("clips/a.wav,zero\nclips/b.wav,one\n", ["no header", "'clips/a.wav'", "audio,prediction"]),
        ("zero;https://x.org/a\n", ["no header", "'https://x.org/a'", "audio;prediction"]),
        ("conversation,path,text\n1,a,b\n", ["rename 'path' to audio and 'text' to prediction"]),
        ("id,messages\n1,[]\n", ["chat turns ('messages')", "audio and prediction"]),
        ("audio,x,x,y,y\na,1,2,3,4\n", ["line 1", "'x', 'y'", "twice"]),
        ("audio,prediction\na.wav,1\nb.wav\n", ["line 3", "1 cells", "header has 2"]),
        ("audio,prediction\na.wav,1,2\n", ["line 2", "3 cells", "quotes"]),
        ("audio,prediction\n,1\n", ["line 2", "no audio"]),
        ("audio,prediction\nnull,1\n", ["line 2", "no audio: the cell is empty, or null without quotes"]),
        ('audio,prediction\na.wav,1\nb.wav,"open\nc.wav,2\n', ["line 3", "quote"]),
        ('audio,prediction\na.wav,"x"y\n', ["line 2", "quote"]),
        ("audio,prediction\na.wav,1\nb\0.wav,2\n", ["line 3", "NUL"]),
        (b"audio,prediction\na.wav,1\nb.wav,\xff\xfe\n", ["line 3", "not utf-8", "--encoding gbk"]),
        ("audio,prediction\na,b\n".encode("utf-16"), ["UTF-16", "--encoding utf-16"]),
    ],
)
def test_each_fault_is_one_line_with_its_place_and_remedy(
    tmp_path: Path, content: str | bytes, parts: list[str]
):
    message = _error(_csv(tmp_path, content))
    for part in parts:
        assert part in message


def test_answers_of_chat_tools_are_told_of(tmp_path: Path):
    path = _csv(tmp_path, "audio,messages\na.wav,b\n")
    with pytest.raises(DataError, match="rows of chat turns"):
        check_table(path, "utf-8")


def test_utf_16_cut_within_a_letter(tmp_path: Path):
    message = _error(_csv(tmp_path, "audio,prediction\na,b\n".encode("utf-16")[:-1]), "utf-16")
    assert "not utf-16 text" in message


def test_a_wrong_byte_far_into_the_file_is_found_by_its_line(tmp_path: Path):
    lines = [b"audio,prediction", *[b"a.wav,zero"] * 5000, b"a.wav,\xe4", *[b"a.wav,zero"] * 5000]
    assert "line 5002" in _error(_csv(tmp_path, b"\n".join(lines)))


def test_a_quote_never_closed_ends_at_a_bound(tmp_path: Path):
    content = 'audio,prediction\na.wav,"open' + "x,y\n" * 400_000
    assert "line 2" in _error(_csv(tmp_path, content))


def test_files_and_encodings_that_are_not_there(tmp_path: Path):
    assert "No such file" in _error(tmp_path / "missing.csv")
    assert "no such text encoding" in _error(_csv(tmp_path, "audio\na\n"), "klingon")
    assert "no such text encoding" in _error(tmp_path / "rows.csv", "klingon")


def test_cells_that_a_spreadsheet_leaves_behind_say_nothing(tmp_path: Path):
    """Rows and columns that were once used come as separators; a row in quotes was written by someone."""
    path = _csv(tmp_path, 'audio,prediction,,\na.wav,x,,\nb.wav,y,,, , \n,,,\n , ,,\n"",,,\n\n,\n')
    good, other, bad = read_records(path)
    assert (
        isinstance(good, Row) and isinstance(other, Row) and (good.audio, other.audio) == ("a.wav", "b.wav")
    )
    assert other.cells == ("b.wav", "y", "", "")
    assert isinstance(bad, BadRow) and bad.number == 6
    assert "no rows" in _error(_csv(tmp_path, "audio,prediction\n,\n,\n"))


def test_a_mark_of_utf_8_is_believed(tmp_path: Path):
    path = _csv(tmp_path, "\ufeffaudio,prediction\na.wav,你好\n")
    assert _rows(path, "utf-8-sig")[0].prediction == "你好"
    assert "leave out --encoding gbk" in _error(path, "gbk")


def test_bad_rows_stand_in_their_place_among_the_good(tmp_path: Path):
    path = _csv(tmp_path, "audio,prediction\na.wav,1\nb.wav\nc.wav,3\n,4\n")
    records = list(read_records(path))
    assert [type(record) for record in records] == [Row, BadRow, Row, BadRow]
    assert [record.number for record in records] == [2, 3, 4, 5]
    assert records[1].cells == ("b.wav",)


def test_jsonl(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"audio": "a.wav", "prediction": "zero", "speaker": {"age": 3}},
        {"prediction": 7, "audio": "b.wav", "user_prompt": None, "start": 0.5, "end": 1},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    first, second = _rows(path)
    assert (first.number, first.prediction, first.extra) == (1, "zero", {"speaker": '{"age": 3}'})
    assert (second.number, second.prediction, second.start, second.end) == (3, "7", 0.5, 1.0)
    assert read_header(path) == ["audio", "prediction", "speaker", "user_prompt", "start", "end"]
    assert second.cells == ("b.wav", "7", "", "", "0.5", "1")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"audio": ["a.wav"]}', "audio is list"),
        ('{"audio": "a.wav", "prediction": true}', "prediction is bool"),
        ('{"audio": "a.wav", "prediction": "\\ud800"}', "not valid Unicode"),
        ('{"audio": null}', "no audio"),
        ('{"audio": "a.wav", "start": "soon"}', "start 'soon'"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_faults_of_jsonl(tmp_path: Path, line: str, problem: str):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"audio": "a.wav", "prediction": "x"}\n' + line + "\n")
    message = _error(path)
    assert "line 2" in message and problem in message


def test_parquet(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "audio": ["a.wav", None, "c.wav"],
            "prediction": ["zero", "one", None],
            "start": pa.array([0.5, None, None]),
            "score": [1, 2, 3],
        }
    )
    pq.write_table(table, path)
    first, bad, third = read_records(path)
    assert (first.number, first.audio, first.start, first.extra) == (1, "a.wav", 0.5, {"score": "1"})
    assert isinstance(bad, BadRow) and bad.number == 2 and "no audio" in bad.problem
    assert third.prediction is None
    pq.write_table(table.rename_columns(["x", "prediction", "start", "score"]), path)
    assert "no column 'audio'" in _error(path)
    path.write_bytes(b"audio,prediction\n")
    assert "not a readable Parquet file" in _error(path)
    pq.write_table(table.slice(0, 0), path)
    assert "no rows" in _error(path)


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    def peak(rows: int) -> int:
        row = "clips/some-recording.wav,an answer of some words\n"
        path = _csv(tmp_path, "audio,prediction\n" + row * rows)
        tracemalloc.start()
        assert sum(1 for _ in read_records(path)) == rows
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(100)
    small, large = peak(1000), peak(20_000)
    assert large < 2 * small + 100_000
