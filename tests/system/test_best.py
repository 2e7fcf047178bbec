"""Several processes keep one ``best/`` and end early after the same step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdl_toolkit.training.checkpoints.storage import newest_complete
from support.processes.launch import run, torchrun
from support.training.runs import assert_same_bytes
from support.training.shop import TRAIN, metrics, steps

pytestmark = pytest.mark.system

#: Answers of a model of random numbers are all wrong: the first evaluation is the best.
EARLY = [
    *("1" if word == "50" else word for word in TRAIN), "--merge-lora", "false", "--save-steps", "1",
    "--eval-generate", "2", "--eval-max-new-tokens", "3",
    "--metric-for-best", "accuracy", "--early-stopping", "2",
]  # fmt: skip


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_end_early_together(shop: Path, sharding: str) -> None:
    output = shop / f"early-{sharding}"
    words = [*EARLY, "--sharding", sharding, "--output", str(output)]
    finished = run([*torchrun(), *words], cwd=shop)
    assert finished.code == 0, finished.output
    assert [line["step"] for line in steps(output)] == [1, 2, 3]
    assert finished.output.count("training ends early after step 3: eval_accuracy was no better than") == 1
    assert newest_complete(output) == output / "checkpoint-3" and (output / "final").is_dir()
    end = metrics(output)[-1]
    assert end["stopped_early"] is True and end["best_step"] == 1 and end["best_eval_accuracy"] == 0
    told = json.loads((output / "best" / "mdl_toolkit.json").read_text())
    assert told["training"]["step"] == 1 and told["training"]["best"]["metric"] == "eval_accuracy"
    assert_same_bytes(output / "best", output / "checkpoint-1")
    if sharding == "full":
        return
    # Started again, all of them know that it is over.
    again = run([*torchrun(), *words, "--resume-from-checkpoint", "true"], cwd=shop)
    assert again.code == 0 and "a larger one, or none, goes on" in again.output, again.output
    assert [line["step"] for line in steps(output)] == [1, 2, 3]
