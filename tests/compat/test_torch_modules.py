"""Conversions that leave some tensors alone, hooks, and layers with another forward."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdl_toolkit.compat import torch_modules
from mdl_toolkit.compat.torch_modules import Float32Module, extend, is_hooked
from mdl_toolkit.errors import ModelError
from mdl_toolkit.model.frontend import FrozenBatchNorm
from mdl_toolkit.model.kernels.loss import loss_sum


class TestFloat32Module:
    @pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
    def test_a_conversion_of_the_model_around_it_leaves_its_tensors(self, cast: Any) -> None:
        model = nn.Sequential(nn.Linear(4, 4), FrozenBatchNorm(4))
        cast(model)
        assert model[0].weight.dtype != torch.float32
        assert {tensor.dtype for tensor in model[1].state_dict().values()} == {torch.float32, torch.int64}

    def test_it_follows_to_a_device(self) -> None:
        model = nn.Sequential(FrozenBatchNorm(4)).to("meta", torch.bfloat16)
        assert {tensor.device.type for tensor in model[0].state_dict().values()} == {"meta"}
        assert model[0].weight.dtype == torch.float32

    def test_without_torchs_hook_rounded_statistics_are_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(Float32Module, "_apply")
        norm = FrozenBatchNorm(4).half()
        assert norm.running_var.dtype == torch.float16
        with pytest.raises(ModelError, match=r"torch \S+ has converted a tensor .* \(tested with 2\.10 to"):
            norm(torch.randn(3, 4))


class TestHooks:
    @pytest.mark.parametrize(
        "register",
        ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
         "register_full_backward_pre_hook"],
    )  # fmt: skip
    def test_every_kind_is_noticed_until_it_is_removed(self, register: str) -> None:
        layer = nn.Linear(2, 2)
        assert not is_hooked(layer)
        handle = getattr(layer, register)(lambda *arguments: None)
        assert is_hooked(layer)
        handle.remove()
        assert not is_hooked(layer)

    def test_where_torch_does_not_tell_a_module_counts_as_hooked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        head = nn.Linear(8, 30, bias=False).requires_grad_(False)
        hidden, targets = torch.randn(6, 8, requires_grad=True), torch.randint(30, (6,))
        fast = loss_sum(hidden, head, targets)
        fast_gradient = torch.autograd.grad(fast, hidden)[0]
        monkeypatch.setattr(torch_modules, "_HOOKS", ("_hooks_of_another_name",))
        assert is_hooked(head)
        slow = loss_sum(hidden, head, targets)
        assert type(slow.grad_fn) is not type(fast.grad_fn)
        torch.testing.assert_close(slow, fast)
        torch.testing.assert_close(torch.autograd.grad(slow, hidden)[0], fast_gradient)


class Doubled(nn.Module):
    """Twice what the layer makes."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class TestExtend:
    def layer(self) -> Any:
        layer = nn.Linear(3, 2)
        layer.register_buffer("noted", torch.ones(1))
        extend(layer, Doubled)
        return layer

    def test_it_stays_the_layer_that_it_was(self) -> None:
        layer = nn.Linear(3, 2)
        weight, x = layer.weight, torch.randn(4, 3)
        before = layer(x)
        hooked: list[int] = []
        layer.register_forward_hook(lambda *arguments: hooked.append(1))
        extend(layer, Doubled)
        assert torch.equal(layer(x), 2 * before)
        assert layer.weight is weight and hooked == [1]
        assert isinstance(layer, nn.Linear) and type(layer).__name__ == "Linear"

    def test_twice_is_once(self) -> None:
        layer, x = self.layer(), torch.randn(4, 3)
        before, kind = layer(x), type(layer)
        extend(layer, Doubled)
        assert type(layer) is kind and torch.equal(layer(x), before)

    @pytest.mark.parametrize(
        "way", [copy.deepcopy, copy.copy, lambda layer: pickle.loads(pickle.dumps(layer))]
    )
    def test_it_can_be_copied(self, way: Any) -> None:
        layer, x = self.layer(), torch.randn(4, 3)
        other = way(layer)
        assert type(other) is type(layer) and torch.equal(other(x), layer(x))
        assert torch.equal(other.noted, layer.noted)
