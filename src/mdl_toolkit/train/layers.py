"""Layers as they are in training: lean adapters, and float32 weights in a model of a smaller dtype.

Letters: I and O inputs and outputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdl_toolkit.model.linear import is_plain, linear

#: PEFT's name of the one adapter there is.
ADAPTER = "default"

_lean_classes: dict[tuple[type, Callable[..., Tensor]], type] = {}


def make_lean(module: Any) -> None:
    """Let a layer of PEFT's use a forward below in place of its own, where one does the same."""
    forward: Callable[..., Tensor] = _lean_forward
    if module.lora_variant:
        forward = _lean_dora_forward
        if not is_plain(module.base_layer):
            # PEFT has just made the magnitudes of the dequantised weights, which will never change.
            norms = module.lora_magnitude_vector[ADAPTER].weight.detach().clone().float()
            module.register_buffer("row_norms", norms, persistent=False)
    kind = type(module)
    if (kind, forward) not in _lean_classes:
        _lean_classes[kind, forward] = type(f"Lean{kind.__name__}", (kind,), {"forward": forward})
    module.__class__ = _lean_classes[kind, forward]


def _lean_forward(self: Any, x: Tensor) -> Tensor:
    """A linear layer with one unmerged adapter: ``x`` [..., I] → [..., O].

    PEFT's own forward converts activations to the adapter's float32; here the small adapter is converted to
    the activations' dtype instead, and scale, product and sum are one kernel.
    """
    result: Tensor = self.base_layer(x)
    return _plus_adapter(self, x, result, self.lora_dropout[ADAPTER](x))


def _lean_dora_forward(self: Any, x: Tensor) -> Tensor:
    """A linear layer with one DoRA adapter: ``x`` [..., I] → [..., O].

    PEFT's own forward multiplies the adapter's factors out, by an identity matrix of I × I (1.4 GB in the 7B
    model), converts activations to float32, and dequantises weights, by which an 8-bit layer on a CPU breaks.
    """
    base, dropout = self.base_layer, self.lora_dropout[ADAPTER]
    ratio = (self.lora_magnitude_vector[ADAPTER].weight / _adapted_norms(self, x.dtype)).to(x.dtype)
    if self.training and not isinstance(dropout, nn.Identity):
        dropped = dropout(x)
        frozen = _without_bias(base, dropped)
        result: Tensor = base(x) + _plus_adapter(self, dropped, frozen, dropped) * ratio - frozen
        return result
    result = _plus_adapter(self, x, _without_bias(base, x), x) * ratio
    return result if base.bias is None else result + base.bias.to(x.dtype)


def _without_bias(base: Any, x: Tensor) -> Tensor:
    if is_plain(base):
        return linear(x, base.weight)
    result: Tensor = base(x)
    return result if base.bias is None else result - base.bias.to(x.dtype)


def _plus_adapter(layer: Any, x: Tensor, result: Tensor, dropped: Tensor) -> Tensor:
    """``result`` plus what the adapter makes of ``dropped``."""
    down, up = layer.lora_A[ADAPTER].weight.to(x.dtype), layer.lora_B[ADAPTER].weight.to(x.dtype)
    hidden = F.linear(dropped, down)
    if x.dim() == 2:
        return torch.addmm(result, hidden, up.t(), alpha=layer.scaling[ADAPTER])
    flat, hidden = result.flatten(0, -2), hidden.flatten(0, -2)
    added: Tensor = torch.addmm(flat, hidden, up.t(), alpha=layer.scaling[ADAPTER])
    return added.view_as(result)


@torch.no_grad()
def _adapted_norms(layer: Any, dtype: torch.dtype) -> Tensor:
    """Norms of the rows of ``weight + scale · up @ down``, which is never formed: [O] float32.

    DoRA's gradient takes them as constants (section 4.3 of Liu et al., 2024).
    """
    base, scale = layer.base_layer, layer.scaling[ADAPTER]
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    a, b = down.float(), up.float()
    if is_plain(base):
        norms = torch.linalg.vector_norm(base.weight, dim=1, dtype=torch.float32)
    else:
        norms = layer.row_norms
    cross = (_without_bias(base, down.to(dtype)).t().float() * b).sum(1)
    own = ((b @ (a @ a.t())) * b).sum(1)
    adapted: Tensor = (norms.square() + 2 * scale * cross + scale * scale * own).clamp_min(1e-12).sqrt()
    return adapted


class _CastEmbedding(nn.Embedding):
    """Embeddings kept in float32 and given in the dtype of the model around them."""

    compute_dtype: torch.dtype

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).to(self.compute_dtype)


class _CastLinear(nn.Linear):
    """A linear layer kept in float32 that computes in the dtype of what it is given."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


def compute_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Let embeddings or head that train in float32 work in a model of a smaller dtype."""
    weight = module.weight
    if not isinstance(weight, Tensor) or weight.dtype == dtype:
        return
    if type(module) is nn.Embedding:
        module.__class__ = _CastEmbedding
        module.compute_dtype = dtype  # type: ignore[assignment]
    elif is_plain(module):
        module.__class__ = _CastLinear
