"""Write a safetensors file tensor by tensor, so that no more than one of them need be in memory.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


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
    header: dict[str, object] = {}
    position = 0
    for name, (dtype, shape) in layout.items():
        size = dtype.itemsize * torch.Size(shape).numel()
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins aligned
    expected = iter(layout.items())
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name, tensor in tensors:
            wanted, (dtype, shape) = next(expected)
            assert (name, tensor.dtype, tuple(tensor.shape)) == (wanted, dtype, shape), f"{name} out of turn"
            raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            stream.write(raw.numpy().data)
        assert next(expected, None) is None, "fewer tensors than announced"
