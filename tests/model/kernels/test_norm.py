"""The decoder's norm is the library's, value for value; its gradients are those of float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from mdl_toolkit.model.kernels.norm import use_own_norms

KINDS = [Qwen2RMSNorm, Qwen3RMSNorm]


def pair(kind: Any, dtype: torch.dtype, trained: bool) -> tuple[Any, Any]:
    """The library's norm, and the same one with the forward of this project."""
    torch.manual_seed(0)
    own, theirs = kind(48, eps=1e-6).to(dtype), kind(48, eps=1e-6).to(dtype)
    with torch.no_grad():
        own.weight.normal_(1.0, 0.2)
        theirs.weight.copy_(own.weight)
    use_own_norms(own)
    assert type(own) is not kind and isinstance(own, kind)
    for norm in (own, theirs):
        norm.requires_grad_(trained)
    return own, theirs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 48), (1, 5, 48), (2, 3, 4, 48)])
def test_values_are_the_librarys(kind: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    own, theirs = pair(kind, dtype, trained=False)
    x = (torch.randn(shape) * 3).to(dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(own(x), theirs(x), rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_gradients_are_those_of_float64(kind: Any, trained: bool, wanted: bool) -> None:
    own, theirs = pair(kind, torch.float32, trained)
    x = torch.randn(2, 9, 48) * torch.logspace(-2, 2, 9)[:, None]
    x.requires_grad_(wanted)
    exact, slope = x.detach().double().requires_grad_(wanted), torch.randn(x.shape)
    made = own(x)
    assert made.requires_grad == (trained or wanted)
    if not made.requires_grad:
        return
    made.backward(slope)
    weight = theirs.weight.detach().double().requires_grad_(trained)
    root = (exact.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    (weight * exact / root).backward(slope.double())
    for name, found, true in (("x", x, exact), ("weight", own.weight, weight)):
        assert (found.grad is None) == (true.grad is None), name
        if found.grad is not None and true.grad is not None:
            torch.testing.assert_close(found.grad.double(), true.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_bfloat16_are_as_near_as_the_librarys(kind: Any) -> None:
    own, theirs = pair(kind, torch.bfloat16, trained=True)
    x, slope = (torch.randn(64, 48)).bfloat16(), torch.randn(64, 48).bfloat16()
    exact, _ = pair(kind, torch.float32, trained=True)
    with torch.no_grad():
        exact.weight.copy_(own.weight.float())
    gradients = []
    for norm, dtype in ((exact, torch.float32), (own, torch.bfloat16), (theirs, torch.bfloat16)):
        given = x.to(dtype).requires_grad_()
        norm(given).backward(slope.to(dtype))
        assert given.grad is not None and given.grad.dtype == norm.weight.grad.dtype == dtype
        gradients.append((given.grad.float(), norm.weight.grad.float()))
    for true, found, other in zip(*gradients, strict=True):
        assert (found - true).norm() < 1.5 * (other - true).norm() + 1e-6


def test_the_input_is_all_that_is_kept() -> None:
    own, _ = pair(Qwen2RMSNorm, torch.bfloat16, trained=False)
    kept: list[Tensor] = []
    x = torch.randn(10, 48, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        own(x)
    sizes = {tuple(tensor.shape): tensor.dtype for tensor in kept}
    assert sizes == {(10, 48): torch.bfloat16, (48,): torch.bfloat16, (10, 1): torch.float32}
