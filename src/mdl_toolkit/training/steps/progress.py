"""How far a run has come: what its steps add to, and what a checkpoint keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from mdl_toolkit.training.batches.order import DataPosition
from mdl_toolkit.training.steps.standing import Standing

_COUNTED = ("tokens", "supervised_tokens", "audio_tokens", "clips", "skipped", "flops", "loss")


@dataclass
class RunProgress:
    """How far a run has come.

    Attributes:
        step: The number of optimizer steps made.
        position: Where in the data the next step begins.
        counts: Sums over the run since its first step, also where it was resumed.
        seconds: The time spent in steps.
        standing: How the evaluations stand that choose ``best/`` and may end the run early.
    """

    step: int = 0
    position: DataPosition = field(default_factory=DataPosition)
    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0.0))
    seconds: float = 0.0
    standing: Standing = field(default_factory=Standing)
