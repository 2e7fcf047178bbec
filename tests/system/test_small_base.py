"""README's three commands teach the small base that ships with the package, with no option but its name."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdl_toolkit.demo.task import write_clips
from mdl_toolkit.hub import resolve_model

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(Path(sys.executable).with_name("mdl-toolkit"))


def commands() -> list[list[str]]:
    """The three as they stand in README, the base named in the first as it says."""
    block = re.search(
        r"```bash\n(mdl-toolkit convert-dataset.*?)```", ROOT.joinpath("README.md").read_text(), re.S
    )
    assert block is not None
    words = [shlex.split(line)[1:] for line in block[1].splitlines()]
    assert [line[0] for line in words] == ["convert-dataset", "train", "inference"]
    words[0] += ["--model-name", "tiny"]
    return words


def test_the_three_commands_lead_to_a_model_that_answers(tmp_path: Path) -> None:
    for part, clips in (("train", 200), ("test", 40)):
        write_clips(tmp_path / "recordings", 0, part, clips)
        (tmp_path / "recordings" / f"{part}.csv").rename(tmp_path / f"{part}.csv")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    for words in commands():
        done = subprocess.run(
            [PROGRAM, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
    with open(tmp_path / "predictions.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    right = sum(row["prediction"] == row["reference"] for row in rows)
    assert len(rows) == 40 and right >= 34, f"{right} of 40"


def test_threads_wait_asleep_unless_told_otherwise(tmp_path: Path) -> None:
    # Weights that can't be read end the command once torch is there.
    shutil.copytree(resolve_model("tiny"), tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"none")
    write_clips(tmp_path, 0, "train", 8)
    words = ["train", "--train-dataset", "train.csv", "--model-name", "broken", "--output", "run"]
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))
    }
    for told, policy in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        environment = {**own, **told, "OMP_DISPLAY_ENV": "VERBOSE"}
        done = subprocess.run(
            [PROGRAM, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 2 and "not a whole safetensors file" in done.stderr
        # The OpenMP runtime says itself what it has understood.
        assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr, done.stderr
        assert ("GOMP_SPINCOUNT = '1000'" in done.stderr) == (not told), done.stderr
