"""Linear layers that multiply by the fastest products that torch has for this CPU.

float32 products go to MKL. On AMD's processors MKL keeps to AVX2, also where they have AVX-512; oneDNN,
which makes its kernels for what it finds, takes half the time (``benchmarks/model/products.py``). Both
compute in float32 and add in different orders. bfloat16 products go to oneDNN anyway. In every call it
brings the weight into a layout of its own, a sixth of the time with 400 rows, half of it with 8; a weight
that stays as it is can be laid out once, where there is memory for another copy. A copy can't notice every
write to its original: see :func:`lay_out`.

Dimensions: I and O inputs and outputs.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdl_toolkit.compat.torch_cpu import arranged_weight, has_onednn, onednn_linear, write_count

#: Multiplications from which oneDNN is faster. It compiles a kernel for every new number of rows: in training
#: that is for every step, in generation seldom, so that smaller products pay there too.
_LEAST_WORK_IN_TRAINING = 1 << 24
_LEAST_WORK_IN_GENERATION = 1 << 20
#: Arranged copies of weights may take one part in so many of the free memory.
_MEMORY_SHARE = 4


class Layout(NamedTuple):
    """A frozen weight once more, as oneDNN reads it fastest.

    Attributes:
        forward: The weight for products with inputs.
        backward: The weight for products with gradients of outputs; ``None`` where no gradients will come.
        of: The weight's own storage, held so that nothing else can take its address.
        writes: How often the weight had been written to when it was laid out.
    """

    forward: Tensor
    backward: Tensor | None
    of: Tensor
    writes: int | None


class Linear(nn.Linear):
    """``torch.nn.Linear`` by :func:`linear`, with its weight laid out where :func:`lay_out` has done so."""

    layout: Layout | None = None

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [..., I] → [..., O]."""
        return linear(input, self.weight, self.bias, layout_of(self))

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle has: all but the layout, which is made for this CPU."""
        return {name: value for name, value in self.__dict__.items() if name != "layout"}


def use_fast_products(module: nn.Module) -> None:
    """Put a :class:`Linear` in the place of every plain linear layer inside; parameters and names stay."""
    for name, layer in list(module.named_modules()):
        if type(layer) is nn.Linear:
            module.set_submodule(name, _with_parameters_of(layer))


def _with_parameters_of(layer: nn.Linear) -> Linear:
    with torch.device("meta"):
        made = Linear(layer.in_features, layer.out_features, layer.bias is not None)
    made.weight, made.bias = layer.weight, layer.bias
    return made.train(layer.training)


def is_plain(module: nn.Module) -> bool:
    """Whether a layer is linear and nothing else: not quantised, adapted or wrapped."""
    return type(module) in (nn.Linear, Linear)


def lay_out(module: nn.Module, free: int, backward: bool = False) -> int:
    """Lay out the frozen weights of the linear layers inside for this CPU, where it pays.

    For whoever owns the model and leaves these weights alone from here on, as a training run or an inference
    does: it is never done unasked. Weights that are replaced, moved, trained, loaded or written to by torch's
    operators lose their layout by themselves; a write that torch can't see (through ``.data``, a numpy view,
    another process) doesn't, and needs :func:`forget_layouts`.

    Args:
        module: The model; its weights have their final values and places.
        free: Bytes of free memory; where copies would take more than a quarter of it, nothing is done.
        backward: Whether gradients will pass through: two copies of each weight instead of one.

    Returns:
        Bytes that the copies take.
    """
    layers = [layer for layer in module.modules() if type(layer) is Linear and _pays(layer)]
    total = (1 + backward) * sum(layer.weight.nbytes for layer in layers)
    if total > free // _MEMORY_SHARE:
        return 0
    with torch.no_grad():
        for layer in layers:
            weight = layer.weight.detach()
            back = arranged_weight(weight.t().contiguous()) if backward else None
            layer.layout = Layout(arranged_weight(weight), back, weight, write_count(weight))
    return total


def forget_layouts(module: nn.Module) -> None:
    """Let the linear layers inside read their weights themselves again: before these are written to."""
    for layer in module.modules():
        if isinstance(layer, Linear):
            layer.layout = None


def layout_of(layer: nn.Module) -> Layout | None:
    """A layer's weight as it was laid out, unless it has changed since, or may change."""
    layout: Layout | None = getattr(layer, "layout", None)
    if layout is None:
        return None
    weight: Any = layer.weight
    same = weight.data_ptr() == layout.of.data_ptr() and write_count(weight) == layout.writes
    if not same or weight.requires_grad:
        layer.layout = None  # type: ignore[assignment]
        return None
    return layout


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, layout: Layout | None = None) -> Tensor:
    """``x @ weight.T + bias``, as ``torch.nn.functional.linear``.

    Args:
        x: [..., I].
        weight: [O, I].
        bias: [O].
        layout: The arranged copy of the weight, which must be frozen then.

    Returns:
        [..., O].
    """
    if not x.is_cpu or torch.compiler.is_compiling() or not _suits_onednn(x, weight, layout):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        product: Tensor = _Product.apply(x, weight, bias, layout)  # type: ignore[no-untyped-call]
        return product
    return onednn_linear(x, weight if layout is None else layout.forward, bias)


