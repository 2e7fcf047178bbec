"""Rows that can't be used: named, listed, mended, and the others converted if that is asked."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from mdl_toolkit.data.conversion.command import convert_dataset
from support.data.clips import (
    convert_settings,
    small_task,
    tone,
    wav_bytes,
    write_csv,
    write_wav,
)
from support.data.problems import conversion_problem


def _with_bad_rows(folder: Path) -> Path:
    small_task(folder, rows=3)
    (folder / "text.wav").write_text("this is a text, renamed")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "cut.wav").write_bytes(wav_bytes(tone(1.0))[:9000])
    nan = tone(0.3)
    nan[7] = np.nan
    write_wav(folder / "nan.wav", nan, subtype="FLOAT")
    write_wav(folder / "long.wav", tone(3.0))
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as stream:
        stream.write(
            "audio,prediction,note\n"
            "clips/0.wav,zero,a\n"
            "missing.wav,one,b\n"
            "text.wav,two,c\n"
            "clips/1.wav,,d\n"
            "empty.wav,four,e\n"
            'cut.wav,five,"f\ng"\n'
            "nan.wav,six,h\n"
            "long.wav,seven,i\n"
            "clips/1.wav,eight\n"
            ",nine,k\n"
            "clips/2.wav,has <|im_end|> in it,l\n"
            "clips/2.wav,eleven,m\n"
        )
    return folder / "rows.csv"


BAD_LINES = {
    3: "no such file", 4: "not readable as audio", 5: "no prediction", 6: "empty file", 7: "cut short",
    9: "not a finite number", 10: "3.0 s long", 11: "2 cells", 12: "no audio", 13: "<|im_end|>",
}  # fmt: skip


def test_all_bad_rows_are_listed_and_nothing_is_made(tmp_path: Path):
    source = _with_bad_rows(tmp_path / "task")
    message = conversion_problem(
        convert_settings(source, tmp_path / "out", max_audio_seconds=2, tokenizing_batch_size=2)
    )
    assert "10 of 12 rows of rows.csv can't be used" in message and "--on-error skip" in message
    for line, problem in BAD_LINES.items():
        assert any(text.startswith(f"  line {line}: ") and problem in text for text in message.splitlines())
    assert sorted(os.listdir(tmp_path)) == ["out.errors.csv", "task"]
    with open(tmp_path / "out.errors.csv", newline="", encoding="utf-8") as stream:
        assert [int(row["line"]) for row in csv.DictReader(stream)] == list(BAD_LINES)


def test_skipped_rows_go_to_quarantine_with_line_and_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    source = _with_bad_rows(tmp_path / "task")
    settings = convert_settings(source, tmp_path / "out", max_audio_seconds=2, on_error="skip")
    dataset = convert_dataset(settings)
    assert [dataset.row_name(i) for i in range(2)] == [
        "rows.csv row 2 (clips/0.wav)",
        "rows.csv row 14 (clips/2.wav)",
    ]
    assert dataset.manifest.skipped == 10
    with open(tmp_path / "out.quarantine.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["line"]) for row in rows] == list(BAD_LINES)
    assert all(problem in row["error"] for row, problem in zip(rows, BAD_LINES.values(), strict=True))
    assert rows[4]["note"] == "f\ng" and rows[0]["prediction"] == "one"
    assert "10 of 12 rows" in capfd.readouterr().err


def test_a_quarantine_can_be_mended_and_converted_itself(tmp_path: Path):
    source = _with_bad_rows(tmp_path / "task")
    convert_dataset(convert_settings(source, tmp_path / "out", max_audio_seconds=2, on_error="skip"))
    again = tmp_path / "task" / "again.csv"
    (tmp_path / "out.quarantine.csv").rename(again)
    settings = convert_settings(again, tmp_path / "two", max_audio_seconds=5, on_error="skip")
    dataset = convert_dataset(settings)
    assert "long.wav" in dataset.row_name(0)
    with open(tmp_path / "two.quarantine.csv", newline="", encoding="utf-8") as stream:
        header = next(csv.reader(stream))
    assert header == ["audio", "prediction", "note", "line", "error"]


def test_a_clean_run_removes_the_list_of_an_earlier_one(tmp_path: Path):
    source = _with_bad_rows(tmp_path / "task")
    conversion_problem(convert_settings(source, tmp_path / "out"))
    small_task(tmp_path / "task", rows=3)
    convert_dataset(convert_settings(source, tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["out", "task"]


def test_no_good_row_is_an_error_even_when_skipping(tmp_path: Path):
    source = write_csv(tmp_path / "rows.csv", ["audio", "prediction"], [("a.wav", "x"), ("b.wav", "y")])
    message = conversion_problem(convert_settings(source, tmp_path / "out", on_error="skip"))
    assert "2 of 2 rows" in message and "nothing is left" in message
    assert not (tmp_path / "out").exists() and (tmp_path / "out.quarantine.csv").exists()


def test_twenty_bad_rows_are_shown_and_all_are_kept(tmp_path: Path):
    rows = [(f"missing-{i}.wav", "x") for i in range(50)]
    source = write_csv(tmp_path / "rows.csv", ["audio", "prediction"], rows)
    message = conversion_problem(convert_settings(source, tmp_path / "out"))
    assert message.count("missing-") == 20 and "and 30 more" in message
    assert len((tmp_path / "out.errors.csv").read_text().splitlines()) == 51
