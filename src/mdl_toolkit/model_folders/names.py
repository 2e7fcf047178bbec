"""Names of tensors: as published, as PEFT and wrappers have them in a model, and the part each belongs to."""

from __future__ import annotations

from typing import Any

EMBEDDINGS, HEAD = "decoder.model.embed_tokens.weight", "decoder.lm_head.weight"
#: What PEFT puts before the names in ``adapter_model.safetensors``.
PEFT_PREFIX = "base_model.model."
#: Adapters' tensors by the names that they have behind their module's; DoRA's magnitudes are no ``weight``.
LORA_PARTS = {
    "lora_A": ".lora_A.weight", "lora_B": ".lora_B.weight", "lora_magnitude_vector": ".lora_magnitude_vector"
}  # fmt: skip


def published_name(name: str, adapter: str = "default") -> str:
    """The name that a parameter has on disk: PEFT's and the wrappers' own levels taken out.

    Args:
        name: As the model has it.
        adapter: PEFT's name of the adapter.
    """
    name = name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".").replace("_orig_mod.", "")
    name = name.replace(f".modules_to_save.{adapter}", "")
    if is_adapter(name):
        name = name.replace(f".lora_magnitude_vector.{adapter}.weight", ".lora_magnitude_vector")
        name = name.replace(f".{adapter}.weight", ".weight")
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


def is_tied(config: Any) -> bool:
    """Whether the head and embeddings of a model of this configuration are one tensor."""
    text = getattr(config, "text_config", None)
    return bool(getattr(text, "tie_word_embeddings", False))
