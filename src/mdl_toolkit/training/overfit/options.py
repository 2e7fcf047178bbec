"""What ``--overfit`` changes in the options of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import flag, given_names, with_defaults
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.defaults import SMALL_RATES, is_small

logger = get_logger(__name__)

#: Steps after which a set-up that has learned nothing yet is given up.
MAX_STEPS = 300
#: Few steps are made, of few rows: they may be larger than those of a run, whose rate is made for much data.
_LORA_RATE, _FULL_RATE = 5e-4, 3e-5
_WARMUP = 10


def without_output(settings: TrainSettings) -> TrainSettings:
    """The settings without what writes to OUTPUT or reads what a run has left there."""
    if settings.overfit is None:
        return settings
    return with_defaults(settings, eval_dataset=None, report_to=[], resume_from_checkpoint=None)


def fit_to_rows(settings: TrainSettings, model_folder: Path, launch: Launch, rows: int) -> TrainSettings:
    """Choose what is left open for learning a few rows by heart, and print it. Given options stay.

    A step has all the rows, as far as they fit: what doesn't fit into ``--batch-size`` of all processes is
    taken in several micro-batches.

    Args:
        settings: The settings, with the defaults of the base.
        model_folder: The folder of the base model.
        launch: How this process was launched.
        rows: The number of rows.
    """
    given = given_names(settings)
    each = -(-rows // launch.world_size)
    chosen: dict[str, Any] = {
        "max_steps": MAX_STEPS,
        "lr_scheduler": "constant",
        "lr": usual_rate(settings, model_folder),
    }
    if not given & {"warmup_steps", "warmup_ratio"}:
        chosen |= {"warmup_steps": _WARMUP, "warmup_ratio": None}
    if settings.max_tokens is None:
        batch = settings.batch_size if "batch_size" in given else min(each, settings.batch_size)
        chosen |= {"batch_size": batch, "gradient_accumulation_steps": -(-each // batch)}
    kept = {name: value for name, value in chosen.items() if name not in given}
    settings = with_defaults(settings, **kept)
    shown = ("lr", "max_steps", "lr_scheduler", "warmup_steps", "batch_size", "gradient_accumulation_steps")
    words = " ".join(f"{flag(name)} {_typed(getattr(settings, name))}" for name in shown)
    logger.info(f"learning {rows} {'row' if rows == 1 else 'rows'} by heart with {words}")
    return settings


def usual_rate(settings: TrainSettings, model_folder: Path) -> float:
    """A learning rate that suits the base and the method for few steps, whichever is set."""
    if is_small(model_folder):
        return SMALL_RATES[settings.method]
    return _LORA_RATE if settings.method == "lora" else _FULL_RATE


def _typed(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
