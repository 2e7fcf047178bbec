"""A bit that changes in one replica while a run goes on is found before anything is saved from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.processes.altered import altered
from support.processes.launch import launched, torchrun
from support.training.shop import LONG, assert_same_run

pytestmark = pytest.mark.system

#: The lowest bit of one weight, after the third step of the second process's first attempt.
FLIP = """
if len(calls) == 4 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    import torch
    weight = next(reversed(words[0].trainable.values())).detach()
    weight.view(torch.int32).view(-1)[17] ^= 1
"""


def test_a_flipped_bit_is_told_and_the_run_goes_on_from_before_it(shop: Path, undisturbed: Path) -> None:
    training = list(LONG[1:])
    training[training.index("--save-steps") + 1] = "2"
    words = altered("mdl_toolkit.training.steps.optimizer.Optimizer.step", FLIP, training)
    command = [*torchrun("--max-restarts", "1"), *words, "--output", "flipped/"]
    with launched(command, cwd=shop) as launch:
        launch.until(lambda: "have drifted apart" in launch.output, "the drift")
        assert not (shop / "flipped" / "checkpoint-4").exists()
        ended = launch.wait()
    assert ended.code == 0, ended.output
    told = [line for line in ended.lines if "have drifted apart" in line and line.startswith("error")]
    assert len(told) == 1 and told[0].startswith("error: step 4: the replicas of what is trained"), (
        ended.output
    )
    assert "rank 1 (host " in told[0] and "flipped/checkpoint-2 is intact" in told[0]
    assert_same_run(shop / "flipped", undisturbed)
