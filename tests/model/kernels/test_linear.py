"""Products by either library are the same products, and the faster one is asked where it is the faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdl_toolkit.compat.torch_cpu import has_onednn, onednn_linear
from mdl_toolkit.model.kernels import linear as products
from mdl_toolkit.model.kernels.linear import (
    Linear,
    is_plain,
    lay_out,
    layout_of,
    linear,
    transposed,
    use_fast_products,
)

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """As on a CPU where oneDNN is the faster, for products of any size; the shapes that it was asked for."""
    shapes: list[tuple[int, ...]] = []
    inner = onednn_linear

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shapes.append((*x.shape, weight.shape[0]))
        return inner(x, weight, bias)

    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "_LEAST_WORK_IN_TRAINING", 1)
    monkeypatch.setattr(products, "onednn_linear", noted)
    return shapes


@needs_onednn
@pytest.mark.parametrize("rows", [(1,), (37,), (3, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", ["x", "weight", "x weight bias", "bias", ""])
def test_values_and_gradients_are_those_of_float64(
    rows: tuple[int, ...], bias: bool, trained: str, asked: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    tensors: dict[str, Any] = {
        "x": torch.randn(*rows, 24),
        "weight": torch.randn(11, 24),
        "bias": torch.randn(11),
    }
    if not bias:
        del tensors["bias"]
    for name, tensor in tensors.items():
        tensor.requires_grad_(name in trained.split())
    exact = {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in tensors.items()}
    made, wanted = linear(**tensors), F.linear(exact["x"], exact["weight"], exact.get("bias"))
    assert asked == [(*rows, 24, 11)]
    torch.testing.assert_close(made.double(), wanted, rtol=1e-5, atol=1e-5)
    assert made.requires_grad == wanted.requires_grad
    if made.requires_grad:
        slope = torch.randn(*rows, 11)
        made.backward(slope)
        wanted.backward(slope.double())
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            assert tensor.grad is not None and exact[name].grad is not None
            torch.testing.assert_close(tensor.grad.double(), exact[name].grad, rtol=1e-5, atol=1e-5)
        else:
            assert tensor.grad is None


@needs_onednn
def test_a_frozen_layer_keeps_no_activations(asked: list[tuple[int, ...]]) -> None:
    kept: list[Tensor] = []
    x, weight = torch.randn(5, 8, requires_grad=True), torch.randn(3, 8)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear(x, weight)
    assert [tuple(tensor.shape) for tensor in kept] == [(3, 8)]


@needs_onednn
@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (torch.randn(4, 8, dtype=torch.bfloat16), torch.randn(3, 8, dtype=torch.bfloat16)),
        (torch.randn(4, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)),
        (torch.randn(8), torch.randn(3, 8)),
        (torch.randn(0, 8), torch.randn(3, 8)),
    ],
)
def test_other_products_are_torchs_own(x: Tensor, weight: Tensor, asked: list[tuple[int, ...]]) -> None:
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    assert asked == []


@needs_onednn
def test_autocast_keeps_its_dtype(asked: list[tuple[int, ...]]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(4, 8), torch.randn(3, 8)).dtype == torch.bfloat16
    assert asked == []


def test_small_products_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "onednn_linear", None)
    x, weight = torch.randn(40, 64), torch.randn(64, 64)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize(
    ("vendor", "capability", "faster"),
    [
        ("vendor_id : AuthenticAMD", "AVX512", True),
        ("vendor_id : AuthenticAMD", "AVX2", False),
        ("vendor_id : GenuineIntel", "AVX512", False),
        ("", "AVX512", False),
    ],
)
def test_onednn_is_for_avx512_on_amd(
    vendor: str, capability: str, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(products, "has_onednn", lambda: True)
    assert products.onednn_is_faster.__wrapped__() is faster


def test_the_vendor_is_found_where_linux_says_it() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "vendor_id" not in cpuinfo.read_text(encoding="utf-8"):
        pytest.skip("no vendor in /proc/cpuinfo here")
    assert products._vendor().partition(":")[2].strip() in cpuinfo.read_text(encoding="utf-8")


def test_plain_layers_alone_are_taken_over() -> None:
    class Own(nn.Linear):
        pass

    model: Any = nn.ModuleDict(
        {"plain": nn.Linear(2, 3), "own": Own(2, 3), "inner": nn.Sequential(nn.Linear(3, 3))}
    )
    names = list(model.state_dict())
    use_fast_products(model)
    assert [type(layer) for layer in (model["plain"], model["own"], model["inner"][0])] == [
        Linear,
        Own,
        Linear,
    ]
    assert list(model.state_dict()) == names
    assert is_plain(model["plain"]) and not is_plain(model["own"]) and is_plain(nn.Linear(1, 1))


class TestLaidOut:
    """Frozen weights in oneDNN's own layout."""

    @pytest.fixture(autouse=True)
    def everywhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if not has_onednn():
            pytest.skip("this torch has no oneDNN")
        for name in ("onednn_is_faster", "cpu_has_bfloat16"):
            monkeypatch.setattr(products, name, lambda: True)
        for name in ("_LEAST_WORK_IN_TRAINING", "_LEAST_WORK_IN_GENERATION"):
            monkeypatch.setattr(products, name, 1)

    def layer(self, dtype: torch.dtype = torch.float32) -> Linear:
        torch.manual_seed(0)
        layer: Any = nn.Sequential(nn.Linear(96, 40, dtype=dtype))
        use_fast_products(layer.requires_grad_(False))
        made: Linear = layer[0]
        return made

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("backward", [True, False])
    def test_values_and_gradients_stay(self, dtype: torch.dtype, backward: bool) -> None:
        layer = self.layer(dtype)
        size = (1 + backward) * layer.weight.nbytes
        assert lay_out(layer, 4 * size, backward=backward) == size
        layout = layout_of(layer)
        assert layout is not None and (layout.backward is not None) == backward
        x, slope = torch.randn(3, 7, 96).to(dtype), torch.randn(3, 7, 40).to(dtype)
        given, exact = x.clone().requires_grad_(), x.double().requires_grad_()
        assert layer.bias is not None
        made = layer(given)
        wanted = F.linear(exact, layer.weight.double(), layer.bias.double())
        made.backward(slope)
        wanted.backward(slope.double())
        near = 1e-5 if dtype == torch.float32 else 2**-6
        torch.testing.assert_close(made.double(), wanted, rtol=near, atol=10 * near)
        assert given.grad is not None and exact.grad is not None
        torch.testing.assert_close(given.grad.double(), exact.grad, rtol=near, atol=10 * near)
        rows = slope.flatten(0, 1)
        torch.testing.assert_close(
            transposed(rows, layer.weight, layout).double(),
            exact.grad.flatten(0, 1),
            rtol=near,
            atol=10 * near,
        )

    def test_nothing_without_room(self) -> None:
        layer = self.layer()
        assert lay_out(layer, 4 * layer.weight.nbytes - 1) == 0
        assert layout_of(layer) is None

    def test_a_weight_that_changes_is_taken_as_it_is(self) -> None:
        layer, x = self.layer(), torch.randn(5, 96)
        lay_out(layer, 2**30)
        with torch.no_grad():
            layer.weight.mul_(2)
        assert layout_of(layer) is None
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)
        lay_out(layer, 2**30)
        layer.weight = nn.Parameter(torch.zeros(40, 96), requires_grad=False)
        assert layout_of(layer) is None

    def test_trained_and_foreign_layers_stay_as_they_are(self) -> None:
        trained = self.layer().requires_grad_(True)
        wide = self.layer(torch.float64)
        assert lay_out(nn.ModuleList([trained, wide, nn.Linear(4, 4).requires_grad_(False)]), 2**30) == 0

    def test_names_and_files_know_nothing_of_it(self) -> None:
        layer = self.layer()
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        lay_out(layer, 2**30, backward=True)
        assert list(layer.state_dict()) == list(before)
        assert all(torch.equal(layer.state_dict()[name], tensor) for name, tensor in before.items())
        assert not list(layer.buffers())
