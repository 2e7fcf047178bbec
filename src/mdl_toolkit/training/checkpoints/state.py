"""The state of a run as a checkpoint keeps it, and the names of what a run writes into its output folder.

There is no random state to keep: dropout is seeded by step and micro-batch (``training/steps/loop.py``), and
the order of the data by seed and epoch (``data/batching/plan.py``).
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import ModelError
from mdl_toolkit.files import write_json
from mdl_toolkit.training.steps.standing import Standing

#: Files of a checkpoint, besides the trained tensors and what describes their base.
OPTIMIZER, RUN_STATE, COMPLETE = "optimizer.safetensors", "run_state.json", "complete.json"
#: The folder of the tuned model, and that of the model of the best evaluation.
FINAL, BEST = "final", "best"
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands after a step, and what it is: enough to resume it exactly and to refuse another.

    Attributes:
        step: The number of optimizer steps made.
        epoch: The epoch of the next step, counted from 0.
        first_sample: The position in that epoch's stream at which the next step begins.
        schedule_position: The position of the next step in the schedule of the learning rate. It isn't
            ``step`` where the number of processes has changed on the way.
        schedule_total: The length of that schedule.
        counts: Sums over the run: tokens, supervised_tokens, audio_tokens, clips, skipped steps, flops.
        seconds: The time spent in steps.
        world_size: The number of processes of the run that saved it.
        dataset: The fingerprint of the training data.
        eval_dataset: The fingerprint of the evaluation data.
        model: The fingerprint of the base model.
        options: The settings of the run.
        versions: The versions of the packages that made it.
        run: The id of the run that saved it (``record.py``); ``None`` in checkpoints from before there was
            one.
        standing: How the evaluations stand; empty in checkpoints from before there was one.
    """

    step: int
    epoch: int
    first_sample: int
    schedule_position: float
    schedule_total: int
    counts: dict[str, float]
    seconds: float
    world_size: int
    dataset: str
    eval_dataset: str | None
    model: str
    options: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    run: str | None = None
    standing: Standing = field(default_factory=Standing)

    @classmethod
    def read(cls, folder: Path) -> RunState:
        """The state of a checkpoint.

        Raises:
            ModelError: The file is missing, or isn't the state of a run.
        """
        path = folder / RUN_STATE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {f.name: values[f.name] for f in fields(cls) if f.name not in ("run", "standing")}
            return cls(**known, run=values.get("run"), standing=Standing.of(values.get("standing")))
        except OSError as error:
            raise ModelError(f"{path} can't be read: {error.strerror}; is {folder} a checkpoint?") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not the state of a run ({type(error).__name__}: {error})") from None

    @classmethod
    def run_of(cls, folder: Path) -> str | None:
        """The id of the run that saved a checkpoint; ``None`` where it has none, or can't be read."""
        try:
            return cls.read(folder).run
        except ModelError:
            return None

    def write(self, folder: Path) -> None:
        """Write the state into the folder of a checkpoint."""
        write_json(folder / RUN_STATE, asdict(self))


def checkpoints(output: Path) -> list[Path]:
    """The folders of a run that are named ``checkpoint-N``, oldest first."""
    if not output.is_dir():
        return []
    found = [path for path in output.iterdir() if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """N of ``checkpoint-N``; −1 for a folder of another name."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1
