"""The decoder's last layer, which may compute only the positions that anyone reads.

Above the last attention no position sees another, and of most positions nothing is read: those of the prompt
and the audio in training, all but the last of a prompt in generation.

Dimensions: T tokens of all rows end to end, N positions that are kept, H decoder width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mdl_toolkit.compat.torch_modules import extend
from mdl_toolkit.compat.transformers_decoder import is_prenorm_layer
from mdl_toolkit.model.kernels.attention import Packing


class LastLayer(nn.Module):
    """The forward of a last layer, put before transformers' own: pre-norm attention, then pre-norm MLP."""

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


def make_last(layer: nn.Module) -> None:
    """Let a layer of transformers' heed ``Packing.keep_rows``, where it is built as this forward expects.

    It keeps its weights and its class's name.
    """
    if is_prenorm_layer(layer):
        extend(layer, LastLayer)


def keeps_rows(layer: nn.Module) -> bool:
    """Whether a layer heeds ``Packing.keep_rows``; what comes out of another one has all T positions."""
    return isinstance(layer, LastLayer)
