"""Attention over packed sequences on this machine: one call a length, padding, one block-diagonal mask.

    python -m benchmarks.model.attention [--repeats 20]

Forward and backward passes together. The result decided what ``mdl_toolkit.model.kernels.attention`` does
where there is no variable-length kernel.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import emit, spread
from mdl_toolkit.model.kernels.attention import Packing, packed_attention

SHAPES = {
    # name: (query heads, key heads, width of a head, causal, lengths)
    "encoder, 8 clips of 0.2 to 5 s": (8, 8, 64, False, (5, 20, 38, 52, 71, 90, 108, 125)),
    "encoder, 4 clips of 25 s": (8, 8, 64, False, (252, 252, 121) * 4),
    "encoder, 32 clips of 0.3 s": (8, 8, 64, False, (7,) * 16 + (8,) * 16),
    "decoder, 8 rows of 45 to 70 tokens": (12, 4, 64, True, (45, 48, 52, 55, 58, 62, 66, 69)),
    "decoder, 8 rows of 40 to 400 tokens": (12, 4, 64, True, (40, 60, 90, 120, 160, 220, 300, 400)),
}
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_length(lengths: tuple[int, ...], causal: bool) -> Attend:
    packing = Packing.build(lengths, torch.device("cpu"), causal=causal)
    return lambda q, k, v: packed_attention(q, k, v, packing)


def padded(lengths: tuple[int, ...], causal: bool) -> Attend:
    """All sequences in one call, padded to the longest; keys beyond a sequence's end are masked."""
    longest, count = max(lengths), len(lengths)
    rows = torch.cat([torch.arange(n) + i * longest for i, n in enumerate(lengths)])
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            x.new_zeros(count * longest, *x.shape[1:])
            .index_copy(0, rows, x)
            .view(count, longest, *x.shape[1:])
            .transpose(1, 2)
            for x in (q, k, v)
        )
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if causal else mask[:, None, None],
            is_causal=causal,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return out.transpose(1, 2).flatten(0, 1).index_select(0, rows)

    return attend


def block_diagonal(lengths: tuple[int, ...], causal: bool) -> Attend:
    """One call over everything, with a mask that keeps sequences apart."""
    mask = torch.block_diag(*[torch.ones(n, n) for n in lengths]).bool()
    mask = mask.tril() if causal else mask

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return out[0].transpose(0, 1)

    return attend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    generator = torch.Generator().manual_seed(0)
    ways = {"by length": by_length, "padded": padded, "block-diagonal mask": block_diagonal}
    for name, (heads, key_heads, width, causal, lengths) in SHAPES.items():
        q, k, v = (
            torch.randn(sum(lengths), count, width, generator=generator).requires_grad_()
            for count in (heads, key_heads, key_heads)
        )
        attends = {way: make(lengths, causal) for way, make in ways.items()}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        expected = attends["by length"](q, k, v)
        for _ in range(repeats):
            for way, attend in attends.items():
                start = time.perf_counter()
                out = attend(q, k, v)
                torch.autograd.grad(out.sum(), (q, k, v))
                seconds[way].append(1e3 * (time.perf_counter() - start))
                assert torch.allclose(out, expected, atol=1e-5)
        base = float(np.median(seconds["by length"]))
        for way, times in seconds.items():
            emit(
                "model_attention",
                shape=name,
                way=way,
                milliseconds=spread(times),
                times_by_length=round(float(np.median(times)) / base, 2),
                threads=torch.get_num_threads(),
            )


if __name__ == "__main__":
    main()
