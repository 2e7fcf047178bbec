"""Options that the user has left open, filled in from the config of ``accelerate launch``."""

from __future__ import annotations

from typing import Any

from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import with_defaults
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)


def fit_to_launcher(settings: TrainSettings, launch: Launch) -> TrainSettings:
    """Fill in precision and gradient checkpointing, and warn where options and the config disagree.

    Sharding is decided later, by :func:`choose_sharding`, but a config that can't be followed is refused
    here, before anything costly.

    Raises:
        SettingsError: Where the config's sharding doesn't go with the options.
    """
    for remark in launch.remarks:
        logger.warning(f"accelerate config: {remark}")
    if settings.sharding == "auto" and settings.quantization and launch.sharding in ("full", "hybrid"):
        raise SettingsError(
            [
                f"--quantization does not go with the sharding of the accelerate config ({launch.sharding}): "
                "quantised weights can't be sharded; use a MULTI_GPU config"
            ]
        )
    changes: dict[str, Any] = {}
    if settings.bf16 is None and launch.bf16:
        changes["bf16"] = True
    elif settings.bf16 is False and launch.bf16:
        logger.warning("accelerate config: mixed_precision is bf16, but --bf16 false counts")
    if settings.gradient_checkpointing == "auto" and launch.checkpointing:
        changes["gradient_checkpointing"] = True
    steps = settings.gradient_accumulation_steps
    if launch.accumulation not in (None, 1, steps):
        logger.warning(
            f"accelerate config: gradient_accumulation_steps is {launch.accumulation}, but "
            f"--gradient-accumulation-steps {steps} counts"
        )
    if launch.clipping is not None and launch.clipping != settings.max_grad_norm:
        logger.warning(
            f"accelerate config: gradient_clipping is {launch.clipping:g}, but --max-grad-norm "
            f"{settings.max_grad_norm:g} counts"
        )
    if launch.world_size == 1 and settings.sharding not in ("auto", "none"):
        logger.warning(
            f"--sharding {settings.sharding} needs several processes; this one has nothing to share with"
        )
    return with_defaults(settings, **changes)


def choose_sharding(settings: TrainSettings, launch: Launch) -> TrainSettings:
    """Decide on ``--sharding auto``: as the config asks, as far as it means something for this training.

    Args:
        settings: The settings, in which the method of training is decided.
        launch: What the launcher asks for.

    Returns:
        A copy in which ``sharding`` is no longer ``auto``.
    """
    sharding = settings.sharding
    if sharding == "auto":
        sharding = launch.sharding or "none"
        if sharding == "optimizer" and settings.method == "lora":
            # Only gradients and optimizer state of the adapters would be sharded, a few hundred MB, at the
            # price of gathering every frozen weight: replication is what the config means for memory, and
            # faster.
            sharding = "none"
    return with_defaults(settings, sharding="none" if launch.world_size == 1 else sharding)
