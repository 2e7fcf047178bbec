"""Layers as they are in training: lean adapters, and float32 weights in a model of a smaller dtype.

Letters: I and O inputs and outputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdl_toolkit.model.linear import is_plain, layout_of, linear, transposed

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
    base, dropped = self.base_layer, self.lora_dropout[ADAPTER](x)
    if x.is_cpu and is_plain(base) and not base.weight.requires_grad and not torch.compiler.is_compiling():
        down, up = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        made: Tensor = _Adapted.apply(  # type: ignore[no-untyped-call]
            x, None if dropped is x else dropped, base, down, up, self.scaling[ADAPTER]
        )
        return made
    result: Tensor = base(x)
    return _plus_adapter(self, x, result, dropped)


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


class _Adapted(torch.autograd.Function):
    """A frozen linear layer and its adapter in as few passes over memory as they need on a CPU."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, base: nn.Linear, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        ctx.scale, ctx.layout, ctx.separate = scale, layout_of(base), dropped is not None
        dropped = x if dropped is None else dropped
        narrow, wide = down.to(x.dtype), up.to(x.dtype)
        hidden = F.linear(dropped, narrow)
        ctx.save_for_backward(dropped, hidden, narrow, wide, base.weight)
        result = linear(x, base.weight, base.bias, ctx.layout)
        result.view(-1, result.shape[-1]).addmm_(_rows(hidden), wide.t(), alpha=scale)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dropped, hidden, down, up, weight = ctx.saved_tensors
        of_x, of_dropped, _, of_down, of_up, _ = ctx.needs_input_grad
        gradient = gradients[0]
        rows = _rows(gradient)
        of_hidden = (rows @ up).mul_(ctx.scale)
        d_x = transposed(gradient, weight, ctx.layout) if of_x else None
        d_dropped = None
        if ctx.separate:
            d_dropped = (of_hidden @ down).view_as(dropped) if of_dropped else None
        elif d_x is not None:
            d_x.view(-1, d_x.shape[-1]).addmm_(of_hidden, down)
        d_down = (of_hidden.t() @ _rows(dropped)).float() if of_down else None
        d_up = (rows.t() @ _rows(hidden)).mul_(ctx.scale).float() if of_up else None
        return d_x, d_dropped, None, d_down, d_up, None


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


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
