"""Model FLOPs of a training step: what the model's arithmetic needs, whatever the code spends beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from mdl_toolkit.data.batching.balance import count_patches
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.model_folders.names import is_adapter, is_in_last_mlp, part_of
from mdl_toolkit.model_shape import ModelShape

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
        shape: ModelShape = config.shape
        self._geometry = geometry
        # Multiply-adds per position of the linear layers, by part.
        self._linear = {
            "encoder": shape.encoder_weights,
            "projector": shape.projector_weights,
            "decoder": shape.layers * shape.attention_weights + (shape.layers - 1) * shape.mlp_weights,
            _LAST: shape.mlp_weights,
            "lm_head": shape.head_weights,
        }
        self._patch_embedding = shape.patch_embedding
        self._encoder_attention, self._decoder_attention = shape.patch_pair, shape.token_pair
        self._adapters = dict.fromkeys(self._linear, 0)
        for name, tensor in trainable.items():
            if is_adapter(name) and tensor.ndim == 2:
                last = is_in_last_mlp(name, shape.layers)
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
        patches, patch_pairs = count_patches(samples, self._geometry)
        positions = {
            "encoder": int(patches.sum()),
            "projector": int(np.maximum(1, patches // self._geometry.subsample_factor).sum()),
            "decoder": int(tokens.sum()),
            _LAST: supervised,
            "lm_head": supervised,
        }
        attention = {
            "encoder": self._encoder_attention * float(patch_pairs.sum()),
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
