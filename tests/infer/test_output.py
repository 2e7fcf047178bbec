"""What an output holds: columns, formats, marks, exit codes; nothing of the input is lost."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdl_toolkit.cli import run as command
from mdl_toolkit.data.input.csvfile import cell_text
from mdl_toolkit.data.input.records import Row, read_records
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.errors import MdlError, UserError
from mdl_toolkit.infer.columns import output_columns
from mdl_toolkit.infer.journal.journal import Journal
from mdl_toolkit.infer.run import inference
from mdl_toolkit.settings import InferenceSettings
from mdl_toolkit.settings.checks import output_kind
from support.data.clips import tone, write_csv, write_wav


@pytest.fixture
def folder(folder: Path) -> Path:
    for clip in range(3):
        write_wav(folder / f"{clip}.wav", tone(0.3 + 0.2 * clip, hertz=200 + 90 * clip))
    return folder


def _infer(folder: Path, model: Path, source: str, output: str, **options) -> bytes:
    options = {"batch_size": 2, "max_new_tokens": 3, "num_workers": 1, **options}
    inference(
        InferenceSettings(input=folder / source, output=folder / output, model_name=str(model), **options)
    )
    return (folder / output).read_bytes()


def _rows(data: bytes, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(data.decode().splitlines(), delimiter=delimiter))


@pytest.mark.parametrize(
    ("columns", "failed", "cut", "header", "moved"),
    [
        (["audio"], False, False, ["audio", "prediction"], {}),
        (["audio", "x"], True, True, ["audio", "x", "prediction", "error", "finish_reason"], {}),
        (
            ["prediction", "audio"],
            False,
            False,
            ["prediction", "audio", "reference"],
            {"prediction": "reference"},
        ),
        # Answers of an earlier model beside the truth: the truth stays where it is.
        (
            ["audio", "reference", "prediction"],
            False,
            False,
            ["audio", "reference", "prediction", "prediction_1"],
            {"prediction": "prediction_1"},
        ),
        (
            ["audio", "prediction", "reference", "prediction_1"],
            False,
            False,
            ["audio", "prediction", "reference", "prediction_1", "prediction_2"],
            {"prediction": "prediction_2"},
        ),
        (["audio", "reference"], False, False, ["audio", "reference", "prediction"], {}),
        # A column of our name that is not ours would be read as ours, so ours is always there.
        (["error", "audio"], False, False, ["error", "audio", "prediction", "error_1"], {"error": "error_1"}),
        (
            ["audio", "finish_reason", "error", "error_1"],
            True,
            False,
            ["audio", "finish_reason", "error", "error_1", "prediction", "error_2", "finish_reason_1"],
            {"error": "error_2", "finish_reason": "finish_reason_1"},
        ),
    ],
)
def test_columns(columns, failed, cut, header, moved):
    plan = output_columns(columns, failed, cut)
    assert (plan.header, plan.moved) == (header, moved)


def test_the_truth_and_an_own_error_column_are_kept(folder: Path, model: Path, capsys):
    lines = [("0.wav", "zero", "noisy"), ("none.wav", "one", ""), ("2.wav", "two", "x")]
    write_csv(folder / "in.csv", ["audio", "prediction", "error"], lines)
    rows = _rows(_infer(folder, model, "in.csv", "out.csv"))
    assert [row["reference"] for row in rows] == ["zero", "one", "two"]
    assert [row["error_1"] for row in rows] == ["noisy", "", "x"]
    assert [bool(row["prediction"]) for row in rows] == [True, False, True]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert "prediction is now reference, error is now error_1" in capsys.readouterr().err
    # An output as the next input: the truth is still the reference, and what the first model said is there.
    again = _rows(_infer(folder, model, "out.csv", "next.csv", max_new_tokens=2))
    assert [row["reference"] for row in again] == ["zero", "one", "two"]
    assert [row["prediction_1"] for row in again] == [row["prediction"] for row in rows]
    assert [row["error_1"] for row in again] == ["noisy", "", "x"]
    assert [row["error_2"] for row in again] == [row["error"] for row in rows]


def test_an_answer_that_was_cut_is_marked_and_is_no_failure(folder: Path, model: Path, capsys):
    write_csv(folder / "in.csv", ["audio"], [("0.wav",), ("none.wav",), ("2.wav",)])
    rows = _rows(_infer(folder, model, "in.csv", "out.csv"))
    assert [row["finish_reason"] for row in rows] == ["length", "", "length"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert "2 of 3 answers were cut by the length limit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "csv"), ("a.CSV", "csv"), ("a", "csv"), ("a.txt", "csv"), ("run-0.5", "csv"),
        ("a.tsv", "tsv"), ("a.jsonl", "jsonl"), ("a.ndjson", "jsonl"),
        ("a.json", None), ("a.xlsx", None), ("a.csv.gz", None), ("a.wav", None),
    ],
)  # fmt: skip
def test_the_ending_says_what_is_written(name: str, kind: str | None):
    assert output_kind(Path(name)) == kind


@pytest.mark.parametrize("name", ["p.json", "p.xlsx", "p.csv.gz", "0.wav"])
def test_what_cannot_be_written_is_refused_before_anything_is_done(folder: Path, capsys, name: str):
    write_csv(folder / "in.csv", ["audio"], [("0.wav",)])
    (folder / "0.wav").unlink()
    assert command(["inference", "in.csv", "--output", name, "--model-name", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert f"--output {name}" in said and ".csv, .tsv or .jsonl" in said
    assert not (folder / name).exists()


@pytest.mark.parametrize("how", ["same", "relative", "symlink", "hardlink"])
def test_the_input_is_never_the_output(folder: Path, capsys, how: str):
    source = write_csv(folder / "in.csv", ["audio"], [("0.wav",)])
    before = source.read_bytes()
    (folder / "sub").mkdir()
    name = {"same": "in.csv", "relative": "sub/../in.csv"}.get(how, "other.csv")
    if how == "symlink":
        os.symlink("in.csv", folder / name)
    if how == "hardlink":
        os.link(source, folder / name)
    assert command(["inference", "in.csv", "--output", name, "--model-name", "nowhere"]) == 2
    assert "that is the input itself" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_a_device_is_no_output(folder: Path, capsys):
    """The file that appears in its place would end the device."""
    write_csv(folder / "in.csv", ["audio"], [("0.wav",)])
    os.mkfifo(folder / "pipe")
    for name in ("/dev/null", "pipe"):
        assert command(["inference", "in.csv", "--output", name, "--model-name", "nowhere"]) == 2
        assert "a device or a pipe" in capsys.readouterr().err


def test_a_link_is_written_through(folder: Path, model: Path):
    write_csv(folder / "in.csv", ["audio"], [("0.wav",)])
    (folder / "disk").mkdir()
    (folder / "disk/earlier.csv").write_text("hours of work")
    os.symlink("disk/earlier.csv", folder / "out.csv")
    assert b"prediction" in _infer(folder, model, "in.csv", "out.csv")
    assert (folder / "out.csv").is_symlink() and b"prediction" in (folder / "disk/earlier.csv").read_bytes()
    assert (folder / "disk/earlier.csv.1").read_text() == "hours of work"


def test_json_lines_keep_the_types_of_the_input(folder: Path, model: Path):
    records = [
        {
            "id": 7,
            "audio": "0.wav",
            "tags": ["a", {"b": None}],
            "prediction": "nul\u00f6l",
            "user_prompt": None,
        },
        {"audio": "none.wav", "ok": True, "prediction": "one"},
        {"audio": "2.wav", "share": 0.5},
    ]
    lines = [json.dumps(record) for record in records]
    (folder / "in.jsonl").write_text("\n".join([*lines, "not json", '{"audio": "\\ud800"}']) + "\n")
    data = _infer(folder, model, "in.jsonl", "out.jsonl")
    made = [json.loads(line) for line in data.decode().splitlines()]
    assert len(made) == 5
    for record, row in zip(records, made, strict=False):
        truth = {"reference": record["prediction"]} if "prediction" in record else {}
        expected = {**record, **truth}
        assert {name: row[name] for name in expected if name != "prediction"} == {
            name: value for name, value in expected.items() if name != "prediction"
        }
        assert set(row) == {*expected, "prediction", "error", "finish_reason"}
    assert list(made[0])[:5] == ["id", "audio", "tags", "prediction", "user_prompt"]
    assert made[0]["prediction"] and made[0]["error"] is None and made[0]["finish_reason"] == "length"
    assert made[1]["prediction"] is None and "no such file" in made[1]["error"]
    assert made[1]["finish_reason"] is None
    assert "not JSON" in made[3]["error"] and made[4]["audio"] == "\ud800"
    assert "nul\u00f6l".encode() in data, "text is readable"


def test_tables_as_json_lines_and_the_other_way_round(folder: Path, model: Path):
    lines = [("0.wav", 'a, "b"\n\u597d', "07"), ("2.wav", "", "")]
    write_csv(folder / "in.csv", ["audio", "prediction", "n"], lines)
    rows = [json.loads(line) for line in _infer(folder, model, "in.csv", "o.jsonl").splitlines()]
    assert [(row["audio"], row["reference"], row["n"]) for row in rows] == lines
    (folder / "in.jsonl").write_text('{"audio": "0.wav", "n": 7, "tags": ["x"]}\n{"audio": "2.wav"}\n')
    table = _rows(_infer(folder, model, "in.jsonl", "o.csv"))
    assert [(row["n"], row["tags"]) for row in table] == [("7", '["x"]'), ("", "")]
    assert all(row["prediction"] for row in table)


def test_columns_without_a_name_keep_their_cells(folder: Path, model: Path):
    """As spreadsheets write them; two of one name would take each other's cells."""
    (folder / "in.csv").write_text("audio,,column_4,,\n0.wav,a,b,c,d\n")
    data = _infer(folder, model, "in.csv", "out.csv").decode().splitlines()
    assert data[0] == "audio,,column_4,,,prediction,finish_reason" and data[1].startswith("0.wav,a,b,c,d,")
    row = json.loads(_infer(folder, model, "in.csv", "out.jsonl"))
    unnamed = {"column_2": "a", "column_4": "b", "column_5": "c", "column_6": "d"}
    assert {name: row[name] for name in list(row)[1:5]} == unnamed


