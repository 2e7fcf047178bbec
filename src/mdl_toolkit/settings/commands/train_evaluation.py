"""Options of ``train`` that say how the model is evaluated meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from mdl_toolkit.settings.options import Settings, option


@dataclass(kw_only=True)
class EvaluationOptions(Settings):
    """How the model is evaluated while it is trained."""

    eval_dataset: list[str] | str | None = option(
        None,
        "Held-out data to measure the loss on during training. Repeat it for several sets, each by its name.",
        group="data",
        metavar="[NAME=]PATH",
        commas=False,
        resume="derived",
        hosts="derived",
    )
    eval_steps: float = option(
        500,
        "Steps between evaluations; a value below 1 is a share of the training (0.1: ten evaluations).",
        group="evaluation",
        above=0,
        resume="free",
        hosts="same",
        goes_with="--eval-dataset",
    )
    eval_batch_size: int | None = option(
        None,
        "Clips on one device at a time in evaluation; --batch-size if not given.",
        group="evaluation",
        low=1,
        resume="free",
        hosts="same",
        goes_with="--eval-dataset",
    )
    eval_accumulation_steps: int | None = option(
        None,
        "No effect; accepted so that scripts for 0.1.0 still run.",
        group="evaluation",
        low=1,
        resume="free",
        hosts="free",
    )
