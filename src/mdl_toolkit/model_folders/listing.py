"""Which files of a model folder were written with it: no others are ever removed. Standard library alone."""

from __future__ import annotations

import json
from pathlib import Path

#: What a model folder says about itself.
MANIFEST_NAME = "mdl_toolkit.json"


def files_in(folder: Path) -> list[str]:
    """The files that a folder holds by now, and its manifest, which is written last."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(names | {MANIFEST_NAME})


def listed_files(folder: Path) -> set[str] | None:
    """What a model folder's manifest says was written with it; ``None`` where it says nothing readable."""
    try:
        names = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))["files"]
        return {str(name) for name in names}
    except (OSError, ValueError, LookupError, TypeError):
        return None
