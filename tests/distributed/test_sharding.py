"""Tensors of which each process holds some rows."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from mdl_toolkit.distributed.sharding import full_tensor, load_full, own_rows

WORLD = 4


@pytest.mark.parametrize("process_of_four", range(WORLD), indirect=True)
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 9])
def test_own_rows_are_those_of_the_shard(process_of_four: int, rows: int) -> None:
    mesh = DeviceMesh("cpu", list(range(WORLD)))
    whole = torch.arange(rows * 2.0).view(rows, 2)
    local = whole.chunk(WORLD)[process_of_four] if process_of_four < len(whole.chunk(WORLD)) else whole[:0]
    tensor = DTensor.from_local(local.clone(), mesh, [Shard(0)], shape=whole.shape, stride=whole.stride())
    start, stop = own_rows(tensor)
    assert torch.equal(whole[start:stop], tensor.to_local())
    load_full(tensor, whole + 1)
    assert torch.equal(tensor.to_local(), whole[start:stop] + 1)


def test_plain_tensors_are_whole() -> None:
    tensor = torch.randn(3, 2)
    copy = full_tensor(tensor)
    assert copy is not None and torch.equal(copy, tensor) and copy.data_ptr() != tensor.data_ptr()
    load_full(tensor, torch.zeros(3, 2))
    assert not tensor.any() and copy.any()
