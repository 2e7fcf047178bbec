"""The benchmarks of training run: the GPU's in its small shape, growth in few doublings, and two starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.reliability import starts

ROOT = Path(__file__).resolve().parents[2]


def lines(module: str, *words: str) -> list[dict[str, object]]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", f"benchmarks.{module}", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_gpu_benchmark_in_a_small_shape(tmp_path: Path) -> None:
    cases = ["5s", "24gb", "mixed"]
    words = ["--smoke", "--clips", "2", "--repeats", "1", "--steps", "1", "--profile", str(tmp_path)]
    found = lines("training.gpu", "--case", *cases, *words)
    assert [line["case"] for line in found] == cases
    for line in found:
        assert line["clips_per_second"]["median"] > 0 and line["final_loss"] > 0  # type: ignore[index,operator]
        assert line["split_batches"] == 0
    assert (tmp_path / "5s.txt").read_text() and (tmp_path / "5s.json.gz").stat().st_size


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    command = [sys.executable, "-m", "benchmarks.training.gpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("no GPU here") and "Traceback" not in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_never_waits_for_the_gpu() -> None:
    (found,) = lines("training.gpu", "--case", "24gb", "--repeats", "1")
    assert found["host_synchronisations_in_a_step"] == 0 and found["within_limit"]


def test_growth() -> None:
    found = lines(
        "training.growth", "--doublings", "1", "--repeats", "1", "--what", "rows", "width", "processes"
    )
    assert [line["what"] for line in found] == [
        "planning an epoch",
        "reading a dataset",
        "memory of reading a dataset",
        "a training step",
        "dividing a step",
    ]
    assert all(isinstance(line["exponent"], float) for line in found)


def test_starts_that_end_alike() -> None:
    (found,) = lines("reliability.starts", "--forked", "--starts", "2", "--steps", "1")
    assert (found["starts"], found["results"], found["usual"], found["others"]) == (2, 1, 2, [])


def test_a_start_that_ends_otherwise_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [
        {"losses": [5.0, 4.0], "weights": "a"},
        {"losses": [5.0, 4.0], "weights": "b"},
        {"losses": [5.0, 4.5], "weights": "c"},
    ]
    pieces = iter([[0, 0], [0, 1, 2]])
    monkeypatch.setattr(
        starts, "results", lambda args, folder: [json.dumps(ends[number]) for number in next(pieces)]
    )
    words = ["--keep", str(tmp_path / "kept.jsonl"), "--starts"]
    assert [starts.main([*words, "2"]), starts.main([*words, "3"])] == [0, 1]
    alike, otherwise = map(json.loads, capsys.readouterr().out.splitlines())
    assert (alike["starts"], alike["results"], otherwise["starts"], otherwise["usual"]) == (2, 1, 5, 3)
    assert alike["share_below"] < 1 and otherwise["share_below"] is None
    assert [each["first_difference"] for each in otherwise["others"]] == ["weights", "loss of step 2"]
