"""A YAML file of options, read as it was written: every value keeps its characters and its line.

YAML turns ``no`` into false, ``007`` into 7, ``1:30`` into 90 and ``1e-4`` into text. So YAML's types are not
used: a value is kept as its characters, with the type that YAML would give it, and the option's type decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: YAML's tags, in words for messages.
_KINDS = {
    "bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date",
    "value": "a default", "merge": "a merge", "binary": "bytes",
}  # fmt: skip


@dataclass(frozen=True)
class Scalar:
    """One value.

    Attributes:
        text: The characters of the value.
        quoted: Whether it is in quotes or a block. Then it is text, whatever it looks like.
        read_as: What YAML would read it as, in words (``a date``); empty for text.
    """

    text: str
    quoted: bool = False
    read_as: str = ""


@dataclass(frozen=True)
class Entry:
    """A key and its value.

    Attributes:
        key: The key as written.
        where: The place for messages: ``run.yaml line 3``.
        value: One value or several; ``None`` for a mapping.
    """

    key: str
    where: str
    value: Scalar | list[Scalar] | None

    @property
    def name(self) -> str:
        """The option's name: the key with underscores in place of dashes."""
        return self.key.replace("-", "_")


def read_config(path: Path, problems: list[str]) -> list[Entry]:
    """Read a YAML file.

    Args:
        path: The file.
        problems: A list to which every problem is added, one line each.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        problems.append(f"--config {path}: can't be read: {reason}")
        return []
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        problems.append(_not_yaml(path, error))
        return []
    except RecursionError:
        problems.append(f"--config {path}: not YAML of settings: nested too deeply")
        return []
    if root is None or (isinstance(root, yaml.ScalarNode) and not root.value):
        return []
    if not isinstance(root, yaml.MappingNode):
        problems.append(f"--config {path}: a mapping of setting names to values expected")
        return []
    return list(_entries(path, text, root, problems))


def _not_yaml(path: Path, error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{path} line {mark.line + 1}" if mark else str(path)
    reason = " ".join(str(getattr(error, "problem", None) or "characters that YAML does not allow").split())
    return (
        f"{where}: not YAML ({reason}); a text with ':' or '#' in it, or one that begins with a sign such as "
        "@ or *, has to be in quotes"
    )


def _entries(path: Path, text: str, root: Any, problems: list[str]) -> Iterator[Entry]:
    seen: dict[str, str] = {}
    for key, value in root.value:
        where = f"{path} line {key.start_mark.line + 1}"
        if not isinstance(key.value, str):
            problems.append(f"{where}: the name of a setting expected before the colon")
            continue
        entry = Entry(key.value, where, _value(value, text))
        if entry.name in seen:
            problems.append(f"{where}: {entry.key} is there twice, first in {seen[entry.name]}; keep one")
            continue
        seen[entry.name] = where
        yield entry


def _value(node: Any, text: str) -> Scalar | list[Scalar] | None:
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, text)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(n, yaml.ScalarNode) for n in node.value):
        return [_scalar(item, text) for item in node.value]
    return None


def _scalar(node: Any, text: str) -> Scalar:
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if text[node.start_mark.index : node.start_mark.index + 1] == "&":
        read_as = "an anchor and its value"
    else:
        read_as = "" if kind == "str" else _KINDS.get(kind, f"a value of type {kind}")
    return Scalar(node.value, quoted=node.style is not None, read_as=read_as)
