"""oneDNN's products and torch's count of writes: that they are there, and what happens without them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdl_toolkit.compat.torch_cpu import arranged_weight, has_onednn, onednn_linear, write_count
from mdl_toolkit.model.kernels import linear as products
from mdl_toolkit.model.kernels.linear import Linear, cpu_has_bfloat16, lay_out, linear


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """The probe of oneDNN is made again, in the test and after it."""
    has_onednn.cache_clear()
    yield
    has_onednn.cache_clear()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_this_torch_has_the_operators() -> None:
    assert has_onednn()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_arranged_weight_gives_the_same_product(dtype: torch.dtype) -> None:
    x, weight, bias = (torch.randn(shape, dtype=dtype) for shape in ((7, 24), (11, 24), (11,)))
    near = 1e-5 if dtype == torch.float32 else 2**-6
    wanted = F.linear(x, weight, bias)
    torch.testing.assert_close(onednn_linear(x, weight, bias), wanted, rtol=near, atol=10 * near)
    torch.testing.assert_close(
        onednn_linear(x, arranged_weight(weight), bias), wanted, rtol=near, atol=10 * near
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_probe_needs_no_dtype_or_device_of_its_own(dtype: torch.dtype, asked_anew: None) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            assert has_onednn() == torch.backends.mkldnn.is_available()
    finally:
        torch.set_default_dtype(before)


def _refuses(*arguments: Any) -> Tensor:
    raise TypeError("another signature")


def _wrong(*arguments: Any) -> Tensor:
    return torch.zeros(1, 2)


@pytest.mark.parametrize(
    "operators",
    [
        SimpleNamespace(),
        SimpleNamespace(_linear_pointwise=_refuses, _reorder_linear_weight=lambda weight: weight),
        SimpleNamespace(_linear_pointwise=_wrong, _reorder_linear_weight=lambda weight: weight),
    ],
    ids=["gone", "another signature", "another meaning"],
)
def test_without_the_operators_torchs_own_products_are_taken(
    operators: Any, asked_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    assert not has_onednn()
    x, weight, bias = torch.randn(7, 24), torch.randn(11, 24), torch.randn(11)
    assert torch.equal(onednn_linear(x, weight, bias), F.linear(x, weight, bias))
    assert arranged_weight(weight) is weight
    monkeypatch.setattr(products, "_LEAST_WORK_IN_TRAINING", 1)
    products.onednn_is_faster.cache_clear()
    try:
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
        layer = Linear(24, 11).requires_grad_(False)
        assert lay_out(layer, 2**30, backward=True) == 0
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    finally:
        products.onednn_is_faster.cache_clear()


def test_torch_counts_writes() -> None:
    tensor = torch.zeros(3)
    before = write_count(tensor)
    tensor.add_(1)
    after = write_count(tensor)
    assert before is not None and after is not None and after > before


def test_without_the_count_no_copies_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "write_count", lambda tensor: None)
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    layer, x = Linear(24, 11).requires_grad_(False), torch.randn(5, 24)
    assert lay_out(layer, 2**30) == 0 and layer.layout is None
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_a_tensor_without_a_count_is_said_to_have_none() -> None:
    gone: Any = SimpleNamespace()
    assert write_count(gone) is None


def test_bfloat16_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's own list and torch's say the same, where both are there."""
    told = cpu_has_bfloat16()
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if products._cpuinfo("flags"):
        assert cpu_has_bfloat16() == told
    monkeypatch.setattr(products, "_cpuinfo", lambda field: "flags : fpu amx_tile avx512f")
    assert cpu_has_bfloat16()
    monkeypatch.setattr(products, "_cpuinfo", lambda field: "")
    assert not cpu_has_bfloat16()


def test_the_plain_layer_has_what_is_rebuilt_of_it() -> None:
    """A layer of ours is made of a plain one's widths, bias and mode: torch's has no further state."""
    plain = nn.Linear(3, 2)
    own = {"in_features", "out_features", "training"}
    assert own == {name for name in vars(plain) if not name.startswith("_")}
