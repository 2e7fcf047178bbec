"""Gradients that can be differentiated again, for functions with a backward pass of their own.

A backward pass written for speed works on plain numbers: autograd can't see what it does, and takes parts of
a gradient of a gradient for zero, in silence. Where one is wanted (``create_graph=True``, by which autograd
runs a backward pass with gradients enabled), the passes of this package leave the work to autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def traced_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], wanted: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of ``function(*inputs)``, as functions of the inputs and of ``gradient``.

    Args:
        function: Written in operations that autograd knows.
        inputs: The saved inputs, still connected to the graph that they come from.
        wanted: Which of them need a gradient.
        gradient: The gradient of the function's value.

    Returns:
        One for each input; ``None`` where none is wanted.
    """
    with torch.enable_grad():
        # Of aliases, so that an input that was made of another one keeps its own share of the gradient.
        aliases = [tensor.view_as(tensor) for tensor in inputs]
        value = function(*aliases)
    sought = [alias for alias, want in zip(aliases, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(value, sought, gradient, create_graph=True)) if sought else iter(())
    return tuple(next(found) if want else None for want in wanted)
