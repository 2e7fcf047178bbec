"""What ``--help`` prints, made of the settings as they are declared."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from mdl_toolkit.settings import options
from mdl_toolkit.settings.options import OptionType, flag, settings_fields

#: Groups of options, in the order in which somebody looks for them.
_GROUPS = (
    "", "data", "model", "prompt", "generation", "what is trained", "optimisation", "evaluation", "output",
    "memory and speed", "input", "conversion",
)  # fmt: skip
#: Columns of an option's name.
_LEFT = 28


def command_help(name: str, settings: type[options.Settings], about: str, epilog: str, example: str) -> str:
    """The help of a command.

    Args:
        name: Of the command.
        settings: Its settings.
        about: What it does, without a full stop.
        epilog: What holds for all commands.
        example: A line to type.
    """
    described = settings_fields(settings)
    places = [f.metadata["metavar"] for f, _ in described if f.metadata["positional"]]
    required = [
        f"{flag(f.name)} {_metavar(f, kind)}"
        for f, kind in described
        if _required(f) and not f.metadata["positional"]
    ]
    lines = [
        f"usage: mdl-toolkit {name} {' '.join([*places, *required, '[options]'])}",
        "",
        about[0].upper() + about[1:] + ".",
    ]
    groups: dict[str, list[tuple[str, str]]] = {group: [] for group in _GROUPS}
    for f, kind in described:
        label = (
            str(f.metadata["metavar"]) if f.metadata["positional"] else f"{flag(f.name)} {_metavar(f, kind)}"
        )
        groups[f.metadata["group"]].append((label, f.metadata["help"] + _default(f)))
    groups[""].append(
        ("--config FILE", "YAML file with these options by name (lr: 1e-4); flags take precedence over it.")
    )
    for group, described_options in groups.items():
        if described_options:
            lines += ["", f"{settings.HEADINGS.get(group, group) or 'arguments'}:"]
            lines += _table(described_options)
    return "\n".join([*lines, "", wrapped(epilog), "", f"example: {example}"])


def wrapped(text: str) -> str:
    """A text in lines as wide as the terminal, but for very wide ones."""
    return "\n".join(_wrap(text, _columns()))


def _wrap(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, columns, break_on_hyphens=False) or [""]


def _columns() -> int:
    return max(60, min(100, shutil.get_terminal_size((100, 24)).columns))


def _table(described: Iterable[tuple[str, str]]) -> list[str]:
    columns = _columns()
    lines = []
    for label, text in described:
        first, *rest = _wrap(text, columns - _LEFT - 4)
        if len(label) <= _LEFT:
            lines.append(f"  {label:{_LEFT}}  {first}")
        else:
            lines += [f"  {label}", f"{'':{_LEFT + 4}}{first}"]
        lines += [f"{'':{_LEFT + 4}}{line}" for line in rest]
    return lines


def _required(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _metavar(f: Field[Any], kind: OptionType) -> str:
    if f.metadata["metavar"]:
        return str(f.metadata["metavar"])
    if f.metadata["choices"]:
        return "|".join(f.metadata["choices"]) if len(f.metadata["choices"]) < 4 else "NAME"
    if kind.kind is bool:
        return "true|false" + ("|auto" if kind.auto else "")
    return {int: "N", float: "X", Path: "PATH"}.get(kind.kind, "TEXT")


def _default(f: Field[Any]) -> str:
    if _required(f):
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
