"""Which layers get adapters: patterns of module names, without a model. No torch."""

from __future__ import annotations

from mdl_toolkit.settings import TrainSettings

# Upstream's pattern names the decoder's attention too but never matches it; `lora_attention` does.
_LORA_TARGETS = {
    "encoder": r"audio_encoder\.blocks\.\d+\.attn\.(qkv|proj)",
    "projector": r"audio_projector\.net\.(0|2)",
    "decoder": r"decoder\.model\.layers\.\d+\.mlp\.(gate_proj|up_proj|down_proj)",
}
_LORA_ATTENTION = r"decoder\.model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"


def lora_target_modules(settings: TrainSettings) -> str | None:
    """A pattern that the names of adapted layers match as a whole; ``None`` where there are none."""
    patterns = [pattern for part, pattern in _LORA_TARGETS.items() if part in settings.train_target]
    if settings.lora_attention and "decoder" in settings.train_target:
        patterns.append(_LORA_ATTENTION)
    return "|".join(patterns) if patterns and settings.method == "lora" else None
