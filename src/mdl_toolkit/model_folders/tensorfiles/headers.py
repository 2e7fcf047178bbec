"""Headers of safetensors files: which tensors they hold, checked before any byte of them is trusted.

Sizes, offsets, overlaps and truncation are checked, and an index may only name files of its own folder.
Nothing but safetensors is ever opened. No torch.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model_folders.names import FRONT_END_CONSTANTS

INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"
#: Dtypes of the format: what torch calls them, and bytes of an element.
DTYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1), "U8": ("uint8", 1),
    "BOOL": ("bool", 1), "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1),
}  # fmt: skip
_HEADER_LIMIT = 100 * 2**20
_INDEX_LIMIT = 100 * 2**20
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "model.pt", "model.pth")
_PLAIN_NAME = re.compile(r"[^/\\\0]+\.safetensors")


@dataclass(frozen=True)
class Header:
    """What a file says of a tensor.

    Attributes:
        file: The file that holds it.
        start: Its first byte in that file.
        dtype: Its dtype as the format names it (``BF16``).
        shape: Its shape.
    """

    file: Path
    start: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of the tensor in bytes."""
        return DTYPES[self.dtype][1] * math.prod(self.shape)


def read_headers(folder: Path, name: str | None = None) -> dict[str, Header]:
    """The tensors of a folder, by name.

    Args:
        folder: Holds ``model.safetensors`` or shards with ``model.safetensors.index.json``.
        name: Another single file to read instead, for example ``adapter_model.safetensors``.

    Raises:
        ModelError: For missing, truncated or inconsistent files, in one line that names the file.
    """
    if name is not None or (folder / WEIGHTS_NAME).is_file():
        return _read_header(folder / (name or WEIGHTS_NAME))
    if (folder / INDEX_NAME).is_file():
        return _read_index(folder / INDEX_NAME)
    raise ModelError(f"{folder}: {_nothing_there(folder)}")


def base_tensors(folder: Path) -> dict[str, Header] | None:
    """The tensors of a stand-alone model; ``None`` where they can't be read (whoever loads them says why)."""
    try:
        return read_headers(folder)
    except ModelError:
        return None


def fingerprint(tensors: Mapping[str, Header]) -> str:
    """A digest of weights, whatever files they are split into.

    Each tensor's name, dtype, shape, first and last 4 KiB go in (models of 16 GiB can be compared without
    reading them whole); the recomputed front-end constants don't.
    """
    digest = hashlib.sha256()
    for name in sorted(set(tensors) - FRONT_END_CONSTANTS):
        info = tensors[name]
        digest.update(f"{name} torch.{DTYPES[info.dtype][0]} {list(info.shape)}\n".encode())
        with open(info.file, "rb") as stream:
            for start in (info.start, info.start + max(0, info.bytes - 4096)):
                stream.seek(start)
                digest.update(stream.read(min(4096, info.bytes)))
    return digest.hexdigest()[:32]


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


def _read_index(path: Path) -> dict[str, Header]:
    index = read_json(path, _INDEX_LIMIT)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{path}: no weight_map in it; fetch the file anew")
    found: dict[str, Header] = {}
    headers: dict[str, dict[str, Header]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _PLAIN_NAME.fullmatch(file) or file.startswith("."):
            raise ModelError(
                f"{path}: {shown_name(name)} shall be in {_shown(file)}; an index may only name "
                ".safetensors files of its own folder"
            )
        if file not in headers:
            headers[file] = _read_header(path.parent / file)
        if name not in headers[file]:
            raise ModelError(f"{path}: {shown_name(name)} shall be in {file} and isn't; fetch it anew")
        found[name] = headers[file][name]
    return found


def _read_header(path: Path) -> dict[str, Header]:
    """The tensors that a file says it has, after checking that they can be there."""
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


def _entry(path: Path, name: str, entry: Any, base: int) -> tuple[Header, tuple[int, int]]:
    try:
        dtype, size = entry["dtype"], DTYPES[entry["dtype"]][1]
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        if not whole or len(shape) > 16 or end - begin != size * math.prod(shape):
            raise ValueError
    except (ValueError, LookupError, TypeError):
        raise ModelError(
            f"{path}: broken safetensors header: {_shown(name)} is {_shown(entry)}; fetch it anew"
        ) from None
    return Header(path, base + begin, dtype, shape), (begin, end)


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


def _nothing_there(folder: Path) -> str:
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        return (
            f"weights only as a pickle ({pickles[0]}), which could run code and is never read; take a "
            "revision with safetensors, or convert it where you trust it"
        )
    return f"no weights ({WEIGHTS_NAME}, or shards with {INDEX_NAME}); the folder is incomplete"


def shown_name(name: str) -> str:
    """A tensor's name for a message: one line, of bounded length, whatever a file says."""
    return name if name.isprintable() and len(name) <= 120 else _shown(name)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
