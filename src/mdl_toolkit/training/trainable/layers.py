"""Layers as they are in training: adapters with forwards of our own, and float32 weights in a smaller model.

Dimensions: I and O inputs and outputs of a linear layer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from mdl_toolkit.compat.peft_layers import has_expected_parts
from mdl_toolkit.compat.torch_modules import extend
from mdl_toolkit.model.kernels.linear import forget_layouts, is_plain, layout_of, linear, transposed
from mdl_toolkit.model.kernels.second_order import traced_gradients
from mdl_toolkit.model_folders.names import ADAPTER


def use_own_forward(layer: Any) -> None:
    """Let a layer of PEFT's use a forward below in place of its own, where one does the same.

    It does so while the one adapter that training has is active, alone and unmerged. Whatever else PEFT's
    methods make of the layer (merged, disabled, other adapters beside it), PEFT's own forward computes, and
    always where PEFT builds its layers otherwise than expected.
    """
    if not has_expected_parts(layer, ADAPTER):
        return
    if not layer.lora_variant:
        extend(layer, LoraLinear)
        return
    if not is_plain(layer.base_layer):
        # PEFT has just made the magnitudes of the dequantised weights, which will never change.
        norms = layer.lora_magnitude_vector[ADAPTER].weight.detach().clone().float()
        layer.register_buffer("row_norms", norms, persistent=False)
    extend(layer, DoraLinear)


class LoraLinear:
    """The forward of a linear layer with a LoRA adapter, put before PEFT's own."""

    dora = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """``x`` [..., I] → [..., O]."""
        layer: Any = self
        if (
            args
            or kwargs
            or layer.disable_adapters
            or layer.merged
            or layer.active_adapters != [ADAPTER]
            or (ADAPTER in layer.lora_variant) != self.dora
            or layer.lora_B[ADAPTER].bias is not None
        ):
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        return _dora_forward(layer, x) if self.dora else _lora_forward(layer, x)

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """PEFT's; it writes to the base's weight in ways that leave no trace."""
        forget_layouts(self.base_layer)  # type: ignore[attr-defined]
        super().merge(*args, **kwargs)  # type: ignore[misc]

    def unmerge(self) -> None:
        """PEFT's."""
        forget_layouts(self.base_layer)  # type: ignore[attr-defined]
        super().unmerge()  # type: ignore[misc]


class DoraLinear(LoraLinear):
    """The forward of a linear layer with a DoRA adapter, put before PEFT's own."""

    dora = True


def _lora_forward(self: Any, x: Tensor) -> Tensor:
    """A linear layer with one unmerged adapter: ``x`` [..., I] → [..., O].

    PEFT's own forward converts activations to the adapter's float32; here the small adapter is converted to
    the activations' dtype instead, and scale, product and sum are one kernel.
    """
    base, dropped = self.base_layer, self.lora_dropout[ADAPTER](x)
    if x.is_cpu and is_plain(base) and _is_frozen(base) and not torch.compiler.is_compiling():
        down, up = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        made: Tensor = _Adapted.apply(  # type: ignore[no-untyped-call]
            x, None if dropped is x else dropped, base, down, up, self.scaling[ADAPTER]
        )
        return made
    result: Tensor = base(x)
    return _plus_adapter(self, x, result, dropped)


def _dora_forward(self: Any, x: Tensor) -> Tensor:
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


def _is_frozen(layer: Any) -> bool:
    return not layer.weight.requires_grad and (layer.bias is None or not layer.bias.requires_grad)


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
        ctx.save_for_backward(dropped, hidden, narrow, wide, down, up, base.weight)
        result = linear(x, base.weight, base.bias, ctx.layout)
        result.view(-1, result.shape[-1]).addmm_(_rows(hidden), wide.t(), alpha=scale)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dropped, hidden, down, up, first, second, weight = ctx.saved_tensors
        of_x, of_dropped, _, of_down, of_up, _ = ctx.needs_input_grad
        gradient = gradients[0]
        if torch.is_grad_enabled():  # gradients of these gradients are wanted
            wanted = (of_dropped if ctx.separate else of_x, of_down, of_up)
            alone = partial(_adapter_alone, scale=ctx.scale)
            d_in, d_down, d_up = traced_gradients(alone, (dropped, first, second), wanted, gradient)
            d_x = F.linear(gradient, weight.t()) if of_x else None
            if ctx.separate:
                return d_x, d_in, None, d_down, d_up, None
            return None if d_x is None or d_in is None else d_x + d_in, None, None, d_down, d_up, None
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


def _adapter_alone(x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    return F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype)) * scale


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


class _CastEmbedding(nn.Embedding):
    """Embeddings kept in float32 and given in the dtype of the model around them."""

    def __init__(self, embeddings: nn.Embedding, compute_dtype: torch.dtype) -> None:
        count, width, padding = embeddings.num_embeddings, embeddings.embedding_dim, embeddings.padding_idx
        super().__init__(count, width, padding, device="meta")
        self.weight, self.compute_dtype = embeddings.weight, compute_dtype

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).to(self.compute_dtype)


class _CastLinear(nn.Linear):
    """A linear layer kept in float32 that computes in the dtype of what it is given."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__(head.in_features, head.out_features, head.bias is not None, device="meta")
        self.weight, self.bias = head.weight, head.bias

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


def compute_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Let embeddings and head that train in float32 work in a model of a smaller dtype."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(embeddings) is nn.Embedding and embeddings.weight.dtype != dtype:
        model.set_input_embeddings(_CastEmbedding(embeddings, dtype))
    if is_plain(head) and head.weight.dtype != dtype:
        model.set_output_embeddings(_CastLinear(head))
