"""An update that is held back: by the optimizer itself, or by asking the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mdl_toolkit.compat import torch_optimizer
from mdl_toolkit.compat.torch_optimizer import heeds_found_inf, step_unless


def test_this_torchs_fused_optimizer_holds_back() -> None:
    assert heeds_found_inf()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_probe_needs_no_dtype_or_device_of_its_own(dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            assert heeds_found_inf.__wrapped__()
    finally:
        torch.set_default_dtype(before)


def trained(held_back: list[bool]) -> list[torch.Tensor]:
    """Weights and state after as many steps, some of them held back."""
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(4, 3))
    optimizer: Any = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    for hold in held_back:
        parameter.grad = torch.full_like(parameter, torch.nan) if hold else torch.randn(4, 3)
        step_unless(torch.tensor(float(hold)), optimizer)
    state = optimizer.state[parameter]
    return [parameter.detach(), state["exp_avg"], state["exp_avg_sq"], state["step"]]


@pytest.mark.parametrize("held_back", [[False, False], [False, True, False], [False, True]])
def test_asking_the_host_gives_the_same_bits(held_back: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    on_device = trained(held_back)
    monkeypatch.setattr(torch_optimizer, "heeds_found_inf", lambda: False)
    asked = trained(held_back)
    assert all(torch.equal(one, other) for one, other in zip(on_device, asked, strict=True))
    assert int(asked[-1]) == held_back.count(False) and torch.isfinite(asked[0]).all()