def test_tabs(folder: Path, model: Path):
    write_csv(folder / "in.csv", ["audio", "note"], [("0.wav", "a\tb"), ("2.wav", "c,d")])
    data = _infer(folder, model, "in.csv", "out.tsv")
    assert data.startswith(b"audio\tnote\tprediction\tfinish_reason\n")
    assert [row["note"] for row in _rows(data, "\t")] == ["a\tb", "c,d"]


@pytest.mark.parametrize("answer", ["null", " null", "ja; nein", "ja"])
def test_cells_mean_in_the_output_what_they_meant(folder: Path, model: Path, monkeypatch, answer: str):
    """Separators, quotes that matter and blanks stay; an answer that looks like nothing is put in quotes."""
    monkeypatch.setattr(PromptBuilder, "decode", lambda self, ids, skip_special=False: answer)
    lines = ["audio;note;mark;end", '0.wav;"null";null;0,2', '2.wav; x, y ;" z";']
    (folder / "in.csv").write_text("\n".join(lines) + "\n")
    out = _infer(folder, model, "in.csv", "out.csv").decode().splitlines()
    assert [line[: len(before)] for line, before in zip(out, lines, strict=True)] == lines
    before, after = (list(read_records(folder / name)) for name in ("in.csv", "out.csv"))
    for row, original in zip(after, before, strict=True):
        assert isinstance(row, Row) and row.prediction == answer and row.end == original.end
        assert list(map(cell_text, row.cells[:4])) == list(map(cell_text, original.cells))
    rows = [json.loads(line) for line in _infer(folder, model, "in.csv", "out.jsonl").splitlines()]
    assert [(row["note"], row["mark"], row["prediction"]) for row in rows] == [
        ("null", "", answer),
        ("x, y", " z", answer),
    ]


