"""Real processes that are killed while they keep ``best/``."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.model_folders.trained import TrainedWeights
from mdl_toolkit.training.best.record import BestRecord
from support.processes.forks import Forks, serving_forks
from support.training.runs import assert_same_bytes, command, metrics_of, run_settings

#: Quick steps, each of them evaluated; some evaluations are the best so far, and others are not.
OPTIONS: dict[str, Any] = {
    "lora_dropout": 0.2, "num_epochs": 2, "batch_size": 2, "save_steps": 4, "save_total_limit": 1,
    "merge_lora": False, "eval_steps": 1, "metric_for_best": "loss", "lr": 0.02, "lr_scheduler": "constant",
}  # fmt: skip


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with serving_forks(tmp_path_factory.mktemp("forks")) as server:
        yield server


def test_killed_again_and_again_it_ends_with_the_best_of_the_undisturbed_run(
    shop: Any, tmp_path: Path, forks: Forks
):
    whole, output = tmp_path / "whole", tmp_path / "out"
    options = {**OPTIONS, "eval_dataset": str(shop.held_out)}
    forks.start(command(run_settings(shop.model, shop.data, whole, **options))[3:])
    assert forks.exit_code() == 0, forks.told
    words = command(run_settings(shop.model, shop.data, output, **options, resume_from_checkpoint="true"))[3:]
    chance = random.Random(1)
    best: BestRecord | None = None
    for number in range(4):
        begun = _lines(output)
        pid = forks.start(words)
        _wait(pid, partial(_has_more_lines, output, begun + 2))
        if number % 2:
            _wait(pid, partial(_is_writing, output), 2)
        else:
            time.sleep(chance.uniform(0, 0.2))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if forks.exit_code() == 0:
            break  # it was done before
        held = BestRecord.read(output / "best")
        if held is not None:
            assert TrainedWeights.read(output / "best").lora, "it has its name, so it is whole"
            assert best is None or held.value <= best.value, "a kill has taken a better one away"
            best = held
    forks.start(words)
    assert forks.exit_code() == 0, forks.told
    assert best is not None
    assert_same_bytes(output / "best", whole / "best")
    assert BestRecord.read(output / "best") == BestRecord.read(whole / "best")
    losses = {line["step"]: line["eval_loss"] for line in metrics_of(whole) if "eval_loss" in line}
    assert metrics_of(output)[-1]["best_step"] == min(losses, key=losses.__getitem__)


def _lines(output: Path) -> int:
    with suppress(FileNotFoundError):
        return len((output / "metrics.jsonl").read_text().splitlines())
    return 0


def _has_more_lines(output: Path, than: int) -> bool:
    return _lines(output) > than


def _is_writing(output: Path) -> bool:
    return any(output.glob(".partial-best-*"))


def _wait(pid: int, condition: Callable[[], bool], seconds: float = 30) -> None:
    """Until something is so, or the process has ended."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                time.sleep(0.002)
                continue
        break
