"""Attention over packed sequences, by whichever way it is computed."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mdl_toolkit.model.kernels import attention
from mdl_toolkit.model.kernels.attention import Packing, packed_attention
from support.data.rows import packed
from support.models import kernel

CPU = torch.device("cpu")
CASES: dict[str, Any] = {
    # lengths, key lengths, query heads, key heads, causal, window
    "full": ((3, 1, 5), None, 4, 4, False, None),
    "equal lengths share a call": ((4, 2, 4, 4), None, 2, 2, False, None),
    "masked last rows": ((3, 4, 3), (2, 4, 3), 2, 2, False, None),
    "nothing to attend to": ((3, 1, 2, 1), (3, 0, 1, 0), 2, 2, False, None),
    "causal": ((3, 1, 5), None, 4, 4, True, None),
    "causal with shared key heads": ((3, 6), None, 6, 2, True, None),
    "sliding window": ((3, 7), None, 4, 2, True, 2),
    "window that reaches everywhere": ((3, 7), None, 4, 2, True, 7),
    "one sequence": ((5,), None, 2, 2, True, None),
}


def naive(query, key, value, lengths, keys, causal, window, scale):
    out = torch.zeros_like(query)
    start = 0
    for length, count in zip(lengths, keys or lengths, strict=True):
        for head in range(query.shape[1]):
            shared = head * key.shape[1] // query.shape[1]
            for i in range(length):
                seen = [
                    j for j in range(count) if not causal or (j <= i and (window is None or i - j < window))
                ]
                if seen:
                    rows = [start + j for j in seen]
                    scores = key[rows, shared] @ query[start + i, head] * scale
                    out[start + i, head] = scores.softmax(0) @ value[rows, shared]
        start += length
    return out


def inputs(lengths, heads, key_heads, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def made(count: int) -> Tensor:
        return torch.randn(sum(lengths), count, 8, generator=generator).to(dtype).requires_grad_()

    return made(heads), made(key_heads), made(key_heads)


@pytest.fixture
def stand_in(monkeypatch):
    """The variable-length kernel, computed on the CPU."""
    calls = kernel.install()
    calls.clear()
    build = Packing.build
    monkeypatch.setattr(attention, "has_kernel", lambda query: True)
    monkeypatch.setattr(
        attention.Packing, "build", lambda *args, **kwargs: build(*args, **{**kwargs, "kernel": True})
    )
    return calls


@pytest.mark.parametrize("way", ["by length", "kernel"])
@pytest.mark.parametrize("case", CASES)
def test_each_sequence_by_itself(request, way, case):
    lengths, keys, heads, key_heads, causal, window = CASES[case]
    calls = request.getfixturevalue("stand_in") if way == "kernel" else []
    rows = inputs(lengths, heads, key_heads)
    packing = Packing.build(lengths, CPU, key_lengths=keys, causal=causal)
    got = packed_attention(*rows, packing, scale=0.3, window=window)
    expected = naive(*rows, lengths, keys, causal, window, 0.3)
    assert torch.allclose(got, expected, atol=1e-12)
    weight = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(
        torch.autograd.grad((got * weight).sum(), rows),
        torch.autograd.grad((expected * weight).sum(), rows),
        strict=True,
    ):
        assert mine.isfinite().all()
        assert torch.allclose(mine, theirs, atol=1e-12)
    assert bool(calls) == (way == "kernel" and (window is None or window >= max(lengths)))


def test_the_default_scale_is_that_of_the_width():
    rows = inputs((3, 4), 2, 2)
    packing = Packing.build((3, 4), CPU)
    assert torch.allclose(
        packed_attention(*rows, packing), packed_attention(*rows, packing, scale=1 / math.sqrt(8))
    )


def test_older_bindings_of_the_kernel(stand_in, monkeypatch):
    """Before torch 2.11 it took neither scale nor window, before 2.12 no shared key heads."""
    newest = attention.varlen_attn  # type: ignore[attr-defined]

    def oldest(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
        options: dict = {"window_size": (-1, 0) if is_causal else (-1, -1)}
        if "window_size" not in inspect.signature(newest).parameters:  # this torch is such a one
            options = {"is_causal": is_causal}
        return newest(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options)

    rows = inputs((3, 6), 6, 2)
    packing = Packing.build((3, 6), CPU, causal=True)
    expected = packed_attention(*rows, packing, scale=0.3)
    monkeypatch.setattr(attention, "varlen_attn", oldest)
    monkeypatch.setattr(attention, "_KERNEL_OPTIONS", frozenset({"is_causal"}))
    assert torch.allclose(packed_attention(*rows, packing, scale=0.3), expected, atol=1e-12)
    assert len(stand_in) == 2


def test_the_kernel_gets_no_masked_rows(stand_in):
    """Masked keys and queries that see nothing are left out, not computed and thrown away."""
    rows = inputs((3, 1, 4), 2, 2)
    packed_attention(*rows, Packing.build((3, 1, 4), CPU, key_lengths=(2, 0, 4)))
    assert stand_in == [(7, 6)]


def test_dropout_of_attention_weights_is_honoured(stand_in):
    """The kernel has no dropout, so a decoder trained with it goes another way."""
    rows = inputs((4,), 2, 2)
    packing = Packing.build((4,), CPU, causal=True)
    torch.manual_seed(0)
    dropped = packed_attention(*rows, packing, dropout=0.5)
    assert not stand_in
    assert not torch.allclose(dropped, packed_attention(*rows, packing))


def test_half_precision_on_a_cpu_is_computed_in_float32():
    rows = inputs((30, 20), 2, 2, torch.bfloat16)
    packing = Packing.build((30, 20), CPU, causal=True)
    got = packed_attention(*rows, packing)
    query, key, value = (one.double() for one in rows)
    exact = packed_attention(query, key, value, packing)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, exact.to(torch.bfloat16))


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
def test_the_whole_model_through_the_kernel(tiny, request, decoder):
    """Same loss and gradients as without it, masked chunks included."""
    case = tiny(decoder, audio_encoder_config={"target_length": 36})
    rows = [case.row(samples, seed=i) for i, samples in enumerate((3690, 6300, 9000))]
    batch = packed(rows, case.placeholder)
    without = case.model(**batch).loss_sum
    without.backward()
    expected = {name: p.grad.clone() for name, p in case.model.named_parameters()}
    case.model.zero_grad()
    calls = request.getfixturevalue("stand_in")
    total = case.model(**batch).loss_sum
    total.backward()
    patches = sum(case.model.geometry.patches(len(row["waveform"])) for row in rows)
    assert calls[0] == (patches - 1, patches - 2)  # a masked patch, and a chunk of one masked patch
    assert calls[-1] == (len(batch["input_ids"]),) * 2
    assert len(calls) == 4
    assert torch.allclose(total, without, atol=1e-4)
    for name, parameter in case.model.named_parameters():
        scale = float(expected[name].abs().max())
        assert (parameter.grad - expected[name]).abs().max() <= 2e-5 * scale + 1e-7, name