def test_halves_of_surrogate_pairs_end_no_run(folder: Path, model: Path):
    """JSON can express what no file can hold; the row is bad, and every other row is written."""
    (folder / "in.jsonl").write_text('{"audio": "0.wav"}\n{"audio": "2.wav", "note": "\\ud800x"}\n')
    rows = _rows(_infer(folder, model, "in.jsonl", "out.csv"))
    assert rows[0]["prediction"] and "not valid Unicode" in rows[1]["error"]
    assert rows[1]["note"] == "\\ud800x"


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl"])
def test_interrupted_and_started_again_each_format_ends_alike(
    folder: Path, model: Path, interrupted_after, name: str
):
    lines = [(f"{row % 4}.wav", f"truth {row}") for row in range(20)]  # each fourth clip is missing
    write_csv(folder / "in.csv", ["audio", "prediction"], lines)
    whole = _infer(folder, model, "in.csv", "whole" + name[3:], batch_size=1)
    with interrupted_after(9):
        _infer(folder, model, "in.csv", name, batch_size=1)
    assert not (folder / name).exists()
    assert _infer(folder, model, "in.csv", name, batch_size=1) == whole


def test_copies_that_a_kill_left_unfinished_are_removed(folder: Path, model: Path):
    write_csv(folder / "in.csv", ["audio"], [("0.wav",)])
    names = [".partial-out.csv-99999999", f".partial-out.csv-{os.getpid()}0x", ".partial-other.csv-99999999"]
    for name in names:
        (folder / name).write_text("half")
    _infer(folder, model, "in.csv", "out.csv")
    assert [(folder / name).exists() for name in names] == [False, True, True]


