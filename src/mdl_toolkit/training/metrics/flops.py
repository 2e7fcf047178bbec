"""Model FLOPs of a training step: what the model's arithmetic needs, whatever the code spends beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.model_folders.names import is_adapter, part_of

Counts = np.ndarray[Any, np.dtype[np.int64]]

#: The last layer's MLP, which only supervised positions need.
_LAST = "decoder's last MLP"


class FlopCounter:
    """Counts the floating point operations of forward and backward passes (a multiply-add is two).

    The backward pass through a layer costs its forward pass again where only gradients of its inputs are
    needed (adapters, and frozen parts above a trained one), and twice where its own weights are trained in
    full. Parts below everything trained have no backward pass. Recomputation for activation checkpointing
    doesn't count.

    Args:
        config: The model's configuration.
        trainable: What is trained, by published name.
        geometry: Samples to patches.
    """

    def __init__(self, config: Any, trainable: Mapping[str, Tensor], geometry: AudioGeometry) -> None:
        audio, text = config.audio_encoder_config, config.text_config
        self._geometry = geometry
        width, hidden = audio.embed_dim, text.hidden_size
        head_dim = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
        queries, keys = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim
        subsampled = config.subsample_factor * width
        # Multiply-adds per position of the linear layers, by part.
        self._linear = {
            "encoder": audio.depth * (4 + 2 * audio.mlp_ratio) * width**2,
            "projector": subsampled * hidden + hidden**2,
            "decoder": text.num_hidden_layers * (2 * hidden * queries + 2 * hidden * keys)
            + (text.num_hidden_layers - 1) * 3 * hidden * text.intermediate_size,
            _LAST: 3 * hidden * text.intermediate_size,
            "lm_head": hidden * text.vocab_size,
        }
        self._patch_embedding = audio.n_mels * geometry.patch_frames * width
        self._encoder_attention = 2 * audio.depth * width
        self._decoder_attention = text.num_hidden_layers * queries  # half of all pairs: causal
        self._adapters = dict.fromkeys(self._linear, 0)
        for name, tensor in trainable.items():
            if is_adapter(name) and tensor.ndim == 2:
                last = f".layers.{text.num_hidden_layers - 1}.mlp." in name
                self._adapters[_LAST if last else part_of(name)] += tensor.numel()
        self._passes = _passes(
            {part_of(n) for n in trainable}, {part_of(n) for n in trainable if not is_adapter(n)}
        )
        self._passes[_LAST] = self._passes["decoder"]

    def step(self, tokens: Counts, samples: Counts, supervised: int) -> float:
        """Operations of one step.

        Args:
            tokens: Decoder tokens of each clip.
            samples: Audio samples of each clip.
            supervised: Supervised tokens of all.
        """
        patches = self._patches(samples)
        chunk = self._geometry.chunk_patches
        full, rest = patches // chunk, patches % chunk
        positions = {
            "encoder": int(patches.sum()),
            "projector": int(np.maximum(1, patches // self._geometry.subsample_factor).sum()),
            "decoder": int(tokens.sum()),
            _LAST: supervised,
            "lm_head": supervised,
        }
        attention = {
            "encoder": self._encoder_attention * float((full * chunk**2 + rest**2).sum()),
            "decoder": self._decoder_attention * float((tokens.astype(np.float64) ** 2).sum()),
        }
        # Nothing is below the patch embedding, so it has no gradient of its inputs.
        total = float(self._patch_embedding * positions["encoder"] * (1 + self._passes["encoder"][1]))
        for part, count in positions.items():
            forward_and_inputs, weights = self._passes[part]
            total += count * self._linear[part] * (forward_and_inputs + weights)
            total += attention.get(part, 0.0) * forward_and_inputs
            total += count * self._adapters[part] * 3
        return 2 * total

    def _patches(self, samples: Counts) -> Counts:
        g = self._geometry
        return (1 + np.maximum(samples, g.min_samples) // g.hop_length) // g.patch_frames


def _passes(trained: Iterable[str], in_full: Iterable[str]) -> dict[str, tuple[int, int]]:
    """By part: forward and input-gradient passes together (1 or 2), and weight-gradient passes (0 or 1)."""
    trained, in_full = set(trained), set(in_full)
    below: dict[str, set[str]] = {
        "encoder": {"encoder"},
        "projector": {"encoder", "projector"},
        "decoder": {"encoder", "projector", "decoder", "embed_tokens"},
        "lm_head": {"encoder", "projector", "decoder", "embed_tokens", "lm_head"},
    }
    return {part: (2 if trained & parts else 1, int(part in in_full)) for part, parts in below.items()}
