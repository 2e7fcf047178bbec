"""What a person sees when a run goes wrong: one cause, named, at the end, and soon."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from support.processes.launch import Finished, launched, run, torchrun
from support.training.shop import LONG, TRAIN, train_on

pytestmark = pytest.mark.system

#: As many processes as there are GPUs, or cores where there are none.
AUTO = ["torchrun", "--standalone", "--nproc-per-node", "auto", "--no-python"]
ACCELERATE = shlex.split("accelerate launch --multi_gpu --num_processes 2 --main_process_port 0 --no_python")


def _assert_one_cause(finished: Finished, *words: str) -> None:
    """The cause stands once among the program's own lines, and is the last thing that the launcher says."""
    assert finished.code == 1, finished.output
    own, _, report = finished.output.partition("ChildFailedError")
    _, *causes = re.split(r"^error: ", own, flags=re.MULTILINE)
    assert len(causes) == 1, finished.output
    assert all(word in causes[0] for word in words), causes[0]
    assert "Traceback" not in own.partition("error: ")[0], finished.output
    root = report.partition("Root Cause")[2]
    last = [line for line in root.splitlines() if line.strip(" =-")][-1].strip()
    assert all(word in root for word in words) and last.removeprefix("traceback : ") in causes[0], root


def test_a_recording_gone_on_one_rank_ends_all_and_names_rank_and_row(shop: Path):
    """The recording is referred to, not stored, and vanishes in the middle of training; one rank needs it."""
    shutil.copytree(shop / "clips", shop / "referred")
    (shop / "referred.csv").write_text((shop / "train.csv").read_text().replace("clips/", "referred/"))
    convert = "mdl-toolkit convert-dataset referred.csv --config convert.yaml --audio-storage reference"
    assert run([*convert.split(), "--output", "referred-converted/"], cwd=shop).code == 0
    words = [*train_on("referred-converted/", LONG), "--output", "loud/"]
    with launched([*torchrun(), *words], cwd=shop) as launch:
        launch.until((shop / "loud" / "checkpoint-1").is_dir, "checkpoint-1")
        (shop / "referred" / "train-6.wav").unlink()
        _assert_one_cause(launch.wait(), "rank ", "referred.csv row 8", "train-6.wav")
    finished = run([*torchrun(), *words, "--resume-from-checkpoint", "true"], cwd=shop)
    _assert_one_cause(finished, "referred.csv row 8", "train-6.wav: no such file", "put the recordings back")


def test_a_rank_killed_without_a_word_is_told_of(shop: Path):
    words = [*LONG, "--output", "silent/"]
    with launched([*torchrun(), *words], cwd=shop) as launch:
        launch.until((shop / "silent" / "checkpoint-3").is_dir, "checkpoint-3")
        launch.kill(1)
        finished = launch.wait()
    assert finished.code == 1
    root = finished.output.partition("Root Cause")[2]
    assert "rank      : 1" in root and "SIGKILL" in root, finished.output
    assert "Traceback" not in finished.output.partition("ChildFailedError")[0].rpartition("Traceback")[0]


@pytest.mark.parametrize("launcher", [AUTO, ACCELERATE], ids=["torchrun", "accelerate"])
def test_a_wrong_option_is_told_once(launcher: list[str], shop: Path):
    finished = run([*launcher, *TRAIN, "--lr", "-1", "--output", "wrong/"], cwd=shop)
    _assert_one_cause(finished, "--lr -1")
    assert "exitcode  : 2" in finished.output


def test_a_bad_row_of_a_table_is_told_once(shop: Path):
    table = (shop / "train.csv").read_text().replace("clips/train-3.wav", "clips/missing.wav")
    (shop / "bad.csv").write_text(table)
    words = [*train_on("bad.csv"), "--output", "bad/"]
    finished = run([*torchrun(), *words], cwd=shop)
    _assert_one_cause(finished, "bad.csv", "line 5", "missing.wav")


def test_no_gpu_is_said_by_torchrun_itself(shop: Path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    launcher = ["torchrun", "--standalone", "--nproc-per-node", "gpu", "--no-python"]
    finished = run([*launcher, *TRAIN, "--output", "gpu/"], cwd=shop)
    assert finished.code == 1
    assert finished.lines[-1] == "ValueError: Cuda is not available."


def test_accelerate_without_no_python_looks_for_a_file(shop: Path):
    finished = run(["accelerate", "launch", *TRAIN, "--output", "file/"], cwd=shop)
    assert finished.code == 1
    assert f"can't open file '{shop / 'mdl-toolkit'}'" in finished.output, finished.output
