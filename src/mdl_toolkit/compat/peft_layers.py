"""The inside of PEFT's LoRA layers, and how PEFT finds quantised models."""

from __future__ import annotations

from typing import Any

from torch import nn

#: What our own forward of a LoRA layer reads of it.
_READ = (
    "base_layer", "lora_A", "lora_B", "lora_dropout", "lora_magnitude_vector", "lora_variant", "scaling",
    "active_adapters", "disable_adapters", "merged", "merge", "unmerge",
)  # fmt: skip


def is_lora_layer(module: Any, adapter: str) -> bool:
    """Whether a module is a LoRA layer with an adapter of this name.

    ``isinstance`` of PEFT's public ``LoraLayer`` doesn't say which adapters a layer has.
    """
    return hasattr(module, "lora_A") and adapter in module.lora_A


def has_expected_parts(layer: Any, adapter: str) -> bool:
    """Whether a LoRA layer has all that our own forward reads of it.

    The names are those of PEFT's ``LoraLayer``, of which its documents describe some. The public way is
    PEFT's own forward, which converts activations to float32 and, for DoRA, multiplies the adapter out
    (1.4 GB in the 7B model). Fall-back of the caller: PEFT's own forward.
    """
    if not all(hasattr(layer, name) for name in _READ):
        return False
    variants = (None, "DoraLinearVariant")
    return (
        hasattr(layer.lora_A[adapter], "weight")
        and hasattr(layer.lora_B[adapter], "weight")
        and _name_of(layer.lora_variant.get(adapter)) in variants
    )


def mark_as_quantized(model: nn.Module, kind: str) -> None:
    """Let PEFT take its layers for quantised weights: it asks the model for ``is_loaded_in_8bit`` or 4bit.

    transformers' loading sets this where it has quantised a model; for a model that was quantised otherwise
    there is no public way. Where PEFT asks for something else, it adapts the layers as plain ones, and
    :func:`mdl_toolkit.model_folders.load.attach_adapter` or the first step fails.
    """
    setattr(model, f"is_loaded_in_{kind}", True)


def _name_of(variant: Any) -> str | None:
    return None if variant is None else type(variant).__name__
