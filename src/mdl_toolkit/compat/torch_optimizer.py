"""An update of the optimizer that may be held back on the device."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor


@functools.cache
def heeds_found_inf() -> bool:
    """Whether fused AdamW leaves everything as it is where its ``found_inf`` is 1: tried once, on one number.

    ``found_inf`` is what ``torch.amp.GradScaler`` sets on a fused optimizer. The public way is that class,
    which sets it only for gradients that it has scaled and looked through itself, on this process alone.
    Fall-back: :func:`step_unless` asks the host, which then waits for the device in each step.
    """
    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.float32, device="cpu"))
    optimizer: Any = torch.optim.AdamW([parameter], lr=1.0, fused=True)
    parameter.grad = torch.ones_like(parameter)
    optimizer.found_inf = torch.ones((), dtype=torch.float32, device="cpu")
    optimizer.step()
    steps = optimizer.state[parameter].get("step", torch.zeros(()))
    return float(parameter.detach()) == 1.0 and float(steps) == 0.0


def step_unless(hold_back: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Update the parameters, except where ``hold_back`` is 1.

    Args:
        hold_back: A float32 scalar on the parameters' device, 0 or 1.
        optimizer: A fused AdamW.
    """
    if heeds_found_inf():
        optimizer.found_inf = hold_back  # type: ignore[attr-defined]
        optimizer.step()
    elif not bool(hold_back):
        optimizer.step()
