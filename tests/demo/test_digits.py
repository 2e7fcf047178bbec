"""The example on real recordings: one set of commands in the documents, the script and the benchmark."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.training import digits
from mdl_toolkit import cli
from mdl_toolkit.settings.values import make_settings
from support.command_lines import flags_of

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
needs_recordings = pytest.mark.skipif(
    not (DATA / "fsdd-train.csv").is_file(), reason="the recordings are not beside the repository"
)


def commands_in(text: str) -> list[list[str]]:
    """Every ``mdl-toolkit`` line, with continuation lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [shlex.split(line)[1:] for line in joined.splitlines() if line.startswith("mdl-toolkit ")]


def named(words: list[str], data: str) -> list[str]:
    return [word.replace(data, "DATA") for word in words]


def test_documents_script_and_benchmark_give_the_same_commands():
    epochs = digits.EPOCHS
    measured = [named(words, "/x") for words in digits.commands(Path("/x"), epochs).values()]
    english = commands_in((ROOT / "docs/en/example-digits.md").read_text(encoding="utf-8"))
    chinese = commands_in((ROOT / "docs/zh/example-digits.md").read_text(encoding="utf-8"))
    script = commands_in((ROOT / "examples/digits.sh").read_text(encoding="utf-8"))
    assert [words[0] for words in english[4:]] == ["evaluate", "report"]
    assert english == chinese == [named(words, "$data") for words in script]
    assert [sorted(words) for words in english[:4]] == [sorted(words) for words in measured]


def test_the_commands_are_valid(tmp_path):
    for name in ("fsdd-train.csv", "fsdd-test.csv", "digits-train", "digits-test", "digits.csv"):
        (tmp_path / name).touch()
    (tmp_path / "digits-run").mkdir()
    made = ("digits-train", "digits-test", "digits.csv", "digits-run")
    for words in commands_in((ROOT / "docs/en/example-digits.md").read_text(encoding="utf-8")):
        command = cli.COMMANDS[words[0]]
        placed = [
            word.replace("DATA", str(tmp_path)) if "DATA" in word
            else str(tmp_path / word) if word in made
            else word
            for word in words[1:]
        ]  # fmt: skip
        flags, _ = flags_of(command.settings, placed)
        make_settings(command.settings, flags)


def test_answers_are_counted_row_by_row(tmp_path):
    truth, answers = tmp_path / "truth.csv", tmp_path / "answers.csv"
    truth.write_text("audio,prediction\na.wav,one\nb.wav,two\nc.wav,two\n", encoding="utf-8")
    answers.write_text("audio,prediction\na.wav,one\nb.wav,one\nc.wav,two\n", encoding="utf-8")
    assert digits.correct(truth, answers) == (2, 3)
    answers.write_text("audio,prediction\na.wav,one\n", encoding="utf-8")
    with pytest.raises(ValueError, match="shorter"):
        digits.correct(truth, answers)


@needs_recordings
def test_a_miniature_on_real_recordings_learns_and_answers_every_row(tmp_path):
    rows: list[dict[str, str]] = []
    for part, step in (("train", 90), ("test", 30)):
        with open(DATA / f"fsdd-{part}.csv", encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))[::step]
        with open(tmp_path / f"fsdd-{part}.csv", "w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "audio": str(DATA / row["audio"])} for row in rows)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for words in digits.commands(tmp_path, 1).values():
        mini = ["/" if word == str(tmp_path) else word for word in words]
        subprocess.run(
            [sys.executable, "-m", "mdl_toolkit", *mini], cwd=tmp_path, env=environment, check=True
        )
    with open(tmp_path / "digits.csv", encoding="utf-8", newline="") as stream:
        answered = list(csv.DictReader(stream))
    assert [row["speaker"] for row in answered] == [row["speaker"] for row in rows]
    assert all(row["prediction"] for row in answered)
