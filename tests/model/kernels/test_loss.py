"""The loss over supervised positions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mdl_toolkit.model.kernels import loss
from mdl_toolkit.model.kernels.loss import chunk_rows, loss_sum
from support.data.rows import packed


def case_of(rows=11, width=6, vocabulary=13, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(width, vocabulary, bias=False, dtype=dtype)
    with torch.no_grad():
        head.weight.copy_(torch.randn(vocabulary, width, generator=generator))
    hidden = torch.randn(rows, width, generator=generator).to(dtype).requires_grad_()
    return hidden, head, torch.randint(0, vocabulary, (rows,), generator=generator)


@pytest.fixture(params=[13, 4 * 13, 1 << 20], ids=["a row at a time", "four rows", "all at once"])
def chunks(request, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", {"cpu": request.param})


class Wrapped(nn.Module):
    """A head that is not a plain linear layer, as adapters and sharding make it."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.out_features = linear, linear.out_features

    def forward(self, x):
        return self.linear(x)


@pytest.mark.parametrize("kind", ["frozen", "trained", "wrapped", "wrapped and frozen"])
def test_sum_and_gradients(chunks, kind):
    hidden, head, targets = case_of()
    head.requires_grad_("frozen" not in kind)
    expected = F.cross_entropy(head(hidden).float(), targets, reduction="sum")
    trained = [p for p in head.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(2.5 * expected, [hidden, *trained])
    got = loss_sum(hidden, Wrapped(head) if "wrapped" in kind else head, targets)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    (2.5 * got).backward()
    mine = [hidden.grad, *[p.grad for p in trained]]
    for one, other in zip(mine, gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kind", ["frozen", "trained"])
def test_without_gradients(chunks, kind):
    hidden, head, targets = case_of()
    head.requires_grad_(kind == "trained")
    with torch.no_grad():
        got = loss_sum(hidden, head, targets)
    assert not got.requires_grad
    assert got.item() == pytest.approx(
        F.cross_entropy(head(hidden), targets, reduction="sum").item(), rel=1e-6
    )


@pytest.mark.parametrize("kind", ["frozen", "trained"])
def test_no_supervised_token_is_a_zero_that_can_be_differentiated(kind):
    hidden, head, targets = case_of(rows=3)
    head.requires_grad_(kind == "trained")
    total = loss_sum(hidden[:0], head, targets[:0])
    total.backward()
    assert total.item() == 0.0 and total.dtype == torch.float32
    assert hidden.grad.abs().max() == 0


def test_a_hooked_head_is_called(chunks):
    """Hooks (of offloading, of sharding) see every use of the head: its weight isn't taken behind them."""
    hidden, head, targets = case_of()
    head.requires_grad_(False)
    calls = []
    head.register_forward_pre_hook(lambda *_: calls.append(1))
    loss_sum(hidden, head, targets)
    assert calls


def test_extreme_logits_stay_finite(chunks):
    hidden, head, targets = case_of(dtype=torch.float32)
    head.requires_grad_(False)
    scaled = (hidden.detach() * 1e4).requires_grad_()
    total = loss_sum(scaled, head, targets)
    total.backward()
    expected = F.cross_entropy(head(scaled), targets, reduction="sum")
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert scaled.grad.isfinite().all()


def test_chunks_are_of_nearly_one_size(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", {"cpu": 1000})
    hidden = torch.empty(205, 1)
    assert chunk_rows(hidden, 10) == 69  # three of 69, 69, 67 rather than two of 100 and one of 5
    assert chunk_rows(hidden, 100_000) == 1
    assert chunk_rows(torch.empty(7, 1), 1) == 7


def test_only_supervised_positions_have_logits(tiny):
    """The head sees as many rows as there are targets, whatever the length of the batch."""
    case = tiny()
    rows = [case.row(8000, answer=3, seed=1), case.row(30000, answer=5, seed=2)]
    seen = []
    hook = case.model.decoder.lm_head.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        case.model(**packed(rows, case.placeholder))
    finally:
        hook.remove()
    assert seen == [8]


def test_a_frozen_head_takes_the_fused_path_with_the_same_gradients(tiny):
    case = tiny("qwen3")
    batch = packed([case.row(8000, seed=1), case.row(5000, seed=2)], case.placeholder)
    expected = case.model(**batch).loss_sum
    expected.backward()
    gradient = case.model.audio_projector.net[2].weight.grad.clone()
    case.model.zero_grad()
    case.model.decoder.requires_grad_(False)
    got = case.model(**batch).loss_sum
    got.backward()
    assert got.grad_fn.name().startswith("_FrozenHeadLoss")
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    scale = float(gradient.abs().max())
    assert torch.allclose(case.model.audio_projector.net[2].weight.grad, gradient, atol=2e-5 * scale)
