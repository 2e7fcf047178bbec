"""Compiling the repeated blocks: the same numbers, and no compilation for every new set of lengths."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from model.kernels.test_attention import stand_in  # noqa: F401 -- a fixture
from support.data.rows import packed

# (The first has another number of targets than a head has channels, or dynamo holds the two for one size.)
LENGTHS = [(4000, 9000, 6500), (5000, 7001), (3690, 12000, 6500), (8000,), (4100, 4100, 4100), (15000, 3300)]


@pytest.mark.parametrize("way", ["by length", "kernel"])
def test_blocks_compile_once(tiny, request, way):
    if way == "kernel":
        request.getfixturevalue("stand_in")
    case = tiny(label=way)
    batches = [
        packed([case.row(n, seed=i) for i, n in enumerate(lengths)], case.placeholder) for lengths in LENGTHS
    ]
    case.model.train()
    expected = [case.model(**batch).loss_sum.item() for batch in batches]
    torch._dynamo.reset()
    counters.clear()
    for block in case.model.blocks():
        assert block._compiled_call_impl is None
    names = list(case.model.state_dict())
    case.model.compile_blocks(backend="eager")
    graphs = []
    try:
        for batch, loss in zip(batches, expected, strict=True):
            total = case.model(**batch).loss_sum
            total.backward()
            graphs.append(counters["stats"]["unique_graphs"])
            assert total.item() == pytest.approx(loss, rel=1e-5)
    finally:
        for block in case.model.blocks():
            block._compiled_call_impl = None
        torch._dynamo.reset()
    assert list(case.model.state_dict()) == names
    assert graphs[-1] == graphs[1], graphs
