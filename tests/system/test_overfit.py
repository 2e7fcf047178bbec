"""``train --overfit`` on the small base in two processes, each with the model or half of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdl_toolkit.demo.task import write_clips
from support.processes.launch import run, torchrun

pytestmark = pytest.mark.system

WORDS = ["mdl-toolkit", "train", "--model-name", "tiny", "--train-dataset", "train.csv", "--overfit", "6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overfit")
    write_clips(folder, 0, "train", 60)
    return folder


@pytest.mark.parametrize("kind", ["in two", "sharded"])
def test_the_small_base_can_learn(folder: Path, kind: str):
    sharding = ["--sharding", "full"] if kind == "sharded" else []
    finished = run([*torchrun(), *WORDS, "--output", f"{kind}/", *sharding], cwd=folder)
    assert finished.code == 0, finished.output
    assert "this set-up can learn: loss " in finished.output
    assert "6 of 6 answers come back exactly" in finished.output
    assert [path.name for path in (folder / kind).iterdir()] == ["cache"]


def test_two_processes_fail_with_one_verdict(folder: Path):
    finished = run(
        [*torchrun(), *WORDS, "--output", "failing/", "--lr", "1e-9", "--max-steps", "2"], cwd=folder
    )
    assert finished.code == 1, finished.output
    assert finished.output.count("likely cause: --lr 1e-09 is too small") == 1
    assert "this set-up does not learn 6 rows by heart: loss " in finished.output
    assert "another process" not in finished.output