def transposed(x: Tensor, weight: Tensor, layout: Layout | None = None) -> Tensor:
    """``x @ weight``, outside of autograd: what a gradient [..., O] gives its layer's inputs, [..., I]."""
    if not x.is_cpu or torch.compiler.is_compiling() or not _suits_onednn(x, weight.t(), layout):
        return x @ weight
    return _back(x, weight, layout)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by instructions of its own, faster than in float32."""
    names = ("avx512_bf16", "amx_tile")
    if hasattr(torch.cpu, "get_capabilities"):  # since torch 2.11
        found = torch.cpu.get_capabilities()
        return any(found.get(name) for name in names)
    return any(name in _cpuinfo("flags").split() for name in names)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.layout = layout
        return onednn_linear(x, weight if layout is None else layout.forward, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        gradient = gradients[0]
        rows = gradient.flatten(0, -2)
        if torch.is_grad_enabled():  # gradients of these gradients are wanted: autograd must see
            d_x = F.linear(gradient, weight.t()) if of_x else None
            d_weight = rows.t() @ x.flatten(0, -2) if of_weight else None
        else:
            d_x = _back(gradient, weight, ctx.layout) if of_x else None
            d_weight = onednn_linear(rows.t(), x.flatten(0, -2).t()) if of_weight else None
        return d_x, d_weight, rows.sum(0) if of_bias else None, None


def _suits_onednn(x: Tensor, weight: Tensor, layout: Layout | None) -> bool:
    size = x.numel() * weight.shape[0]
    if x.dtype != weight.dtype or x.dim() < 2 or not size or torch.is_autocast_enabled("cpu"):
        return False
    if x.dtype != torch.float32:  # torch's own choice is oneDNN, whatever the size
        return layout is not None
    training = layout is None or layout.backward is not None
    return size >= (_LEAST_WORK_IN_TRAINING if training else _LEAST_WORK_IN_GENERATION) and onednn_is_faster()


def _back(gradient: Tensor, weight: Tensor, layout: Layout | None) -> Tensor:
    if layout is not None and layout.backward is not None:
        return onednn_linear(gradient, layout.backward)
    return onednn_linear(gradient, weight.t())


def _pays(layer: nn.Linear) -> bool:
    weight = layer.weight
    if not weight.is_cpu or weight.requires_grad or type(weight.data) is not Tensor or weight.is_inference():
        return False
    if write_count(weight) is None:  # nothing would tell when the copy is out of date
        return False
    if weight.dtype == torch.bfloat16:
        return has_onednn() and cpu_has_bfloat16()
    return weight.dtype == torch.float32 and onednn_is_faster()


@functools.cache
def onednn_is_faster() -> bool:
    """Whether float32 is faster by oneDNN than by MKL here: AVX-512 on an AMD processor."""
    return (
        has_onednn()
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _vendor()
    )


def _vendor() -> str:
    return _cpuinfo("vendor_id") or platform.processor()


@functools.cache
def _cpuinfo(field: str) -> str:
    """A field of the first processor in ``/proc/cpuinfo``, its name included; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(field)), "")