def _words(*more: str) -> list[str]:
    words = "inference in.csv --output out.csv --num-workers 1 --max-new-tokens 2 --batch-size 2"
    return [*words.split(), *more]


@pytest.mark.parametrize(
    ("missing", "options", "code"),
    [
        (0, [], 0),
        (1, [], 0),
        (1, ["--on-error", "fail"], 1),
        (0, ["--on-error", "fail"], 0),
        (3, [], 1),
        (3, ["--on-error", "skip"], 1),
    ],
)
def test_exit_codes(folder: Path, model: Path, capsys, missing: int, options: list[str], code: int):
    write_csv(folder / "in.csv", ["audio", "prediction"], [(f"{row}.wav", "x") for row in range(3)])
    for row in range(missing):
        (folder / f"{row}.wav").unlink()
    assert command(_words("--model-name", str(model), *options)) == code
    said = capsys.readouterr().err
    rows = _rows((folder / "out.csv").read_bytes())
    assert len(rows) == 3 and not (folder / "out.csv.partial").exists()
    assert [bool(row.get("error")) for row in rows] == [row < missing for row in range(3)]
    if missing:
        assert f"{missing} of 3 rows have no prediction" in said
    if code:
        last = said.strip().splitlines()[-1]
        assert last.startswith(f"error: {missing} of 3 rows") and said.count("no prediction") == 1
        assert "in.csv line 2: 0.wav: no such file" in last and "error column of out.csv" in last


def test_rows_that_cannot_even_be_read_fail_a_run_too(folder: Path, model: Path):
    (folder / "in.csv").write_text("audio,prediction\n,x\ntoo,many,cells\n")
    with pytest.raises(MdlError, match=r"2 of 2 rows have no prediction, the first of them .*in\.csv line 2"):
        _infer(folder, model, "in.csv", "out.csv")
    assert len(_rows((folder / "out.csv").read_bytes())) == 2


def test_only_a_journal_is_ever_removed(folder: Path, model: Path):
    write_csv(folder / "in.csv", ["audio"], [("0.wav",)])
    (folder / "out.csv.partial").mkdir()
    (folder / "out.csv.partial/thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"holds thesis\.tex.*--output"):
        _infer(folder, model, "in.csv", "out.csv", overwrite=True)
    assert (folder / "out.csv.partial/thesis.tex").read_text() == "years"
    (folder / "out.csv.partial/thesis.tex").unlink()
    _infer(folder, model, "in.csv", "out.csv")
    assert not (folder / "out.csv.partial").exists()
    journal = Journal(folder / "more.csv")
    journal.prepare({}, 1, False)
    (journal.folder / "notes.txt").write_text("put there meanwhile")
    journal.remove()
    assert [path.name for path in journal.folder.iterdir()] == ["notes.txt"]


def test_these_checks_need_no_torch(folder: Path):
    """A wrong --output is found before anything heavy is loaded."""
    write_csv(folder / "in.csv", ["audio"], [("0.wav",)])
    words = ["inference", "in.csv", "--output", "in.csv", "--model-name", "nowhere"]
    code = (
        f"import sys; from mdl_toolkit.cli import run; code = run({words!r})\n"
        "sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode == 2
