"""Names, shapes and dtypes of a base's tensors, read from the headers of its files without torch.

For what has to be known before torch is imported. ``weights.py`` reads the tensors, and says what is wrong
with files that can't be read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

_HEADER_LIMIT = 100 * 2**20
_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"


class Header(NamedTuple):
    """What a file says of a tensor: dtype in safetensors' words (``BF16``), and shape."""

    dtype: str
    shape: tuple[int, ...]


def base_tensors(folder: Path) -> dict[str, Header] | None:
    """The tensors of a stand-alone model; ``None`` where the folder has none that can be read."""
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _read(folder: Path) -> dict[str, Header]:
    names = {_WEIGHTS}
    if not (folder / _WEIGHTS).is_file():
        names = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    tensors: dict[str, Header] = {}
    for name in names:
        with open(folder / name, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _HEADER_LIMIT:
                raise ValueError("header too long")
            header: dict[str, Any] = json.loads(stream.read(length))
        tensors |= {
            key: Header(str(entry["dtype"]), tuple(map(int, entry["shape"])))
            for key, entry in header.items()
            if key != "__metadata__"
        }
    return tensors
