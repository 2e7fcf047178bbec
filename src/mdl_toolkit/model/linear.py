"""Linear layers that multiply by the faster of the two libraries that torch carries for CPUs.

float32 products go to MKL. On AMD's processors MKL keeps to AVX2, also where they have AVX-512; oneDNN, which
makes its kernels for what it finds, takes half the time (``benchmarks/products.py``). Both compute in float32
and add in different orders.

Letters: M rows, I and O inputs and outputs.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Multiplications below which the time to make a kernel for a new number of rows outweighs what it saves.
_WORTH_A_KERNEL = 1 << 24


class Linear(nn.Linear):
    """``torch.nn.Linear`` by :func:`linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [..., I] → [..., O]."""
        return linear(input, self.weight, self.bias)


def use_fast_products(module: nn.Module) -> None:
    """Let every plain linear layer inside be a :class:`Linear`; weights and names stay."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear


def is_plain(module: nn.Module) -> bool:
    """Whether a layer is linear and nothing else: not quantised, adapted or wrapped."""
    return type(module) in (nn.Linear, Linear)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, as ``torch.nn.functional.linear``.

    Args:
        x: [..., I].
        weight: [O, I].
        bias: [O].

    Returns:
        [..., O].
    """
    if not x.is_cpu or torch.compiler.is_compiling() or not _suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        product: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return product
    return _onednn(x, weight, bias)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by instructions of its own, faster than in float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        gradient = gradients[0]
        rows = gradient.flatten(0, -2)
        return (
            _onednn(gradient, weight.t()) if of_x else None,
            _onednn(rows.t(), x.flatten(0, -2).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.dim() > 1
        and x.numel() * weight.shape[0] >= _WORTH_A_KERNEL
        and onednn_is_faster()
        and not torch.is_autocast_enabled("cpu")
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN is the faster library here: AVX-512 on an AMD processor."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _vendor()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("vendor_id"))
    except (OSError, StopIteration):
        return platform.processor()
