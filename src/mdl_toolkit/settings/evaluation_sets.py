"""The sets of ``--eval-dataset``: ``PATH`` or ``NAME=PATH``, repeated. Standard library alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mdl_toolkit.errors import printable
from mdl_toolkit.settings.checks import as_path, path_problems

#: The name of the set that paths without a name belong to.
MAIN_SET = "main"
#: A set's name is part of a metric's name, and names a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: What stands before the first ``=``, where it can't be the beginning of a path or of a list of them.
_NAMED = re.compile(r"([^=/\\,]*)=(.*)", re.DOTALL)


@dataclass
class NamedSet:
    """The texts of one set.

    Attributes:
        name: The name of the set.
        named: Whether somebody gave it that name.
        texts: Its paths, as given.
    """

    name: str
    named: bool = False
    texts: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """Its folders or files."""
        return [Path(as_path(text)) for text in self.texts]


def evaluation_sets(value: Sequence[str] | str | None) -> list[NamedSet]:
    """The sets that ``--eval-dataset`` names: ``main`` first, then in the order in which they are given.

    Args:
        value: The option's texts. Each is ``PATH``, or ``NAME=PATH``, or several paths with commas between
            them, which all belong to the name before them. What exists as it stands is a path, whatever
            characters it has.
    """
    found: dict[str, NamedSet] = {}
    for text in [value] if isinstance(value, str) else value or []:
        for name, path in _parts(text):
            key = MAIN_SET if name is None else name
            known = found.setdefault(key, NamedSet(key))
            known.named = known.named or name is not None
            known.texts.append(path)
    return sorted(found.values(), key=lambda each: each.name != MAIN_SET)


def _parts(text: str) -> list[tuple[str | None, str]]:
    """Names and paths of one text; ``None`` where there is no name."""
    name: str | None = None
    if not _exists(text) and (named := _NAMED.fullmatch(text)):
        name, text = named[1].strip(), named[2].strip()
        if not text or _exists(text):
            return [(name, text)]
    parts = [text] if _exists(text) else [part.strip() for part in text.split(",")]
    found = []
    for part in filter(None, parts):
        path = part
        if not _exists(part) and (named := _NAMED.fullmatch(part)):
            name, path = named[1].strip(), named[2].strip()
        found.append((name, path))
    return found


def _exists(text: str) -> bool:
    try:
        return os.path.exists(as_path(text))
    except ValueError:  # a NUL character
        return False


def evaluation_paths(value: Sequence[str] | str | None) -> list[Path]:
    """The folders or files of all sets."""
    return [path for each in evaluation_sets(value) for path in each.paths]


def evaluation_problems(value: Sequence[str] | str | None, output: Path) -> list[str]:
    """What is wrong with the sets that ``--eval-dataset`` names.

    Args:
        value: The option's texts.
        output: The folder of the run.
    """
    found: list[str] = []
    sets, option = evaluation_sets(value), "--eval-dataset"
    for each in sets:
        if not _NAME.fullmatch(each.name):
            shown = f"{option} {printable(each.name)}={printable(each.texts[0])}"
            found.append(
                f"{shown}: a set's name has letters from a to z, digits, dots, _ and -, begins with a "
                "letter or digit, and has 64 at most; a path with = in it has to exist"
            )
        elif "" in each.texts:
            found.append(f"{option} {each.name}=: the path is missing")
        else:
            found += path_problems(option, each.texts, output)
    names = [each.name for each in sets]
    for place, name in enumerate(names):
        other = next((n for n in names[:place] if n.lower() == name.lower()), None)
        if other is not None:
            found.append(f"{option}: the sets {other} and {name} differ in case alone: rename one")
    return list(dict.fromkeys(found))
