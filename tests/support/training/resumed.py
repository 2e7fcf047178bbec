"""Runs gone on with from what a kill would have left of them, beside the same runs left alone.

As a script it is one process of a few: ``python resumed.py CASES.json FOLDER``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training import run
from mdl_toolkit.training.trainable import wrap
from support.training.runs import run_settings

#: Three steps, of which two are saved; a kill comes in the third.
_RUN: dict[str, Any] = {
    "max_steps": 3, "save_steps": 2, "batch_size": 3, "lora_dropout": 0.2, "weight_decay": 0.1, "lr": 3e-3,
    "merge_lora": False,
}  # fmt: skip
_CUT = 3


@contextmanager
def kept_at_pass(number: int, output: Path, copy: Path) -> Iterator[None]:
    """Within it, a run's folder is copied when its n-th micro-batch begins: what a kill would then leave.

    Of several processes the one that writes makes the copy; the others wait for it in their next collective.
    """
    originals = {kind: kind.__dict__["micro_batch"] for kind in (wrap.Wrapped, wrap.Sharded)}
    passes = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def micro_batch(self: Any, batch: Any, scale: float, last: bool) -> Any:
            nonlocal passes
            passes += 1
            if passes == number and os.environ.get("RANK", "0") == "0":
                shutil.copytree(output, copy)
            return original(self, batch, scale, last)

        return micro_batch

    with pytest.MonkeyPatch.context() as patch:
        for kind, original in originals.items():
            patch.setattr(kind, "micro_batch", counted(original))
        yield


def whole_and_resumed(
    train: Callable[[TrainSettings], None],
    model: Path,
    data: Path,
    folder: Path,
    options: Mapping[str, Any],
) -> None:
    """Leave ``folder/whole`` and ``folder/resumed``: a run, and one gone on with from its middle."""
    values = {**_RUN, **options}
    whole, resumed = folder / "whole", folder / "resumed"
    with kept_at_pass(_CUT, whole, resumed):
        train(run_settings(model, data, whole, **values))
    assert not (resumed / "final").exists()
    assert [path.name for path in resumed.glob("checkpoint-*")] == ["checkpoint-2"]
    train(run_settings(model, data, resumed, **values, resume_from_checkpoint="true"))


def work(cases: Path, folder: Path) -> None:
    """One process's part of all cases, one after the other in one process group."""
    from mdl_toolkit.distributed.group import joined
    from mdl_toolkit.distributed.launch import read_launch

    with joined(read_launch()) as ranks, pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "joined", lambda *_: nullcontext(ranks))  # the group is there already
        for name, case in json.loads(cases.read_text()).items():
            output = folder / name
            whole_and_resumed(run.train, Path(case["model"]), Path(case["data"]), output, case["options"])
            ranks.barrier()
            if ranks.is_main:  # what the comparison doesn't need
                for each in ("whole", "resumed"):
                    shutil.rmtree(output / each / "checkpoint-2")
            ranks.barrier()


if __name__ == "__main__":
    from mdl_toolkit.distributed.failure import leave_group

    try:
        work(Path(sys.argv[1]), Path(sys.argv[2]))
    finally:
        leave_group()
