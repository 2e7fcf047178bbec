"""Tensors of a folder of safetensors files, memory-mapped one by one.

The header of every file is checked before any of its bytes is trusted (sizes, offsets, overlaps, truncation),
and an index may only name files of its own folder. Nothing but safetensors is ever opened.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model_folders.names import FRONT_END_CONSTANTS

INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"
_HEADER_LIMIT = 100 * 2**20
_INDEX_LIMIT = 100 * 2**20
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "model.pt", "model.pth")
_PLAIN_NAME = re.compile(r"[^/\\\0]+\.safetensors")
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: its file, first byte in that file, and what it is."""

    file: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of the tensor in bytes."""
        return self.dtype.itemsize * _product(self.shape)


class WeightFiles(Mapping[str, TensorInfo]):
    """The tensors of a folder: a mapping from names to what is known of them without reading them.

    Args:
        folder: Holds ``model.safetensors`` or shards with ``model.safetensors.index.json``.
        name: Another single file to read instead, for example ``adapter_model.safetensors``.

    Raises:
        ModelError: For missing, truncated or inconsistent files, in one line that names the file.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.folder = Path(folder)
        self._tensors: dict[str, TensorInfo] = {}
        if name is not None or (self.folder / WEIGHTS_NAME).is_file():
            self._tensors = read_header(self.folder / (name or WEIGHTS_NAME))
        elif (self.folder / INDEX_NAME).is_file():
            self._read_index(self.folder / INDEX_NAME)
        else:
            raise ModelError(f"{self.folder}: {_nothing_there(self.folder)}")

    def __getitem__(self, name: str) -> TensorInfo:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def files(self) -> list[Path]:
        """The weight files, in the order of their names."""
        return sorted({info.file for info in self._tensors.values()})

    def tensor(self, name: str) -> Tensor:
        """A tensor of the files: mapped copy-on-write, so writing to it never changes the file."""
        info = self._tensors[name]
        return _map(info, info.start, info.shape)

    def slice(self, name: str, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of a tensor's first dimension; only they are mapped."""
        info = self._tensors[name]
        row = info.dtype.itemsize * _product(info.shape[1:])
        start, stop, _ = slice(start, stop).indices(info.shape[0])
        return _map(info, info.start + start * row, (max(stop - start, 0), *info.shape[1:]))

    def fingerprint(self) -> str:
        """A digest of these weights, whatever files they are split into.

        Each tensor's name, dtype, shape, first and last 4 KiB go in (16 GiB need no whole reading to
        be told apart); the recomputed front-end constants don't.
        """
        digest = hashlib.sha256()
        for name in sorted(set(self) - FRONT_END_CONSTANTS):
            info = self[name]
            digest.update(f"{name} {info.dtype} {list(info.shape)}\n".encode())
            with open(info.file, "rb") as stream:
                for start in (info.start, info.start + max(0, info.bytes - 4096)):
                    stream.seek(start)
                    digest.update(stream.read(min(4096, info.bytes)))
        return digest.hexdigest()[:32]

    def _read_index(self, path: Path) -> None:
        index = read_json(path, _INDEX_LIMIT)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{path}: no weight_map in it; fetch the file anew")
        headers: dict[str, dict[str, TensorInfo]] = {}
        for name, file in weight_map.items():
            if not isinstance(file, str) or not _PLAIN_NAME.fullmatch(file) or file.startswith("."):
                raise ModelError(
                    f"{path}: {shown_name(name)} shall be in {_shown(file)}; an index may only name "
                    ".safetensors files of its own folder"
                )
            if file not in headers:
                headers[file] = read_header(self.folder / file)
            if name not in headers[file]:
                raise ModelError(f"{path}: {shown_name(name)} shall be in {file} and isn't; fetch it anew")
            self._tensors[name] = headers[file][name]


def read_json(path: Path, limit: int = 16 * 2**20) -> Any:
    """A JSON file of a model folder.

    Raises:
        ModelError: Where it is missing, larger than ``limit`` bytes, or no JSON.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise ModelError(f"{path}: {size} bytes, more than the {limit} such a file may have")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ModelError(f"{path}: missing") from None
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror or error}") from None
    except RecursionError:
        raise ModelError(f"{path}: no JSON: nested too deeply") from None
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: no JSON: {str(error)[:200]}") from None


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors that a safetensors file says it has, after checking that they can be there.

    Raises:
        ModelError: Where the file is missing, truncated or inconsistent.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise ModelError(
                    f"{path}: not a whole safetensors file (header of {length} bytes, file of {size}); "
                    "fetch it anew"
                )
            header = json.loads(stream.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise ModelError(f"{path}: missing; the folder is incomplete: fetch it anew") from None
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: broken safetensors header: {str(error)[:200]}") from None
    if not isinstance(header, dict):
        raise ModelError(f"{path}: broken safetensors header: a mapping expected")
    found, spans = {}, []
    for name, entry in header.items():
        if name != "__metadata__":
            found[name], span = _entry(path, name, entry, 8 + length)
            spans.append(span)
    _check_spans(path, spans, size - 8 - length)
    return found


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"{_shown(key)} stands in it twice")
        made[key] = value
    return made


def _entry(path: Path, name: str, entry: Any, base: int) -> tuple[TensorInfo, tuple[int, int]]:
    try:
        dtype = _DTYPES[entry["dtype"]]
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        if not whole or len(shape) > 16 or end - begin != dtype.itemsize * _product(shape):
            raise ValueError
    except (ValueError, LookupError, TypeError):
        raise ModelError(
            f"{path}: broken safetensors header: {_shown(name)} is {_shown(entry)}; fetch it anew"
        ) from None
    return TensorInfo(path, base + begin, dtype, shape), (begin, end)


def _check_spans(path: Path, spans: list[tuple[int, int]], size: int) -> None:
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ModelError(
                f"{path}: broken safetensors header: tensors overlap or leave gaps; fetch it anew"
            )
        position = end
    if position != size:
        raise ModelError(
            f"{path}: half-written: {size} bytes of tensors, and its header names {position}; fetch it anew"
        )


def _map(info: TensorInfo, start: int, shape: tuple[int, ...]) -> Tensor:
    """A tensor over a private mapping of a part of a file (page-aligned start, so any offset works)."""
    length = info.dtype.itemsize * _product(shape)
    if length == 0:
        return torch.empty(shape, dtype=info.dtype)
    aligned = start - start % mmap.ALLOCATIONGRANULARITY
    try:
        with open(info.file, "rb") as stream:
            try:
                mapping: Any = mmap.mmap(
                    stream.fileno(), start - aligned + length, access=mmap.ACCESS_COPY, offset=aligned
                )
            except OSError:  # a file system that can't map
                stream.seek(aligned)
                mapping = bytearray(stream.read(start - aligned + length))
        count = length // info.dtype.itemsize
        if (start - aligned) % info.dtype.itemsize == 0:
            flat = torch.frombuffer(mapping, dtype=info.dtype, count=count, offset=start - aligned)
        else:  # a foreign file that doesn't align its tensors: this one is copied
            raw = torch.frombuffer(mapping, dtype=torch.uint8, count=length, offset=start - aligned)
            flat = raw.clone().view(info.dtype)
    except (OSError, ValueError) as error:
        raise ModelError(f"{info.file}: can't be read: {error}") from None
    return flat.reshape(shape)


def _nothing_there(folder: Path) -> str:
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        return (
            f"weights only as a pickle ({pickles[0]}), which could run code and is never read; take a "
            "revision with safetensors, or convert it where you trust it"
        )
    return f"no weights ({WEIGHTS_NAME}, or shards with {INDEX_NAME}); the folder is incomplete"


def _product(shape: Iterable[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def shown_name(name: str) -> str:
    """A tensor's name for a message: one line, of bounded length, whatever a file says."""
    return name if name.isprintable() and len(name) <= 120 else _shown(name)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
