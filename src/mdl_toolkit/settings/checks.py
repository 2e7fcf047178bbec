"""Checks of what options name: datasets, files, parts, optional packages. Standard library only."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import printable
from mdl_toolkit.settings.options import Settings, flag, given_names, options_where


def dataset_paths(value: Sequence[str] | str | None) -> list[Path]:
    """The folders or files that ``--train-dataset`` names.

    Args:
        value: The option's texts. Each is a path, or several paths with commas between them. A text with a
            comma is one path if that exists.
    """
    found: list[Path] = []
    for text in [value] if isinstance(value, str) else value or []:
        parts = [text] if os.path.exists(os.path.expanduser(text)) else text.split(",")
        found += [Path(os.path.expanduser(part.strip())) for part in parts if part.strip()]
    return found


def dataset_problems(name: str, value: Sequence[str] | str | None, output: Path) -> list[str]:
    """What is wrong with the datasets that an option names.

    Args:
        name: The option, as typed.
        value: The option's texts.
        output: The folder of the run.
    """
    paths = dataset_paths(value)
    found = [problem for path in paths for problem in missing_file(path, name)]
    found += [f"{name} {printable(path)}: given twice; keep one" for path in repeated_paths(paths)]
    if output.resolve() in {path.resolve() for path in paths}:
        found.append(f"--output {printable(output)}: that is {name} itself; name another folder")
    return found


def problems_of_full_training(settings: Settings) -> list[str]:
    """Options that were given and have no effect with ``--method full``."""
    values: dict[str, Any] = vars(settings)
    # --merge-lora true is what full training does anyway; --quantization has a line of its own.
    harmless = {"merge_lora": True, "quantization": values["quantization"]}
    found = [
        f"{flag(name)} goes with --method lora only: full training has no adapters"
        for name in options_where(type(settings), goes_with="--method lora")
        if name in given_names(settings) and values[name] != harmless.get(name, MISSING)
    ]
    if values["quantization"]:
        found.append("--quantization goes with --method lora only: it keeps the base weights as they are")
    return found


def repeated_paths(paths: Sequence[Path]) -> list[Path]:
    """The paths that lead to the same place as an earlier one."""
    real = [os.path.realpath(path) for path in paths]
    return [path for place, path in enumerate(paths) if real[place] in real[:place]]


def output_kind(path: Path) -> str | None:
    """The format of an output file, by its ending: ``csv``, ``tsv``, ``jsonl``, or ``None`` if it is another.

    As in 0.1.0, a name without an ending means CSV. A number, as in ``run-0.5``, is no ending.
    """
    ending = path.suffix.lower().removeprefix(".")
    if not ending[:1].isalpha():
        return "csv"
    kinds = {"csv": "csv", "txt": "csv", "tsv": "tsv", "tab": "tsv", "jsonl": "jsonl", "ndjson": "jsonl"}
    return kinds.get(ending)


def output_problems(output: Path, source: Path) -> list[str]:
    """What is wrong with the file to write, given the file to read."""
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
    """Read ``"2/8"`` as ``(2, 8)``; ``None`` if the text is not of that form."""
    first, _, second = value.partition("/")
    if not (first.isdecimal() and second.isdecimal()):
        return None
    index, count = int(first), int(second)
    return (index, count) if 1 <= index <= count else None


def missing_extra(package: str, name: str, extra: str) -> list[str]:
    """A problem if a package that an option needs isn't installed.

    Args:
        package: The package's name for ``import``.
        name: The option, as in messages.
        extra: The extra of this package that installs it.
    """
    if importlib.util.find_spec(package) is not None:
        return []
    return [f"{name} needs the {extra} extra: pip install 'mdl-toolkit[{extra}]'"]


def missing_file(path: Path, name: str) -> list[str]:
    """A problem if a file or folder doesn't exist, with the name of a similar one beside it."""
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
