"""A slow CPU stand-in for torch's variable-length attention kernel: the code around it runs without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import varlen


def _sequences(q: Tensor, k: Tensor, starts_q: Tensor, starts_k: Tensor) -> Iterator[tuple[slice, slice]]:
    assert starts_q.dtype == starts_k.dtype == torch.int32
    assert int(starts_q[-1]) == len(q) and int(starts_k[-1]) == len(k)
    for i in range(len(starts_q) - 1):
        a, b, c, d = int(starts_q[i]), int(starts_q[i + 1]), int(starts_k[i]), int(starts_k[i + 1])
        assert b > a and d > c, "the kernel is only given sequences with queries and keys"
        yield slice(a, b), slice(c, d)


def _weights(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """Attention weights of one sequence: [heads, queries, keys]; causal masks end together."""
    scores = torch.einsum("qhe,khe->hqk", q, k) * scale
    if causal:
        shift = len(k) - len(q)
        late = torch.arange(len(k))[None] > torch.arange(len(q))[:, None] + shift
        scores = scores.masked_fill(late, -torch.inf)
    return scores.softmax(-1)


def _shared(rows: Tensor, heads: int) -> Tensor:
    return rows.repeat_interleave(heads // rows.shape[1], 1)


@cache
def install() -> list[tuple[int, int]]:
    """Give torch's kernel a CPU implementation.

    Returns:
        A list to which every forward call adds (rows of queries, rows of keys).
    """
    calls: list[tuple[int, int]] = []

    @varlen._varlen_attn.register_kernel("cpu")
    def forward(q, k, v, cu_q, cu_k, max_q, max_k, is_causal=False, scale=None, *rest):
        assert max_q >= int(cu_q.diff().max()) and max_k >= int(cu_k.diff().max())
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        calls.append((len(q), len(k)))
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        keys, values, out = _shared(k, q.shape[1]), _shared(v, q.shape[1]), torch.empty_like(q)
        for one, other in _sequences(q, k, cu_q, cu_k):
            weights = _weights(q[one], keys[other], is_causal, scale)
            out[one] = torch.einsum("hqk,khe->qhe", weights, values[other])
        return out, q.new_zeros(q.shape[1], q.shape[0]), torch.zeros(2, dtype=torch.uint64)

    @varlen._varlen_attn_backward.register_kernel("cpu")
    def backward(grad, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, is_causal, rng, scale=None, *rest):
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        keys, values = _shared(k, q.shape[1]), _shared(v, q.shape[1])
        grads = [torch.zeros_like(rows) for rows in (q, keys, values)]
        for one, other in _sequences(q, k, cu_q, cu_k):
            weights = _weights(q[one], keys[other], is_causal, scale)
            to_weights = torch.einsum("qhe,khe->hqk", grad[one], values[other])
            to_scores = weights * (to_weights - (to_weights * weights).sum(-1, keepdim=True)) * scale
            grads[0][one] = torch.einsum("hqk,khe->qhe", to_scores, keys[other])
            grads[1][other] = torch.einsum("hqk,qhe->khe", to_scores, q[one])
            grads[2][other] = torch.einsum("hqk,qhe->khe", weights, grad[one])
        summed = [rows.view(len(k), k.shape[1], -1, k.shape[2]).sum(2) for rows in grads[1:]]
        return grads[0], *summed

    return calls
