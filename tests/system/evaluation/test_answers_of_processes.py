"""Answers made in evaluations by several processes: those of one, also where the model is split over them."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdl_toolkit.training.checkpoints.storage import newest_complete
from support.processes.altered import altered
from support.processes.launch import launched, run, torchrun
from support.training.shop import metrics, steps

pytestmark = pytest.mark.system

TRAINING = shlex.split(
    "mdl-toolkit train --config train.yaml --lora-rank 16 --train-dataset train-converted/ --eval-on-start "
    "--eval-dataset main=test-converted/ --eval-dataset old=train-converted/ --eval-steps 2 "
    "--eval-generate 5 --eval-max-new-tokens 12 --eval-batch-size 2 --num-epochs 1 --save-steps 1000"
)
SHARDED = [*TRAINING, "--sharding", "full"]

#: Lets memory run out on rank 1, in the midst of a pass that the other process makes too.
SHORT = """
cache, _, _, layer = words[:4]
if os.environ["RANK"] == "1" and len(cache.lengths) > 1 and layer == 1:
    import torch
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
"""
#: Makes passes of the evaluation after the second step take long: ten seconds and more in all.
SLOW = """
if len(metrics()) > 2:
    if len(calls) % 4 == 0:
        os.write(2, f"answering on rank {os.environ['RANK']}\\n".encode())
    time.sleep(0.25)
"""
READS = """
def metrics():
    with open("answers-told/metrics.jsonl") as stream:
        return stream.readlines()
"""


def scores(output: Path) -> list[dict[str, Any]]:
    """The lines of a run's evaluations, without the time they took."""
    lines = [line for line in metrics(output) if "eval_loss" in line]
    return [{key: value for key, value in line.items() if key != "eval_seconds"} for line in lines]


def assert_same_answers(output: Path, other: Path) -> None:
    """Answers and scores are the same; losses are, to rounding."""
    for name in ("main", "old"):
        files = [folder / "evaluation" / name / "rows.csv" for folder in (output, other)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert [line["step"] for line in scores(output)] == [0, 2, 3]
    for mine, its in zip(scores(output), scores(other), strict=True):
        assert (
            mine.keys() == its.keys()
            and {"eval_accuracy", "eval_accuracy/old", "eval_loss/old"} <= mine.keys()
        )
        np.testing.assert_allclose(list(mine.values()), list(its.values()), rtol=1e-5)


@pytest.fixture(scope="module")
def alone(shop: Path) -> Path:
    output = shop / "answers-alone"
    finished = run([*TRAINING, "--batch-size", "8", "--output", output.name], cwd=shop)
    assert finished.code == 0, finished.output
    assert finished.output.count("answers to the set old") == 3
    assert "evaluation before the first step: main: loss" in finished.output
    return output


@pytest.fixture(scope="module")
def sharded(shop: Path) -> Path:
    """A run in which memory ran out."""
    output = shop / "answers-sharded"
    words = [*SHARDED[1:], "--output", output.name]
    program = altered("mdl_toolkit.generation.cache.RaggedCache.update", SHORT, words)
    finished = run([*torchrun(), *program], cwd=shop)
    assert finished.code == 0, finished.output
    assert "while answers were made; from now on one row at a time" in finished.output
    return output


def test_two_processes_give_the_answers_of_one(shop: Path, alone: Path) -> None:
    output = shop / "answers-two"
    finished = run([*torchrun(), *TRAINING, "--output", output.name], cwd=shop)
    assert finished.code == 0, finished.output
    assert_same_answers(output, alone)


def test_a_model_in_shards_gives_them_too_also_where_memory_runs_out(sharded: Path, alone: Path) -> None:
    assert_same_answers(sharded, alone)


def test_a_signal_among_answers_is_enough_for_all_and_they_are_made_up_for(shop: Path, sharded: Path) -> None:
    """The process that isn't told hears it before its next token, and nothing is left of that evaluation."""
    output = shop / "answers-told"
    words = [*SHARDED[1:], "--resume-from-checkpoint", "true", "--output", output.name]
    function = "mdl_toolkit.training.evaluation.passes.LockstepPasses.__call__"
    program = altered(function, READS + SLOW, words)
    with launched([*torchrun(), *program], cwd=shop) as launch:
        launch.until(lambda: "answering on rank 1" in launch.output, "the second evaluation")
        victim = launch.rank(1)
        assert victim is not None
        os.kill(victim, signal.SIGUSR2)
        finished = launch.wait()
    assert finished.code == 1 and "exitcode  : 140" in finished.output, finished.output
    assert newest_complete(output) == output / "checkpoint-2"
    assert [line["step"] for line in scores(output)] == [0], "the evaluation is not reported"
    finished = run(
        [*torchrun(), *SHARDED, "--resume-from-checkpoint", "true", "--output", output.name], cwd=shop
    )
    assert finished.code == 0, finished.output
    assert scores(output) == scores(sharded), "the base is not evaluated again, the second step is"
    assert [line["loss"] for line in steps(output)] == [line["loss"] for line in steps(sharded)]
    final = [folder / "final" / "model.safetensors" for folder in (output, sharded)]
    assert final[0].read_bytes() == final[1].read_bytes()
