"""Names of tensors: as published, as PEFT and wrappers have them in a model, and the part each belongs to.

This is the one place that knows them. No torch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

EMBEDDINGS, HEAD = "decoder.model.embed_tokens.weight", "decoder.lm_head.weight"
#: What the decoder's names begin with in the whole model.
DECODER = "decoder."
#: Recomputed constants that some published checkpoints carry; they are no weights.
FRONT_END_CONSTANTS = frozenset(
    {"audio_encoder.front_end.0.mel_scale.fb", "audio_encoder.front_end.0.spectrogram.window"}
)
_NORMALISER = "audio_encoder.init_bn."
_FRONT_END = ("audio_encoder.front_end.", _NORMALISER)
#: PEFT's name of the one adapter in a model.
ADAPTER = "default"
#: What PEFT puts before the names in ``adapter_model.safetensors``.
PEFT_PREFIX = "base_model.model."
#: Adapters' tensors by the names that they have behind their module's; DoRA's magnitudes are no ``weight``.
LORA_PARTS = {
    "lora_A": ".lora_A.weight", "lora_B": ".lora_B.weight", "lora_magnitude_vector": ".lora_magnitude_vector"
}  # fmt: skip
#: The linear layers that get adapters, by the part of the model that ``--train-target`` names.
_ADAPTED = {
    "encoder": r"audio_encoder\.blocks\.\d+\.attn\.(qkv|proj)",
    "projector": r"audio_projector\.net\.(0|2)",
    "decoder": r"decoder\.model\.layers\.\d+\.mlp\.(gate_proj|up_proj|down_proj)",
}
# Upstream's pattern names the decoder's attention too but never matches it; `--lora-attention` does.
_ADAPTED_ATTENTION = r"decoder\.model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
#: Parts that adapters don't exist for: ``--method lora`` trains them in full.
_TABLES = frozenset({"embed_tokens", "lm_head"})


def published_name(name: str) -> str:
    """The name that a parameter has on disk, without the levels that PEFT and ``torch.compile`` put into it.

    FSDP2 leaves names as they are. The adapter's name in PEFT is :data:`ADAPTER`.

    Args:
        name: The name in the model.
    """
    name = name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".").replace("_orig_mod.", "")
    name = name.replace(f".modules_to_save.{ADAPTER}", "")
    if is_adapter(name):
        name = name.replace(f".lora_magnitude_vector.{ADAPTER}.weight", ".lora_magnitude_vector")
        name = name.replace(f".{ADAPTER}.weight", ".weight")
    return name


def is_adapter(name: str) -> bool:
    """Whether a tensor belongs to an adapter rather than to the base model."""
    return ".lora_" in name


def split_adapter(name: str) -> tuple[str, str] | None:
    """``x.lora_A.weight`` to ``(x, lora_A)``; ``None`` for a tensor that is no part of a LoRA layer."""
    stem = name.removesuffix(".weight")  # others write magnitudes with it
    for part in LORA_PARTS:
        if stem.endswith(f".{part}"):
            return stem.removesuffix(f".{part}"), part
    return None


def part_of(name: str) -> str:
    """The ``--train-target`` that a tensor belongs to. An adapter belongs to the part that it sits in."""
    if name.startswith("audio_encoder."):
        return "encoder"
    if name.startswith("audio_projector."):
        return "projector"
    return {EMBEDDINGS: "embed_tokens", HEAD: "lm_head"}.get(name, "decoder")


def is_front_end(name: str) -> bool:
    """Whether a tensor belongs to the audio front end, which is never trained and float32 always."""
    return name.startswith(_FRONT_END)


def is_statistic(name: str) -> bool:
    """Whether a tensor is a running statistic of the front end's normaliser: a buffer, no parameter."""
    return name.startswith(_NORMALISER) and name.rpartition(".")[2] not in ("weight", "bias")


def is_in_last_mlp(name: str, layers: int) -> bool:
    """Whether a tensor belongs to the MLP of the last of the decoder's ``layers``."""
    return f".layers.{layers - 1}.mlp." in name


def adapted_layers(parts: Collection[str], *, attention: bool) -> str | None:
    """Which linear layers get adapters.

    Args:
        parts: Parts of the model (``--train-target``).
        attention: Whether the decoder's attention gets them too.

    Returns:
        A pattern that the layers' names match as a whole; ``None`` where there are none.
    """
    patterns = [pattern for part, pattern in _ADAPTED.items() if part in parts]
    if attention and "decoder" in parts:
        patterns.append(_ADAPTED_ATTENTION)
    return "|".join(patterns) or None


def parts_in_full(parts: Collection[str], *, adapters: bool, tied: bool) -> set[str]:
    """Which parts have their own weights trained.

    Args:
        parts: Parts of the model (``--train-target``).
        adapters: Whether linear layers are trained by adapters (``--method lora``).
        tied: Whether head and embeddings are one tensor, which either of their names trains.
    """
    chosen = set(parts) & _TABLES if adapters else set(parts)
    return chosen | {"embed_tokens"} if tied and "lm_head" in chosen else chosen


def is_tied(config: Any) -> bool:
    """Whether the head and embeddings of a model of this configuration are one tensor."""
    text = getattr(config, "text_config", None)
    return bool(getattr(text, "tie_word_embeddings", False))


def tied_twins(name: str) -> tuple[str, ...]:
    """The names of a tensor in a model whose head and embeddings are one: both of that one, or its own."""
    return (EMBEDDINGS, HEAD) if name in (EMBEDDINGS, HEAD) else (name,)
