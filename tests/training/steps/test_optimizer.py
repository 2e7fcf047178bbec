"""AdamW with updates that can be held back, and its state in a checkpoint."""

from __future__ import annotations

import pytest
import torch

from mdl_toolkit.errors import ModelError
from mdl_toolkit.training.steps.optimizer import Optimizer


def parameters(*shapes: tuple[int, ...]) -> dict[str, torch.nn.Parameter]:
    torch.manual_seed(0)
    return {f"p{i}": torch.nn.Parameter(torch.randn(*shape)) for i, shape in enumerate(shapes)}


def test_updates_are_those_of_adamw_and_decay_reaches_matrices_alone():
    ours, theirs = parameters((4, 3), (4,)), parameters((4, 3), (4,))
    optimizer = Optimizer(ours, weight_decay=0.1)
    reference = torch.optim.AdamW(
        [{"params": [theirs["p0"]], "weight_decay": 0.1}, {"params": [theirs["p1"]], "weight_decay": 0.0}]
    )
    for step in range(3):
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        for name in ours:
            gradient = torch.randn_like(ours[name])
            ours[name].grad, theirs[name].grad = gradient.clone(), gradient
        optimizer.step(0.01 * (step + 1), torch.zeros(()))
        reference.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)


def test_a_held_back_update_leaves_no_trace():
    trained = parameters((4, 3), (4,))
    optimizer = Optimizer(trained)
    for held in (0.0, 1.0, 0.0):
        before = {key: tensor.clone() for key, tensor in optimizer.tensors()}
        weights = {name: p.detach().clone() for name, p in trained.items()}
        for parameter in trained.values():
            parameter.grad = torch.full_like(parameter, float("nan") if held else 0.5)
        optimizer.step(0.1, torch.tensor(held))
        after = dict(optimizer.tensors())
        if held:
            assert all(torch.equal(before[key], after[key]) for key in before)
            assert all(torch.equal(weights[name], p) for name, p in trained.items())
        else:
            assert not any(torch.equal(weights[name], p) for name, p in trained.items())
    assert float(dict(optimizer.tensors())["step/p0"]) == 2


def test_optimizer_state_goes_out_and_in_unchanged():
    one, two = parameters((4, 3), (4,)), parameters((4, 3), (4,))
    first, second = Optimizer(one), Optimizer(two)
    for parameter in one.values():
        parameter.grad = torch.randn_like(parameter)
    first.step(0.1, torch.zeros(()))
    state = dict(first.tensors())
    assert first.layout() == {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in state.items()}
    second.load(state)
    for key, tensor in second.tensors():
        assert torch.equal(tensor, state[key])
    with pytest.raises(ModelError, match="has p1, which this run doesn't train"):
        Optimizer({"p0": two["p0"]}).load(state)
