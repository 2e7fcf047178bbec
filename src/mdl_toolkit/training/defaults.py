"""Defaults that depend on the size of the base model.

The defaults of the command line are those of the public 0.1.0, made for the 7B model: one pass over the data,
LoRA on three parts, a learning rate of 1e-4. A base of a few million weights learns nothing by them. It knows
few of the words that users train it to answer with, and it has little knowledge to lose. So all of it is
trained, at a higher learning rate and in more passes. On 200 spoken digits (150 others to be tested with) and
200 synthetic sounds (96), full training gives 0.82 and 0.99, adapters with embeddings and head 0.74 and 1.00
(at 3e-3); 20 passes give no more.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mdl_toolkit.model_folders.tensorfiles.headers import base_tensors
from mdl_toolkit.settings import TRAIN_TARGETS, TrainSettings
from mdl_toolkit.settings.options import flag, given_names, options_where, with_defaults
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

#: Bases with fewer weights are small. The smallest published MiDashengLM has 0.6 billion in its decoder.
SMALL = 100_000_000

#: Learning rates of small bases, by method: adapters take larger steps than the weights themselves.
SMALL_RATES = {"full": 1e-3, "lora": 3e-3}
_FULL: dict[str, Any] = {
    "method": "full",
    "train_target": list(TRAIN_TARGETS),
    "lr": SMALL_RATES["full"],
    "num_epochs": 12.0,
    "warmup_ratio": 0.1,
}
_LORA = {**_FULL, "method": "lora", "lr": SMALL_RATES["lora"]}
#: Options that replace another: where the second is given, the first keeps its value.
_INSTEAD = {"num_epochs": "max_steps", "warmup_ratio": "warmup_steps"}


def fit_to_base(settings: TrainSettings, folder: Path) -> TrainSettings:
    """Replace defaults by those that suit the size of the base, and print them. Given options stay.

    Args:
        settings: The settings of the run.
        folder: The folder of the base model.

    Returns:
        The same settings for a base of :data:`SMALL` weights or more.
    """
    count = _weights(folder)
    if count is None or count >= SMALL:
        return settings  # a folder without weights is refused later, with the reason
    there = given_names(settings)
    of_lora = options_where(TrainSettings, goes_with="--method lora")
    method = settings.method if "method" in there else "lora" if there & {*of_lora} else "full"
    chosen = {
        name: value
        for name, value in (_FULL if method == "full" else _LORA).items()
        if name not in there and _INSTEAD.get(name, name) not in there and value != getattr(settings, name)
    }
    if not chosen:
        return settings
    words = " ".join(f"{flag(name)} {_typed(value)}" for name, value in chosen.items())
    logger.info(f"a small base ({count / 1e6:.1f} million weights), so the defaults are {words}")
    return with_defaults(settings, **chosen)


def is_small(folder: Path) -> bool:
    """Whether a base has fewer weights than :data:`SMALL`."""
    count = _weights(folder)
    return count is not None and count < SMALL


def _weights(folder: Path) -> int | None:
    tensors = base_tensors(folder)
    return None if tensors is None else sum(math.prod(tensor.shape) for tensor in tensors.values())


def _typed(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
