"""Measured memory."""

from __future__ import annotations

import torch

from mdl_toolkit.memory import gib, peak_bytes, reset_peak

CPU = torch.device("cpu")


def test_peak_memory_sees_what_was_used():
    reset_peak(CPU)
    before = peak_bytes(CPU)
    block = torch.ones(64 * 2**20 // 4)
    assert peak_bytes(CPU) - before > 40 * 2**20
    del block
    assert gib(3 * 2**29) == "1.50 GiB"
