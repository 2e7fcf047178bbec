"""The text of ``--help``, made from the declarations of the options."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from mdl_toolkit.settings import options
from mdl_toolkit.settings.options import OptionType, is_required, label, settings_fields

#: Groups of options, in the order in which somebody looks for them.
_GROUPS = (
    "", "data", "model", "prompt", "generation", "what is trained", "optimisation", "evaluation", "output",
    "memory and speed", "input", "conversion",
)  # fmt: skip
#: Width of the column with an option's name and value.
_LABEL_WIDTH = 28


def command_help(name: str, settings: type[options.Settings], about: str, epilog: str, example: str) -> str:
    """The help text of a command.

    Args:
        name: The command's name.
        settings: The class of its settings.
        about: What the command does, without a full stop.
        epilog: A paragraph for the end, which all commands share.
        example: A command line to copy, for the last line.
    """
    described = settings_fields(settings)
    short = settings.SHORT
    positional = [_label(f, kind) for f, kind in described if f.metadata["positional"]]
    required = [_label(f, kind) for f, kind in described if is_required(f) and not f.metadata["positional"]]
    lines = [
        f"usage: mdl-toolkit {name} {' '.join([*positional, *required, '[options]'])}",
        "",
        about[0].upper() + about[1:] + ".",
    ]
    groups: dict[str, list[tuple[str, str]]] = {group: [] for group in _GROUPS}
    for f, kind in described:
        groups[f.metadata["group"]].append(
            (_typed(f, kind, short), f.metadata["help"] + _choices_and_default(f))
        )
    groups[""].append(
        ("--config FILE", "YAML file with these options by name (lr: 1e-4); flags take precedence over it.")
    )
    for group, described_options in groups.items():
        if described_options:
            lines += ["", f"{settings.HEADINGS.get(group, group) or 'arguments'}:"]
            lines += _table(described_options)
    return "\n".join([*lines, "", wrapped(epilog), "", f"example: {example}"])


def wrapped(text: str) -> str:
    """A text broken into lines of the terminal's width, at most 100 columns."""
    return "\n".join(_wrap(text, _columns()))


def _wrap(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, columns, break_on_hyphens=False) or [""]


def _columns() -> int:
    return max(60, min(100, shutil.get_terminal_size((100, 24)).columns))


def _table(described: Iterable[tuple[str, str]]) -> list[str]:
    columns = _columns()
    lines = []
    for typed, text in described:
        first, *rest = _wrap(text, columns - _LABEL_WIDTH - 4)
        if len(typed) <= _LABEL_WIDTH:
            lines.append(f"  {typed:{_LABEL_WIDTH}}  {first}")
        else:
            lines += [f"  {typed}", f"{'':{_LABEL_WIDTH + 4}}{first}"]
        lines += [f"{'':{_LABEL_WIDTH + 4}}{line}" for line in rest]
    return lines


def _label(f: Field[Any], kind: OptionType) -> str:
    """An option and what to type for its value: ``--lora-rank N``, ``INPUT``."""
    if f.metadata["positional"]:
        return label(f) + ("…" if kind.repeated else "")
    return f"{label(f)} {_metavar(f, kind)}"


def _typed(f: Field[Any], kind: OptionType, short: Mapping[str, str]) -> str:
    """An option as :func:`_label` has it, and the letter by which it can be given."""
    return _label(f, kind) + (f" (-{short[f.name]})" if f.name in short else "")


def _metavar(f: Field[Any], kind: OptionType) -> str:
    if f.metadata["metavar"]:
        return str(f.metadata["metavar"])
    if f.metadata["choices"]:
        return "|".join(f.metadata["choices"]) if len(f.metadata["choices"]) < 4 else "NAME"
    if kind.kind is bool:
        return "true|false" + ("|auto" if kind.auto else "")
    return {int: "N", float: "X", Path: "PATH"}.get(kind.kind, "TEXT")


def _choices_and_default(f: Field[Any]) -> str:
    if is_required(f):
        return " Required."
    value = f.default_factory() if f.default_factory is not MISSING else f.default
    listed = ""
    if f.metadata["choices"] and len(f.metadata["choices"]) >= 4:
        listed = f" One of {', '.join(f.metadata['choices'])}."
    if value is None or value == []:
        return listed
    if isinstance(value, float):
        return f"{listed} [{value:g}]"
    if isinstance(value, list):
        return f"{listed} [{' '.join(value)}]"
    return f"{listed} [{str(value).lower() if isinstance(value, bool) else value}]"
