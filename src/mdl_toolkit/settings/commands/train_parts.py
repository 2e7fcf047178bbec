"""Options of ``train`` that say what is trained."""

from __future__ import annotations

from dataclasses import dataclass

from mdl_toolkit.settings.options import Settings, option

TRAIN_TARGETS = ("encoder", "projector", "decoder", "embed_tokens", "lm_head")


@dataclass(kw_only=True)
class TrainedPartsOptions(Settings):
    """What of the model is trained, and how."""

    method: str = option(
        "lora",
        "lora: train small adapters, which needs less memory; full: train every weight of the chosen parts.",
        group="what is trained",
        choices=("lora", "full"),
        resume="same",
        hosts="same",
    )
    train_target: list[str] = option(
        factory=lambda: ["encoder", "projector", "decoder"],
        help="Part of the model to train; repeat it for several. embed_tokens and lm_head are trained in "
        "full.",
        group="what is trained",
        choices=TRAIN_TARGETS,
        resume="same",
        hosts="same",
    )
    lora_rank: int = option(
        32,
        "Rank of the LoRA adapters; a higher one can learn more and needs more memory.",
        group="what is trained",
        low=1,
        resume="same",
        hosts="same",
        goes_with="--method lora",
    )
    lora_alpha: int = option(
        32,
        "Scale of the LoRA adapters, which is alpha/rank; change it together with --lora-rank.",
        group="what is trained",
        low=1,
        resume="same",
        hosts="same",
        goes_with="--method lora",
    )
    lora_dropout: float = option(
        0.0,
        "Dropout probability at the inputs of the adapters; raise it (0.05, 0.1) against overfitting.",
        group="what is trained",
        low=0,
        high=0.999,
        resume="warn",
        hosts="same",
        goes_with="--method lora",
    )
    lora_attention: bool = option(
        False,
        "LoRA on the decoder's attention too, not only on its MLP; slower, and no better where we "
        "measured it.",
        group="what is trained",
        resume="same",
        hosts="same",
        goes_with="--method lora",
    )
    rslora: bool = option(
        False,
        "Scale the adapters by alpha/sqrt(rank) (rsLoRA); made for high ranks.",
        group="what is trained",
        resume="same",
        hosts="same",
        goes_with="--method lora",
    )
    dora: bool = option(
        False,
        "Split the adapters' updates into size and direction (DoRA): slower, sometimes more accurate.",
        group="what is trained",
        resume="same",
        hosts="same",
        goes_with="--method lora",
    )
