"""The decoder's root-mean-square norm with a backward pass of its own.

Transformers' norm is written in operations that keep activations in float32; here the input is kept, and the
backward pass makes half as many passes over memory.

Dimensions: H width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mdl_toolkit.compat.torch_modules import extend
from mdl_toolkit.compat.transformers_decoder import rms_norms
from mdl_toolkit.model.kernels.second_order import traced_gradients


class OwnRMSNorm(nn.Module):
    """The forward of a norm, put before transformers' own."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``hidden_states`` [..., H] → [..., H]."""
        if torch.compiler.is_compiling():  # the compiler fuses transformers' own better
            plain: Tensor = super().forward(hidden_states)
            return plain
        normed: Tensor = _Normalise.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore
        return normed


def use_own_norms(module: nn.Module) -> None:
    """Let transformers' norms inside use the forward above; weights and names stay."""
    for layer in rms_norms(module):
        extend(layer, OwnRMSNorm)


class _Normalise(torch.autograd.Function):
    """The norm of rows [..., H], which keeps its input, weight and the rows' inverse length alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = square.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        ctx.epsilon = epsilon
        normed: Tensor = weight * (wide * inverse).to(x.dtype)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        of_x, of_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # gradients of these gradients are wanted
            plain = partial(_normalise, epsilon=ctx.epsilon)
            return (*traced_gradients(plain, (x, weight), (of_x, of_weight), gradients[0]), None)  # type: ignore
        gradient, wide = gradients[0], x.float()
        d_weight = d_x = None
        if of_weight:
            d_weight = (gradient * (wide * inverse).to(x.dtype)).flatten(0, -2).sum(0).to(weight.dtype)
        if of_x:
            slope = (gradient * weight).to(x.dtype).float()
            along = (slope * wide).sum(-1, keepdim=True).mul_(inverse**3).div_(x.shape[-1])
            d_x = (slope * inverse).addcmul_(wide, along, value=-1).to(x.dtype)
        return d_x, d_weight, None


def _normalise(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    return weight * (wide * (wide.square().mean(-1, keepdim=True) + epsilon).rsqrt()).to(x.dtype)
