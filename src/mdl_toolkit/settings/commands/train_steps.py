"""Options of ``train`` that say how it learns: steps, learning rate, batches."""

from __future__ import annotations

from dataclasses import dataclass

from mdl_toolkit.settings.options import Settings, option


@dataclass(kw_only=True)
class OptimisationOptions(Settings):
    """How the model learns."""

    lr: float = option(
        1e-4,
        "Peak learning rate; lower it if the loss jumps or grows.",
        group="optimisation",
        above=0,
        resume="warn",
        hosts="same",
    )
    lr_scheduler: str = option(
        "linear",
        "Learning rate after the warm-up: falls in a straight line, falls along a cosine, or stays constant.",
        group="optimisation",
        choices=("linear", "cosine", "constant"),
        resume="warn",
        hosts="same",
    )
    warmup_steps: int = option(
        0,
        "Steps in which the learning rate rises from 0 to --lr.",
        group="optimisation",
        low=0,
        resume="warn",
        hosts="same",
    )
    warmup_ratio: float | None = option(
        None,
        "Length of the warm-up as a share of all steps (0.1: a tenth); instead of --warmup-steps.",
        group="optimisation",
        low=0,
        high=1,
        resume="warn",
        hosts="same",
    )
    weight_decay: float = option(
        0.0,
        "Weight decay of the AdamW optimizer; 0 turns it off.",
        group="optimisation",
        low=0,
        resume="warn",
        hosts="same",
    )
    max_grad_norm: float = option(
        1.0,
        "Scale a step's gradient down to this norm if it is larger; 0 turns clipping off.",
        group="optimisation",
        low=0,
        resume="warn",
        hosts="same",
    )
    num_epochs: float = option(
        1.0,
        "Passes over the training data; 0.5 is half a pass.",
        group="optimisation",
        above=0,
        resume="warn",
        hosts="same",
    )
    max_steps: int | None = option(
        None,
        "Steps to train, in as many passes over the data as that takes; replaces --num-epochs.",
        group="optimisation",
        low=1,
        resume="warn",
        hosts="same",
    )
    batch_size: int = option(
        8,
        "Clips in a micro-batch of one device; lower it if memory runs out.",
        group="optimisation",
        low=1,
        resume="warn",
        hosts="same",
    )
    max_tokens: int | None = option(
        None,
        "Decoder tokens in a micro-batch of one device; replaces --batch-size, for clips of very "
        "different lengths.",
        group="optimisation",
        low=1,
        resume="warn",
        hosts="same",
    )
    gradient_accumulation_steps: int = option(
        1,
        "Micro-batches of each device in one step; raise it for larger batches in the same memory.",
        group="optimisation",
        low=1,
        resume="warn",
        hosts="same",
    )
    overfit: int | None = option(
        None,
        "Only find out whether this set-up can learn: learn N rows by heart and generate their answers; "
        "saves nothing.",
        group="optimisation",
        metavar="N",
        low=1,
        resume="free",
        hosts="same",
    )
    seed: int = option(
        42,
        "Random seed for the order of the data, new adapters and dropout.",
        group="optimisation",
        low=0,
        resume="warn",
        hosts="same",
    )
    on_nonfinite: str = option(
        "stop",
        "If a loss or gradient is NaN or infinite: stop before the update, or skip that update and go on.",
        group="optimisation",
        choices=("stop", "skip"),
        resume="free",
        hosts="same",
    )
