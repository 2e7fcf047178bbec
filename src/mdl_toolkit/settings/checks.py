"""Checks of what options name: datasets, files, parts, optional packages. Standard library only."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import printable
from mdl_toolkit.settings.options import Settings, flag, given_names, options_where


def local_path(text: str) -> str:
    """A path as the system takes it: ``~`` is the home folder, ``file:///a%20b.wav`` is ``/a b.wav``.

    Raises:
        ValueError: A file URL of another host, or without a path.
    """
    if text[:6].lower() != "file:/":
        return os.path.expanduser(text)  # that of pathlib raises where there is no such home
    from urllib.parse import unquote

    rest = text[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise ValueError(
                f"a file URL of host {printable(host)}: for a file of this machine write file:/// and the "
                "whole path"
            )
        rest = slash + path
    if not rest.strip("/"):
        raise ValueError("a file URL without a path")
    return unquote(rest, errors="surrogateescape")


def dataset_paths(value: Sequence[str] | str | None) -> list[Path]:
    """The folders or files that ``--train-dataset`` names.

    Args:
        value: The option's texts. Each is a path, or several paths with commas between them. A text with a
            comma is one path if that exists.
    """
    return [Path(as_path(text)) for text in _dataset_texts(value)]


def _dataset_texts(value: Sequence[str] | str | None) -> list[str]:
    found: list[str] = []
    for text in [value] if isinstance(value, str) else value or []:
        parts = [text] if os.path.exists(as_path(text)) else text.split(",")
        found += [part.strip() for part in parts if part.strip()]
    return found


def as_path(text: str) -> str:
    """As :func:`local_path`; a file URL that can't be used stays as it is, and is reported elsewhere."""
    try:
        return local_path(text)
    except ValueError:
        return text


def dataset_problems(name: str, value: Sequence[str] | str | None, output: Path) -> list[str]:
    """What is wrong with the datasets that an option names.

    Args:
        name: The option, as typed.
        value: The option's texts.
        output: The folder of the run.
    """
    return path_problems(name, _dataset_texts(value), output)


def path_problems(name: str, texts: Sequence[str], output: Path) -> list[str]:
    """What is wrong with datasets, each given by its path; arguments as of :func:`dataset_problems`."""
    paths = [Path(as_path(text)) for text in texts]
    found = []
    for text, path in zip(texts, paths, strict=True):
        try:
            local_path(text)
        except ValueError as error:
            found.append(f"{name} {printable(text)}: {error}")
        else:
            found += missing_file(path, name)
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
    hint = f"; did you mean {path.parent / near[0]}?" if near else foreign_path(str(path))
    return [f"{name}: no file or folder {printable(path)}{hint}"]


def page_problems(output: Path) -> list[str]:
    """What is wrong with an ``--output`` that a page is written to: so no table is replaced by mistake."""
    if output.is_dir():
        return [f"--output {printable(output)}: a folder; name the page to write"]
    if output.suffix.lower() not in (".html", ".htm"):
        return [f"--output {printable(output)}: a page; its name ends in .html"]
    return []


def foreign_path(text: str) -> str:
    """What to add to "no such file" where a path is written as on another system, or as no path at all."""
    if re.match(r"[A-Za-z]:[\\/]", text):
        return f"; a path of Windows (drive {text[:2]}): write it as a path of this machine"
    if "\\" in text:
        here = printable(text.replace("\\", "/"))
        return f"; written with backslashes (Windows); on this system: {here}"
    if text.startswith("~") and os.path.expanduser(text) == text:
        return f"; no home folder of {printable(text.partition('/')[0])} is known"
    if text[:5].lower() == "file:" and text[5:6] != "/":
        return "; a file URL begins with file:///"
    return ""


def _names_beside(path: Path) -> list[str]:
    try:
        return os.listdir(path.parent)
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return []
