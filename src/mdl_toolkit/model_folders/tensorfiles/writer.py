"""Write a safetensors file tensor by tensor, so that no more than one of them need be in memory.

Why not safetensors' ``save_file``? It takes all tensors at once. Writing 1 GiB of tensors as they are made
needs 131 MiB here, 1,026 MiB by its version 0.8.0 and 2,050 MiB by 0.5.0, which copies them all; the times
are alike. What both write is the same to the byte.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mdl_toolkit.files import ending_with
from mdl_toolkit.model_folders.tensorfiles.headers import DTYPES

_CODES = {getattr(torch, name): code for code, (name, _) in DTYPES.items()}


def write_tensors(
    path: Path,
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    tensors: Iterable[tuple[str, Tensor]],
) -> None:
    """Write tensors that arrive one at a time.

    Args:
        path: The file.
        layout: Dtype and shape of each, in the order in which they arrive.
        tensors: Names and tensors on the CPU.

    Raises:
        OSError: The disk is full, or the file can't be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape) in layout.items():
        size = dtype.itemsize * torch.Size(shape).numel()
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins aligned
    expected = iter(layout.items())
    stream = open(path, "wb")  # noqa: SIM115 -- closed in any case, by ending_with
    with ending_with(stream.close):
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name, tensor in tensors:
            wanted, (dtype, shape) = next(expected)
            assert (name, tensor.dtype, tuple(tensor.shape)) == (wanted, dtype, shape), f"{name} out of turn"
            raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            stream.write(raw.numpy().data)
        assert next(expected, None) is None, "fewer tensors than announced"


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors that are there already, on any device.

    Those of larger elements come first, so that all lie aligned.

    Raises:
        OSError: The disk is full, or the file can't be written.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    layout = {name: (tensors[name].dtype, tuple(tensors[name].shape)) for name in names}
    write_tensors(path, layout, ((name, tensors[name].detach().to("cpu")) for name in names))
