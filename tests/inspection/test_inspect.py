"""``inspect`` as a user runs it: what it finds in a table, in a dataset's folder, and between two sets."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mdl_toolkit import cli
from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.demo import task
from mdl_toolkit.errors import DataError
from support.data.clips import convert_settings, small_task, tone, write_csv, write_wav
from support.data.legacy import legacy_row, write_legacy

RATE = 16_000


def _inspect(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    """The JSON that the command prints."""
    capsys.readouterr()
    assert cli.run(["inspect", *map(str, words), "--json", "--num-workers", "1"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _topics(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["topic"]: finding for finding in found["findings"]}


def _sounds(folder: Path, count: int) -> list[str]:
    """Clips of the demonstration, each another one; their names."""
    names = []
    for number in range(count):
        name = f"{number}.wav"
        write_wav(folder / name, task.clip(9, "train", number)[1], RATE)
        names.append(name)
    return names


@pytest.fixture
def mess(tmp_path: Path) -> Path:
    """A table with one of everything that can be wrong. Lines are the numbers below plus 2."""
    a, b, c, d = _sounds(tmp_path, 4)
    read = {name: soundfile.read(tmp_path / name, dtype="float32")[0] for name in (a, b, c, d)}
    soundfile.write(tmp_path / "b.mp3", read[b] / 2, RATE, format="MP3")
    write_wav(tmp_path / "flat.wav", np.clip(12 * tone(0.6, hertz=300), -1, 1))
    write_wav(tmp_path / "shifted.wav", tone(0.7, hertz=333) + 0.3)
    write_wav(tmp_path / "still.wav", np.zeros(8000, np.float32))
    write_wav(tmp_path / "hush.wav", tone(0.5, hertz=355, level=0.001))
    (tmp_path / "page.wav").write_text("<html>not found</html>")
    rows = [
        (a, "bell"),
        (a, "bell"),
        (a, "drum"),
        (b, "horn"),
        ("b.mp3", "Horn"),
        ("flat.wav", "hum"),
        ("shifted.wav", "hum"),
        ("still.wav", "hum"),
        ("hush.wav", "hum "),
        ("page.wav", "hum"),
        ("gone.wav", "hum"),
        (c, ""),
        (c, "<|im_end|>"),
        (d, "cafe\u0301"),
        (d, "caf\u00e9\u200b"),
    ]
    return write_csv(tmp_path / "mess.csv", ["audio", "prediction"], rows)


def test_everything_that_is_wrong_is_named_by_its_line(mess: Path, capsys: pytest.CaptureFixture[str]):
    found = _inspect(capsys, mess, "--base-dir", mess.parent, "--model-name", "tiny")
    topics = _topics(found)
    lines = {topic: finding["lines"] for topic, finding in topics.items()}
    assert lines["refused"] == [11, 12, 13, 14] and topics["refused"]["level"] == "problem"
    assert lines["contradiction"] == [2, 3, 4] and topics["contradiction"]["level"] == "problem"
    assert lines["near-duplicate"] == [5, 6]
    assert lines["clipped"] == [7] and lines["shifted"] == [8]
    assert lines["silent"] == [9] and lines["nearly silent"] == [10]
    assert lines["unicode"] == [15] and lines["control characters"] == [16]
    assert {6, 10, 16} >= set(lines["spellings"]) >= {6}
    assert found["ok"] is False and found["problems"] == 2
    assert [finding["level"] for finding in found["findings"]] == sorted(
        (finding["level"] for finding in found["findings"]), key=["problem", "warning", "note"].index
    )
    assert found["sets"][0]["rows"] == 15 and found["sets"][0]["usable"] == 11
    (pair,) = [group for group in found["copies"] if group["kind"] == "copy"]
    assert pair["lines"] == [5, 6] and 0.9 < pair["likeness"] <= 1


def test_rows_are_refused_for_the_reasons_of_a_conversion(mess: Path, capsys: pytest.CaptureFixture[str]):
    found = _inspect(capsys, mess, "--base-dir", mess.parent, "--model-name", "tiny")
    with pytest.raises(DataError):
        convert_dataset(convert_settings(mess, mess.parent / "out"))
    with open(mess.parent / "out.errors.csv", newline="", encoding="utf-8") as stream:
        wanted = [(int(row["line"]), row["error"]) for row in csv.DictReader(stream)]
    assert [(row["line"], row["reason"]) for row in found["refused"]] == wanted and len(wanted) == 4


def test_the_text_says_the_worst_first_and_the_page_has_no_script(
    mess: Path, capsys: pytest.CaptureFixture[str]
):
    page = mess.parent / "report.html"
    words = [
        "inspect",
        str(mess),
        "--base-dir",
        str(mess.parent),
        "--model-name",
        "tiny",
        "--output",
        str(page),
    ]
    assert cli.run(words) == 0
    told = capsys.readouterr()
    text = told.out
    assert text.startswith("mess.csv: 15 rows, of which 4 can't be used, ")
    assert text.index("\nproblem") < text.index("\nwarning") < text.index("clips    ")
    assert "mess.csv line 12 (gone.wav): gone.wav: no such file" in text
    assert (
        "mess.csv line 2 (0.wav) “bell” = mess.csv line 3 (0.wav) “bell” = mess.csv line 4 (0.wav) “drum”"
        in text
    )
    assert f"report: {page}" in told.err
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and "<script" not in html and "http" not in html
    assert "&lt;|im_end|&gt;" in html and "<|im_end|>" not in html
    assert "contradiction" in html and "line 12 (gone.wav)" in html


def test_strict_is_exit_code_1_where_there_is_a_problem(
    mess: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _inspect(capsys, mess, "--base-dir", mess.parent, "--strict", code=1)
    fine = small_task(tmp_path / "fine")
    found = _inspect(capsys, fine, "--base-dir", fine.parent, "--model-name", "tiny", "--strict")
    assert found["ok"] is True and found["problems"] == 0


def test_questions_about_one_recording_are_no_contradiction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (name,) = _sounds(tmp_path, 1)
    rows = [(name, "a bell", "What is it?"), (name, "two", "How often?"), (name, "two", "How often?")]
    table = write_csv(tmp_path / "t.csv", ["audio", "prediction", "user_prompt"], rows)
    topics = _topics(_inspect(capsys, table, "--base-dir", tmp_path))
    assert "contradiction" not in topics and topics["identical"]["lines"] == [3, 4]
    assert topics["prompts"]["level"] == "note"


def test_the_same_samples_are_told_apart_from_other_copies_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One group has them all: the same file twice, a part of it and a copy of another rate."""
    (name,) = _sounds(tmp_path, 1)
    wave = soundfile.read(tmp_path / name, dtype="float32")[0]
    write_wav(tmp_path / "part.wav", wave[len(wave) // 2 - 2000 :])
    rows = [(name, "a"), (name, "b"), ("part.wav", "a")]
    table = write_csv(tmp_path / "t.csv", ["audio", "prediction"], rows)
    other = write_csv(tmp_path / "o.csv", ["audio", "prediction"], [(name, "a")])
    topics = _topics(_inspect(capsys, table, "--against", other, "--base-dir", tmp_path))
    assert topics["contradiction"]["lines"] == [2, 3]
    assert topics["overlapping"]["lines"] == [2, 4]
    assert topics["leakage"]["lines"] == [2, 3] and topics["partial leakage"]["lines"] == [4]


def test_a_test_set_that_was_trained_on_is_found_re_encoded_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Real files: the test set's clips went through codecs, other rates, levels and cuts."""
    names = _sounds(tmp_path, 12)
    train = write_csv(tmp_path / "train.csv", ["audio", "prediction"], [(name, "x") for name in names])
    waves = [soundfile.read(tmp_path / name, dtype="float32")[0] for name in names]
    soundfile.write(tmp_path / "same.flac", waves[0], RATE)
    soundfile.write(tmp_path / "coded.mp3", waves[1], RATE, format="MP3")
    soundfile.write(tmp_path / "stereo.ogg", np.stack([waves[2], waves[2]], axis=1) / 3, RATE, format="OGG")
    soundfile.write(tmp_path / "cut.wav", waves[4][1700:], RATE)
    for number in range(3):
        write_wav(tmp_path / f"new{number}.wav", task.clip(9, "test", number)[1], RATE)
    heard = ["new0.wav", "same.flac", "coded.mp3", "new1.wav", "stereo.ogg", "cut.wav", "new2.wav"]
    rows = [(name, "x", "Which?") for name in heard]
    test = write_csv(tmp_path / "test.csv", ["audio", "prediction", "user_prompt"], rows)
    found = _inspect(capsys, train, "--against", test, "--base-dir", tmp_path)
    topics = _topics(found)
    assert topics["leakage"]["lines"] == [2] and topics["re-encoded leakage"]["lines"] == [3, 4, 6]
    pairs = {tuple(group["lines"] + group["other_lines"]) for group in found["copies"]}
    assert pairs == {(2, 3), (3, 4), (4, 6), (6, 7)}
    assert "Which?" in topics["prompts differ"]["text"]
    back = _inspect(capsys, test, "--against", train, "--base-dir", tmp_path)
    assert {tuple(group["other_lines"] + group["lines"]) for group in back["copies"]} == pairs


def test_a_set_without_a_usable_row_has_no_prompts_to_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_wav(tmp_path / "0.wav", np.sin(np.arange(RATE) / 9) / 3, RATE)
    train = write_csv(tmp_path / "train.csv", ["audio", "prediction"], [("gone.wav", "x")])
    test = write_csv(tmp_path / "test.csv", ["audio", "prediction"], [("0.wav", "x")])
    topics = _topics(_inspect(capsys, train, "--against", test, "--base-dir", tmp_path))
    assert "refused" in topics and "prompts differ" not in topics


@pytest.mark.parametrize("storage", ["pcm16", "flac", "reference"])
def test_a_converted_dataset_is_inspected_as_its_table(
    storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = _sounds(tmp_path, 5)
    rows = [*((name, f"thing {i}", "What?") for i, name in enumerate(names)), (names[2], "other", "What?")]
    table = write_csv(tmp_path / "t.csv", ["audio", "prediction", "user_prompt"], rows)
    convert_dataset(
        convert_settings(table, tmp_path / "data", audio_storage=storage, system_prompt="Be short.")
    )
    found = _inspect(capsys, tmp_path / "data")
    of_table = _inspect(
        capsys, table, "--base-dir", tmp_path, "--model-name", "tiny", "--system-prompt", "Be short."
    )
    assert _topics(found)["contradiction"]["lines"] == [4, 7]
    ours, theirs = found["sets"][0], of_table["sets"][0]
    for same in ("rows", "usable", "seconds", "clips", "answers", "prompts", "order"):
        assert ours[same] == theirs[same], same
    assert ours["prompts"] == [{"system_prompt": "Be short.", "user_prompt": "What?", "rows": 6}]
    assert found["copies"] == of_table["copies"]
    leaks = _inspect(capsys, tmp_path / "data", "--against", table, "--base-dir", tmp_path)
    assert len(_topics(leaks)["leakage"]["lines"]) == 6


def test_a_dataset_whose_model_has_gone_is_inspected_without_its_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    convert_dataset(convert_settings(small_task(tmp_path / "task"), tmp_path / "data"))
    manifest = tmp_path / "data" / "mdl_dataset.json"
    value = json.loads(manifest.read_text(encoding="utf-8"))
    value["model"]["name"] = str(tmp_path / "gone")
    manifest.write_text(json.dumps(value), encoding="utf-8")
    found = _inspect(capsys, tmp_path / "data")
    assert "texts can't be read" in _topics(found)["model"]["text"]
    answers = found["sets"][0]["answers"]
    assert answers["unit"] == "tokens" and answers["distinct"] == 6 and not answers["most_frequent"]


def test_a_folder_of_0_1_0_is_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_legacy(
        tmp_path / "old", [legacy_row(0.5, "dog"), legacy_row(0.7, "cat"), legacy_row(0.9, "dog")]
    )
    found = _inspect(capsys, folder, "--model-name", "tiny")
    answers = found["sets"][0]["answers"]
    assert found["sets"][0]["rows"] == 3 and answers["distinct"] == 2
    assert answers["most_frequent"][0] == {"answer": "dog", "rows": 2}


def test_without_a_model_words_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = small_task(tmp_path / "task")
    found = _inspect(capsys, table, "--base-dir", table.parent)
    assert found["sets"][0]["model"] is None and found["sets"][0]["answers"]["unit"] == "words"
    assert "--model-name" in _topics(found)["model"]["text"]


def test_a_table_without_answers_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = write_csv(tmp_path / "t.csv", ["audio"], [(name,) for name in _sounds(tmp_path, 2)])
    found = _inspect(capsys, table, "--base-dir", tmp_path, "--model-name", "tiny")
    assert set(_topics(found)) >= {"no answers"} and found["sets"][0]["usable"] == 2


def test_rows_of_json_are_named_by_line_or_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (name,) = _sounds(tmp_path, 1)
    rows = [{"audio": name, "prediction": text} for text in ("a", "b")]
    lines, array = tmp_path / "t.jsonl", tmp_path / "t.json"
    lines.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    array.write_text(json.dumps(rows), encoding="utf-8")
    for table, word in ((lines, "line"), (array, "row")):
        found = _inspect(capsys, table, "--base-dir", tmp_path)
        assert f"{table.name} {word} 2 (0.wav)" in _topics(found)["contradiction"]["examples"][0]


def test_labels_and_prompts_of_two_sets_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = _sounds(tmp_path, 8)
    train = [(name, "cat" if i % 2 else "dog") for i, name in enumerate(names[:6])] * 2
    table = write_csv(tmp_path / "train.csv", ["audio", "prediction"], train)
    test = [(name, label) for name in names[6:] for label in ("cat", "cow")] * 2
    other = write_csv(tmp_path / "test.csv", ["audio", "prediction"], test)
    found = _inspect(capsys, table, "--against", other, "--base-dir", tmp_path)
    texts = [finding["text"] for finding in found["findings"] if finding["topic"] == "labels"]
    assert texts == [
        "1 label of test.csv is not in train.csv: “cow” (4)",
        "1 label of train.csv is not in test.csv: “dog” (6)",
    ]
    assert found["sets"][0]["answers"]["labels"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.csv"], "no file or folder gone.csv"),
        (["t.csv", "--against", "t.csv"], "names INPUT itself"),
        (["t.csv", "--output", "t.csv"], "its name ends in .html"),
        (["empty.csv"], "no rows in it"),
        (["other.csv"], "no column 'audio'"),
        (["t.csv", "--model-name", "nowhere/gone/model"], "no model folder"),
        (["task"], "not a converted dataset"),
    ],
)
def test_what_cannot_be_inspected_is_one_line_and_exit_code_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    small_task(tmp_path / "task", rows=1).rename(tmp_path / "t.csv")
    (tmp_path / "empty.csv").write_text("audio,prediction\n")
    (tmp_path / "other.csv").write_text("sound,text\na.wav,b\n")
    assert cli.run(["inspect", *words]) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.startswith("error: ") and not told.out


def test_options_of_a_conversion_are_refused_for_what_is_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    convert_dataset(convert_settings(small_task(tmp_path / "task"), tmp_path / "data"))
    assert cli.run(["inspect", str(tmp_path / "data"), "--system-prompt", "S"]) == 2
    assert "--system-prompt has no effect" in capsys.readouterr().err
