"""Cross-entropy over supervised positions, without keeping their logits.

Dimensions: N supervised tokens, H decoder width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mdl_toolkit.compat.torch_modules import is_hooked
from mdl_toolkit.model.kernels.linear import Layout, is_plain, layout_of, linear, transposed
from mdl_toolkit.model.kernels.second_order import traced_gradients

#: Logits in flight, float32: 128 MiB on a CPU, 512 MiB on a GPU, where reading the head again for every chunk
#: must not outweigh the arithmetic (880 rows of a vocabulary of 152,064).
CHUNK_ELEMENTS = {"cpu": 1 << 25}
CHUNK_ELEMENTS_ELSEWHERE = 1 << 27


def loss_sum(hidden: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of N tokens.

    Logits exist for a chunk of positions at a time. Where the head is frozen and plain, their gradient is
    taken in the forward pass, so that the backward pass has nothing to recompute.

    Args:
        hidden: [N, H] states from which the targets are predicted.
        head: The projection to the vocabulary.
        targets: [N] token ids.

    Returns:
        A float32 scalar.
    """
    if hidden.shape[0] == 0:
        return hidden.float().sum()
    if _plain_and_frozen(head):
        total = _FrozenHeadLoss.apply(hidden, head.weight, layout_of(head), targets)  # type: ignore[no-untyped-call]
        assert isinstance(total, Tensor)
        return total
    size = chunk_rows(hidden, _vocabulary(head))
    pieces = list(zip(torch.split(hidden, size), torch.split(targets, size), strict=True))
    if len(pieces) == 1 or not torch.is_grad_enabled():
        sums = [_chunk_loss(head, *piece) for piece in pieces]
    else:
        sums = [checkpoint(_chunk_loss, head, *piece, use_reentrant=False) for piece in pieces]
    return torch.stack(sums).sum()


def chunk_rows(hidden: Tensor, vocabulary: int) -> int:
    """Positions whose logits are formed together: chunks of nearly equal size within the bound."""
    most = CHUNK_ELEMENTS.get(hidden.device.type, CHUNK_ELEMENTS_ELSEWHERE) // vocabulary
    chunks = math.ceil(hidden.shape[0] / max(1, most))
    return math.ceil(hidden.shape[0] / chunks)


def _vocabulary(head: nn.Module) -> int:
    features = getattr(head, "out_features", 0)
    return int(features) if features else 1 << 17


def _plain_and_frozen(head: nn.Module) -> bool:
    """Whether the head is a linear layer that nothing wraps, hooks, shards or trains."""
    return (
        is_plain(head)
        and head.bias is None
        and not head.weight.requires_grad
        and type(head.weight.data) is Tensor
        and not is_hooked(head)
    )


def _chunk_loss(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="sum")


class _FrozenHeadLoss(torch.autograd.Function):
    """Summed cross-entropy of a frozen linear head; the states' gradient is made together with the loss."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, layout: Layout | None, targets: Tensor) -> Tensor:
        """Walk the positions in chunks: logits, loss, gradient of the states."""
        wanted = ctx.needs_input_grad[0]
        size = chunk_rows(hidden, weight.shape[0])
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if wanted else None
        for start in range(0, hidden.shape[0], size):
            rows = slice(start, start + size)
            logits = linear(hidden[rows], weight, layout=layout).float()
            index = targets[rows, None]
            norm = logits.logsumexp(1, keepdim=True)
            total += (norm - logits.gather(1, index)).sum()
            if gradient is not None:
                softmax = logits.sub_(norm).exp_()
                softmax.scatter_add_(1, index, softmax.new_full((1, 1), -1.0).expand_as(index))
                gradient[rows] = transposed(softmax.to(weight.dtype), weight, layout)
        if gradient is not None:
            ctx.save_for_backward(gradient, hidden, weight, targets)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        """Scale the gradient that the forward pass has made."""
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        gradient, hidden, weight, targets = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of this gradient are wanted; no chunks then

            def plain(hidden: Tensor) -> Tensor:
                return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")

            return *traced_gradients(plain, (hidden,), (True,), gradients[0]), None, None, None  # type: ignore
        return gradient * gradients[0].to(gradient.dtype), None, None, None
