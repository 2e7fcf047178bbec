"""What options name: files and folders, several in one text, parts of a whole. Standard library alone."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from mdl_toolkit.settings.options import printable


def dataset_paths(value: Sequence[str] | str | None) -> list[Path]:
    """The folders or files that ``--train-dataset`` names: each time one, or several with commas between."""
    found: list[Path] = []
    for text in [value] if isinstance(value, str) else value or []:
        parts = [text] if os.path.exists(os.path.expanduser(text)) else text.split(",")
        found += [Path(os.path.expanduser(part.strip())) for part in parts if part.strip()]
    return found


def repeated_paths(paths: Sequence[Path]) -> list[Path]:
    """Those that are there a second time."""
    real = [os.path.realpath(path) for path in paths]
    return [path for place, path in enumerate(paths) if real[place] in real[:place]]


def output_kind(path: Path) -> str | None:
    """What a file of this name holds: ``csv``, ``tsv`` or ``jsonl``; ``None`` for what can't be written.

    As in 0.1.0 a name without an ending means a CSV; numbers, as in ``run-0.5``, are no ending.
    """
    ending = path.suffix.lower().removeprefix(".")
    if not ending[:1].isalpha():
        return "csv"
    kinds = {"csv": "csv", "txt": "csv", "tsv": "tsv", "tab": "tsv", "jsonl": "jsonl", "ndjson": "jsonl"}
    return kinds.get(ending)


def output_problems(output: Path, source: Path) -> list[str]:
    """What is wrong with a file that is to be made of another one."""
    name = f"--output {printable(output)}"
    if output.is_dir():
        return [f"{name}: a folder; name the file to write"]
    if output.exists() and not output.is_file():
        return [f"{name}: a device or a pipe; name a file to write"]
    if output.exists() and source.exists() and output.samefile(source):
        return [f"{name}: that is the input itself; name another file"]
    if output_kind(output) is None:
        return [f"{name}: {output.suffix} files can't be written; end the name in .csv, .tsv or .jsonl"]
    return []


def parse_shard(value: str) -> tuple[int, int] | None:
    """``"2/8"`` to ``(2, 8)``; ``None`` where it is not of that form."""
    first, _, second = value.partition("/")
    if not (first.isdecimal() and second.isdecimal()):
        return None
    index, count = int(first), int(second)
    return (index, count) if 1 <= index <= count else None


def missing_extra(package: str, name: str, extra: str) -> list[str]:
    """What to say where an option needs a package that isn't installed."""
    if importlib.util.find_spec(package) is not None:
        return []
    return [f"{name} needs the {extra} extra: pip install 'mdl-toolkit[{extra}]'"]


def missing_file(path: Path, name: str) -> list[str]:
    """What to say of a file or folder that isn't there; nothing where it is."""
    if path.exists():
        return []
    near = difflib.get_close_matches(path.name, _names_beside(path), n=1)
    hint = f"; did you mean {path.parent / near[0]}?" if near else ""
    return [f"{name}: no file or folder {printable(path)}{hint}"]


def _names_beside(path: Path) -> list[str]:
    try:
        return os.listdir(path.parent)
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return []
