"""Attention over sequences that lie end to end, with no padding and no masks.

On a GPU in half precision, without dropout and sliding windows, one variable-length kernel takes all
sequences. Elsewhere each length is a call of
``scaled_dot_product_attention`` of its own, which ``benchmarks/model/attention.py`` measures against padding
and a block-diagonal mask.

The decoder, which is transformers', reaches this through their attention interface, under the name
:data:`PACKED_ATTENTION`. Forwards that bring no :class:`Packing` go to transformers' own SDPA attention.

Dimensions: T rows of all sequences, Hq and Hk query and key heads, E width of a head.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mdl_toolkit.model.layout import ragged_arange, to_device

#: Name of the decoder's attention in transformers' interface.
PACKED_ATTENTION = "mdl_packed"
#: What the kernel's binding takes: it got windows and scales in torch 2.11 and shared key heads in 2.12.
_KERNEL_OPTIONS = frozenset(inspect.signature(varlen_attn).parameters)


@dataclass(eq=False)
class Packing:
    """How sequences lie in packed rows.

    Attributes:
        lengths: Rows of each sequence; all of them are queries.
        key_lengths: How many of a sequence's rows, from the first, are keys.
        causal: Whether a query sees only keys that are not after it.
        query_rows: Rows that have any key at all; ``None`` where all have.
        key_rows: Rows that are keys; ``None`` where all are.
        query_starts: [sequences + 1] int32 cumulative rows for the GPU kernel, of sequences that have keys.
        key_starts: [sequences + 1] int32 cumulative keys, likewise.
        longest: Most rows of any sequence.
        keep_rows: Rows that are wanted of the decoder's last layer; ``None`` for all.
    """

    lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    causal: bool
    query_rows: Tensor | None
    key_rows: Tensor | None
    query_starts: Tensor | None
    key_starts: Tensor | None
    longest: int
    keep_rows: Tensor | None = None

    @cached_property
    def groups(self) -> dict[tuple[int, int], list[int]]:
        """Which sequences have each (length, key length)."""
        found: dict[tuple[int, int], list[int]] = {}
        for index, shape in enumerate(zip(self.lengths, self.key_lengths, strict=True)):
            found.setdefault(shape, []).append(index)
        return found

    @classmethod
    def build(
        cls,
        lengths: Sequence[int],
        device: torch.device,
        *,
        key_lengths: Sequence[int] | None = None,
        causal: bool = False,
        kernel: bool | None = None,
    ) -> Packing:
        """Describe sequences of the given lengths.

        Args:
            lengths: Rows of each sequence.
            device: The device of the rows.
            key_lengths: How many of them, from the first, are keys; all by default.
            causal: Whether a query sees only keys that are not after it.
            kernel: Whether to prepare what the kernel needs; by default everywhere but on a CPU.
        """
        lengths = tuple(lengths)
        keys = lengths if key_lengths is None else tuple(key_lengths)
        longest = max(lengths, default=0)
        if not (device.type != "cpu" if kernel is None else kernel):
            return cls(lengths, keys, causal, None, None, None, None, longest)
        seeing = [(length, count) for length, count in zip(lengths, keys, strict=True) if count]
        arrays = [
            np.array([0, *accumulate(length for length, _ in seeing)], dtype=np.int64),
            np.array([0, *accumulate(count for _, count in seeing)], dtype=np.int64),
        ]
        if keys != lengths:
            starts = np.array([0, *accumulate(lengths)][:-1], dtype=np.int64)
            counts = np.array(keys, dtype=np.int64)
            queries = np.where(counts > 0, np.array(lengths, dtype=np.int64), 0)
            arrays += [
                np.repeat(starts, queries) + ragged_arange(queries),
                np.repeat(starts, counts) + ragged_arange(counts),
            ]
        query_starts, key_starts, *rows = to_device(arrays, device)
        query_rows, key_rows = rows if rows else (None, None)
        if len(seeing) == len(lengths):
            query_rows = None
        return cls(lengths, keys, causal, query_rows, key_rows, query_starts.int(), key_starts.int(), longest)


def has_kernel(query: Tensor) -> bool:
    """Whether the variable-length kernel takes such queries: half precision, on a GPU from the A100 on."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    *,
    scale: float | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention within each of several sequences that lie end to end.

    Args:
        query: [T, Hq, E].
        key: [T, Hk, E]; Hq is a multiple of Hk.
        value: [T, Hk, E].
        packing: Says where sequences begin and which rows are keys. A sequence without any key gets zeros.
        scale: The factor of the scores; 1/√E by default.
        window: Keys that a query sees at most, itself included (causal sequences only).
        dropout: The dropout rate of the attention weights.

    Returns:
        [T, Hq, E].
    """
    if window is not None and window >= packing.longest:
        window = None
    if dropout == 0.0 and window is None and packing.query_starts is not None and has_kernel(query):
        return _kernel_attention(query, key, value, packing, scale)
    dtype = query.dtype
    if query.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        # The CPU's half-precision attention is ten times slower than its float32 one, conversions included.
        query, key, value = query.float(), key.float(), value.float()
    out: Tensor = _attention_by_length(query, key, value, packing, scale, window, dropout)
    return out.to(dtype)


def _kernel_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float | None
) -> Tensor:
    queries = query if packing.query_rows is None else query.index_select(0, packing.query_rows)
    if packing.key_rows is not None:
        key, value = key.index_select(0, packing.key_rows), value.index_select(0, packing.key_rows)
    options: dict[str, Any] = {}
    if "window_size" in _KERNEL_OPTIONS:
        options = {"window_size": (-1, 0) if packing.causal else (-1, -1), "scale": scale}
    else:
        options = {"is_causal": packing.causal}
        if scale is not None:
            queries = queries * (scale * math.sqrt(query.shape[-1]))
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in _KERNEL_OPTIONS:
            options["enable_gqa"] = True
        else:
            key, value = (rows.repeat_interleave(query.shape[1] // rows.shape[1], 1) for rows in (key, value))
    starts, longest = (packing.query_starts, packing.key_starts), (packing.longest, packing.longest)
    out: Tensor = varlen_attn(queries, key, value, *starts, *longest, **options)  # type: ignore
    if packing.query_rows is None:
        return out
    return torch.zeros_like(query).index_copy(0, packing.query_rows, out)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attention_by_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    scale: float | None,
    window: int | None,
    dropout: float,
) -> Tensor:
    """One call of SDPA for each length; sequences of equal length and keys share it."""
    queries, keys, values = (torch.split(rows, list(packing.lengths)) for rows in (query, key, value))
    outputs: list[Tensor] = [query] * len(queries)
    for (length, count), members in packing.groups.items():
        if count == 0:
            for member in members:
                outputs[member] = query.new_zeros(queries[member].shape)
            continue
        attended = F.scaled_dot_product_attention(
            _together(queries, members, length),
            _together(keys, members, count),
            _together(values, members, count),
            attn_mask=_window_mask(length, window, query.device) if packing.causal else None,
            is_causal=packing.causal and (window is None or window >= length),
            scale=scale,
            dropout_p=dropout,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for member, rows in zip(members, attended.transpose(1, 2).unbind(), strict=True):
            outputs[member] = rows
    return torch.cat(outputs) if outputs else torch.zeros_like(query)


def _together(parts: Sequence[Tensor], members: Sequence[int], rows: int) -> Tensor:
    """The first rows of some sequences as one batch: [members, heads, rows, width]."""
    chosen = [parts[member] if parts[member].shape[0] == rows else parts[member][:rows] for member in members]
    # A batch of one is a view: nothing is copied.
    batch = chosen[0][None] if len(chosen) == 1 else torch.stack(chosen)
    return batch.transpose(1, 2)


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    if window is None or window >= length:
        return None
    row = torch.arange(length, device=device)
    distance = row[:, None] - row[None, :]
    return (distance >= 0) & (distance < window)


def decoder_attention(  # noqa: PLR0913, PLR0917 -- transformers' signature of an attention function
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    packing: Packing | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The decoder's attention function: packed where a packing comes along, transformers' SDPA elsewhere.

    Args:
        module: The attention module that calls.
        query: [B, Hq, T, E]; B is 1 where packed.
        key: [B, Hk, T, E].
        value: [B, Hk, T, E].
        attention_mask: The mask of a padded batch; ``None`` where packed.
        scaling: The factor of the scores.
        dropout: The dropout rate of the attention weights.
        sliding_window: Keys that a query sees at most.
        packing: Says where packed sequences begin; ``None`` for a padded batch.
        kwargs: Further arguments of transformers, passed on to its own attention.

    Returns:
        [B, T, Hq, E], and no weights.
    """
    if packing is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    out = packed_attention(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        packing,
        scale=scaling,
        window=sliding_window,
        dropout=dropout,
    )
    return out[None], None


AttentionInterface.register(PACKED_ATTENTION, decoder_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
