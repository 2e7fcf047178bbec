"""Gradients of gradients: each backward pass of our own against the same function written plainly."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

import mdl_toolkit
from mdl_toolkit.model.kernels import linear as products
from mdl_toolkit.model.kernels import loss as losses
from mdl_toolkit.model.kernels import norm as norms
from mdl_toolkit.model.kernels.linear import lay_out, layout_of
from mdl_toolkit.model.midashenglm import MiDashengLMModel
from mdl_toolkit.training.trainable import layers
from support.models.batches import random_batch

pytestmark = pytest.mark.usefixtures("always_onednn")
Function = Callable[..., Tensor]


def gradients_and_their_gradients(function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
    """First derivatives of a curved function of the value, then those of a curved function of these."""
    given = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = function(*given)
    first = torch.autograd.grad(value.square().sum(), given, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), given)  # type: ignore[arg-type]
    return [*first, *second]


def assert_alike(ours: Function, plain: Function, inputs: Sequence[Tensor]) -> None:
    found = gradients_and_their_gradients(ours, inputs)
    wanted = gradients_and_their_gradients(plain, inputs)
    for left, right in zip(found, wanted, strict=True):
        scale = right.abs().max()
        torch.testing.assert_close(left / scale, right / scale, rtol=1e-4, atol=1e-5)


def _case_linear() -> Iterator[tuple[Function, Function, list[Tensor]]]:
    x, weight, bias = torch.randn(3, 5, 24), torch.randn(11, 24), torch.randn(11)
    yield products.linear, F.linear, [x, weight, bias]
    layer = products.Linear(24, 11).requires_grad_(False)
    lay_out(layer, 2**30, backward=True)
    assert layout_of(layer) is not None
    yield layer, lambda x: F.linear(x, layer.weight, layer.bias), [x]
    # The weight is made of the input: each has its own share of the gradient.
    yield lambda x: products.linear(x, x @ x.t()), lambda x: F.linear(x, x @ x.t()), [torch.randn(6, 6)]


def _case_norm() -> Iterator[tuple[Function, Function, list[Tensor]]]:
    library = Qwen2RMSNorm(16, eps=1e-6)

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(library, {"weight": weight}, (x,))

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return norms._Normalise.apply(x, weight, 1e-6)

    yield ours, plain, [torch.randn(3, 7, 16), torch.randn(16)]


def _case_loss() -> Iterator[tuple[Function, Function, list[Tensor]]]:
    head, targets = nn.Linear(12, 20, bias=False).requires_grad_(False), torch.randint(0, 20, (9,))
    yield (
        lambda hidden: losses.loss_sum(hidden, head, targets),
        lambda hidden: F.cross_entropy(head(hidden), targets, reduction="sum"),
        [torch.randn(9, 12)],
    )


def _case_adapter() -> Iterator[tuple[Function, Function, list[Tensor]]]:
    for dropped in (False, True):
        base = products.Linear(24, 11).requires_grad_(False)
        mask = torch.bernoulli(torch.full((5, 24), 0.5)) * 2

        def ours(
            x: Tensor, down: Tensor, up: Tensor, base: Any = base, mask: Any = mask if dropped else None
        ):
            thinned = None if mask is None else x * mask
            return layers._Adapted.apply(x, thinned, base, down, up, 0.7)

        def plain(x: Tensor, down: Tensor, up: Tensor, base: Any = base, mask: Any = mask if dropped else 1):
            return F.linear(x, base.weight, base.bias) + 0.7 * (x * mask) @ down.t() @ up.t()

        yield ours, plain, [torch.randn(5, 24), torch.randn(4, 24), torch.randn(11, 4)]


CASES = {
    products._Product: _case_linear,
    norms._Normalise: _case_norm,
    losses._FrozenHeadLoss: _case_loss,
    layers._Adapted: _case_adapter,
}


@pytest.mark.parametrize("function", CASES, ids=lambda function: function.__name__)
def test_second_derivatives_are_those_of_the_plain_function(function: Any) -> None:
    torch.manual_seed(0)
    for ours, plain, inputs in CASES[function]():
        assert_alike(ours, plain, inputs)


def test_every_backward_pass_of_our_own_is_looked_at() -> None:
    for module in pkgutil.walk_packages(mdl_toolkit.__path__, "mdl_toolkit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    ours = {
        kind for kind in _subclasses(torch.autograd.Function) if kind.__module__.startswith("mdl_toolkit")
    }
    assert ours == set(CASES)


def _subclasses(kind: type) -> Iterator[type]:
    for sub in kind.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def test_a_whole_model_with_adapters(tiny: Callable[..., Any]) -> None:
    """A product with the Hessian, as meta-learning and influence functions take it."""

    def product(own: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = MiDashengLMModel.from_pretrained(tiny().folder).requires_grad_(False)
        if own:
            model.use_own_layers()
        targets = r".*(attn\.qkv|net\.0|gate_proj|down_proj)"
        peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=targets), model)
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            nn.init.normal_(parameter, std=0.2)
        if own:
            lay_out(model, 2**40, backward=True)
            for module in model.modules():
                if hasattr(module, "lora_A"):
                    layers.use_own_forward(module)
        with sdpa_kernel(SDPBackend.MATH):
            value = model(**random_batch(range(2)).model_inputs()).loss_sum
            first = torch.autograd.grad(value, trained, create_graph=True)
            return list(torch.autograd.grad(sum(g.sum() for g in first), trained))  # type: ignore[arg-type]

    for ours, plain in zip(product(True), product(False), strict=True):
        scale = plain.abs().max().clamp_min(1e-12)
        torch.testing.assert_close(ours / scale, plain / scale, rtol=1e-3, atol=1e-4)
