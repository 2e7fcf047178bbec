"""The decoder's last layer, which may compute for the positions that anyone reads only.

Above the last attention no position sees another, and of most positions nothing is read: those of the prompt
and the audio in training, all but the last of a prompt in generation.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from mdl_toolkit.model.kernels.attention import Packing


class LastLayer(nn.Module):
    """Mixed into the library's layers: pre-norm attention, then pre-norm MLP."""

    self_attn: nn.Module
    mlp: nn.Module
    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module

    def forward(
        self, hidden_states: Tensor, *args: Any, packing: Packing | None = None, **kwargs: Any
    ) -> Any:
        """``hidden_states`` [1, T, H] → [1, T, H], or [1, N, H] where the packing keeps N positions."""
        if packing is None or packing.keep_rows is None:
            return super().forward(hidden_states, *args, packing=packing, **kwargs)
        normed = self.input_layernorm(hidden_states)
        attended, _ = self.self_attn(hidden_states=normed, packing=packing, **kwargs)
        kept: Tensor = (hidden_states + attended).index_select(1, packing.keep_rows)
        return kept + self.mlp(self.post_attention_layernorm(kept))


class Qwen2DecoderLayer(LastLayer, qwen2.Qwen2DecoderLayer):  # type: ignore[misc]
    """Qwen2's. The library goes by the names of classes (``_no_split_modules``): this is one of them."""


class Qwen3DecoderLayer(LastLayer, qwen3.Qwen3DecoderLayer):  # type: ignore[misc]
    """Qwen3's."""


_LAST = {qwen2.Qwen2DecoderLayer: Qwen2DecoderLayer, qwen3.Qwen3DecoderLayer: Qwen3DecoderLayer}


def make_last(layer: nn.Module) -> None:
    """Let a layer of the library's heed ``Packing.keep_rows``; it keeps its weights and its class's name."""
    layer.__class__ = _LAST[type(layer)]
