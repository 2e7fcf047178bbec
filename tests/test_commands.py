"""The three commands as a user types them, in a clean folder, on real recordings where they are at hand."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.system

PROGRAM = str(Path(sys.executable).with_name("mdl-toolkit"))
SHARED = Path(__file__).resolve().parents[1].parent / "shared"
ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *words],
        cwd=folder,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and four test recordings: spoken digits where they are at hand, else tones."""
    root = tmp_path_factory.mktemp("user")
    if (SHARED / "data" / "fsdd-train.csv").is_file():
        rows = read(SHARED / "data" / "fsdd-train.csv")[::180]
        clips = [(str(SHARED / "data" / row["audio"]), row["prediction"]) for row in rows]
    else:
        clips = []
        for i in range(15):
            path = root / f"tone-{i}.wav"
            time = np.arange(6000) / 8000
            soundfile.write(path, 0.3 * np.sin(2 * np.pi * (300 if i % 2 else 900) * time), 8000)
            clips.append((path.name, "low" if i % 2 else "high"))
    for name, part in (("train.csv", clips[:8]), ("test.csv", clips[8:12])):
        with open(root / name, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["audio", "prediction", "note"])
            writer.writerows([*clip, f"note, {i}\nsecond line"] for i, clip in enumerate(part))
    return root


def test_from_a_csv_to_a_tuned_model(folder: Path):
    converted = run(
        folder, "convert-dataset", "train.csv", "--model-name", "tiny", "--output", "train-converted/"
    )
    assert converted.returncode == 0, converted.stderr

    words = "--lora-rank 16 --eval-steps 2 --save-steps 2 --num-epochs 4 --batch-size 4 --output output/"
    datasets = ["--train-dataset", "train-converted/", "--eval-dataset", "test.csv"]
    trained = run(folder, "train", "--model-name", "tiny", *datasets, *words.split())
    assert trained.returncode == 0, trained.stderr
    assert "loss" in trained.stdout + trained.stderr

    lines = [json.loads(line) for line in (folder / "output" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 9))
    assert {"grad_norm", "learning_rate"} <= steps[0].keys()
    # An epoch is two batches: the loss of one says more of its clips than of the training.
    epochs = [sum(line["loss"] for line in steps[i : i + 2]) for i in range(0, 8, 2)]
    assert epochs == sorted(epochs, reverse=True) and epochs[-1] < epochs[0]
    assert any("eval_loss" in line for line in lines)
    assert lines[-1]["train_runtime"] > 0 and lines[-1]["train_samples_per_second"] > 0
    assert (folder / "output" / "checkpoint-8").is_dir()

    told = run(folder, "inference", "test.csv", "--model-name", "output/final", "--output", "predictions.csv")
    assert told.returncode == 0, told.stderr
    given, made = read(folder / "test.csv"), read(folder / "predictions.csv")
    assert [(r["audio"], r["note"]) for r in made] == [(r["audio"], r["note"]) for r in given]
    assert list(made[0])[:3] == ["audio", "prediction", "note"]

    manifest = json.loads((folder / "output" / "final" / "mdl_toolkit.json").read_text())
    assert manifest["kind"] == "model"
    assert not list(folder.rglob(".partial-*"))


def test_a_second_run_in_the_same_folder_is_refused_and_nothing_lost(folder: Path):
    before = (folder / "output" / "metrics.jsonl").read_bytes()
    words = ["train", "--model-name", "tiny", "--train-dataset", "train-converted/", "--output", "output/"]
    again = run(folder, *words)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr and "--resume-from-checkpoint" in again.stderr
    assert "Traceback" not in again.stderr
    assert (folder / "output" / "metrics.jsonl").read_bytes() == before


def test_a_bad_row_is_named_by_file_and_line(folder: Path):
    (folder / "bad.csv").write_text("audio,prediction\nmissing.wav,yes\n", encoding="utf-8")
    failed = run(folder, "convert-dataset", "bad.csv", "--model-name", "tiny", "--output", "bad-converted")
    assert failed.returncode == 2
    assert "bad.csv" in failed.stderr and "2" in failed.stderr and "missing.wav" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (folder / "bad-converted").exists()
