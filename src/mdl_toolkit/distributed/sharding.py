"""Tensors split over processes (FSDP2's DTensors): gathering and filling them.

A shard is a run of rows: FSDP2 splits the first dimension, and hybrid sharding repeats that on every machine.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


def full_tensor(tensor: Tensor) -> Tensor | None:
    """Gather a tensor on the CPU of rank 0. For a DTensor this is a collective.

    Returns:
        The whole tensor, which shares no storage with the given one; ``None`` on other processes.
    """
    main = not dist.is_initialized() or dist.get_rank() == 0
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        whole = tensor.full_tensor()
        return whole.cpu() if main else None
    return tensor.to("cpu", copy=True) if main else None


def own_rows(tensor: Tensor) -> tuple[int, int]:
    """The rows that this process holds of a tensor: the first one, and the one after the last."""
    if not isinstance(tensor, DTensor):
        return 0, tensor.shape[0] if tensor.dim() else 1
    start, stop = 0, tensor.shape[0]
    for dimension, placement in enumerate(tensor.placements):
        if isinstance(placement, Shard):
            assert placement.dim == 0, "FSDP2 splits the first dimension here"
            count, index = tensor.device_mesh.size(dimension), tensor.device_mesh.get_local_rank(dimension)
            size = -(-(stop - start) // count)  # the same rule as torch.chunk, which DTensor follows
            start, stop = min(stop, start + index * size), min(stop, start + (index + 1) * size)
    return start, stop


@torch.no_grad()
def load_full(target: Tensor, source: Tensor) -> None:
    """Copy a whole tensor into ``target``, of which this process may hold only some rows.

    Args:
        target: A plain tensor or a DTensor; it keeps its dtype and device.
        source: The whole tensor, on any device. Of a memory-mapped one, only the rows needed are read.
    """
    if isinstance(target, DTensor):
        start, stop = own_rows(target)
        target.to_local().copy_(source[start:stop])
    else:
        target.copy_(source)


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: of a DTensor its shard, else all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_first_replica(tensor: Tensor) -> None:
    """Overwrite a tensor by what the first process holds that holds the same of it; a collective."""
    local = local_part(tensor).detach()
    if not isinstance(tensor, DTensor):
        dist.broadcast(local, src=0)
        return
    for dimension, placement in enumerate(tensor.placements):
        if not isinstance(placement, Shard):
            group = tensor.device_mesh.get_group(dimension)
            dist.broadcast(local, src=dist.get_global_rank(group, 0), group=group)


def local_bytes(tensor: Tensor) -> int:
    """The number of bytes that this process holds of a tensor."""
    local = local_part(tensor)
    return local.numel() * local.element_size()
