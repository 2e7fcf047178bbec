"""Tensors split over processes (FSDP2's DTensors): gathering, filling, and loading a model shard by shard.

A shard is a run of rows: FSDP2 splits the first dimension, and hybrid sharding repeats that on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

if TYPE_CHECKING:
    from mdl_toolkit.model.midashenglm import MiDashengLMModel


def full_tensor(tensor: Tensor) -> Tensor | None:
    """The whole of a tensor on the CPU, on rank 0 alone; a collective for a DTensor.

    Returns:
        A tensor that shares no storage with the given one; ``None`` on other processes.
    """
    main = not dist.is_initialized() or dist.get_rank() == 0
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        whole = tensor.full_tensor()
        return whole.cpu() if main else None
    return tensor.to("cpu", copy=True) if main else None


def own_rows(tensor: Tensor) -> tuple[int, int]:
    """First row and row after the last of what this process holds of a tensor."""
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
        target: A plain tensor or a DTensor; its dtype and device stay.
        source: The whole tensor, on any device, for example memory-mapped: only the rows needed are read.
    """
    if isinstance(target, DTensor):
        start, stop = own_rows(target)
        target.to_local().copy_(source[start:stop])
    else:
        target.copy_(source)


def load_shards(model: MiDashengLMModel, folder: Path, device: torch.device) -> int:
    """Give a sharded model on the meta device storage, and fill this process's rows from the folder's files.

    Nothing is read but these rows: what all processes of a machine hold together is one copy of the model.
    Adapters are left as they come: ``initialise_adapters`` of ``training/trainable/adapters.py`` fills them.

    Args:
        model: Whose names and shapes were compared with the files' before it was sharded.
        folder: The base model.
        device: Of this process.

    Returns:
        Bytes that this process read.
    """
    from mdl_toolkit.model_folders.load import named_tensors, tied_names
    from mdl_toolkit.model_folders.names import is_adapter, published_name
    from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles

    files, read = WeightFiles(folder), 0
    groups = tied_names(model)
    _materialise(model, groups, device)
    tensors = dict(named_tensors(model))
    for group in groups:
        names = [published_name(name) for name in group]
        if not is_adapter(names[0]):
            read += _fill(tensors[group[0]], files, next(name for name in names if name in files))
    model.recompute_constants()
    return read


@torch.no_grad()
def _fill(tensor: Tensor, files: Any, name: str) -> int:
    if tensor.dim() == 0:
        tensor.copy_(files.tensor(name))
        return int(files[name].bytes)
    start, stop = own_rows(tensor)
    rows = files.slice(name, start, stop)
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    local.copy_(rows)
    return int(rows.nbytes)


def _materialise(model: nn.Module, groups: list[list[str]], device: torch.device) -> None:
    """Storage for everything on the meta device, one for each group of tied names."""

    def allot(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

    apply: Callable[[Callable[[Tensor], Tensor]], Any] = model._apply
    apply(allot)
    for first, *others in groups:
        for other in others:
            owner, _, leaf = first.rpartition(".")
            tensor = getattr(model.get_submodule(owner), leaf)
            owner, _, leaf = other.rpartition(".")
            setattr(model.get_submodule(owner), leaf, tensor)


def local_bytes(tensor: Tensor) -> int:
    """Bytes that this process holds of a tensor."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.element_size()
