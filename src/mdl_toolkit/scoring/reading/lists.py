"""Cells that hold several texts: tags, several right answers, the choices of a question."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_SEPARATORS = re.compile("[;；\n]")


def texts_of(answer: str | Sequence[str]) -> list[str]:
    """The texts of a list, or of a cell that holds one in JSON; a plain text is one by itself."""
    if not isinstance(answer, str):
        return [str(text) for text in answer]
    return _json_list(answer) or [answer]


def tags_of(answer: str | Sequence[str]) -> list[str] | None:
    """The tags of a list, of a list in JSON, or of a text in which ``;`` divides them.

    Returns:
        The tags without empty ones; ``None`` where the text is neither: it may be one tag, or prose.
    """
    if not isinstance(answer, str):
        found: Sequence[str] | None = [str(tag) for tag in answer]
    else:
        found = _json_list(answer)
        if found is None and _SEPARATORS.search(answer.strip()):
            found = _SEPARATORS.split(answer)
    return None if found is None else [tag.strip() for tag in found if tag.strip()]


def choices_of(cell: str | Sequence[str] | Mapping[str, str]) -> list[str]:
    """The choices of a question: a list, or texts that ``;`` or a line break divides.

    An object (``{"A": "cat", "B": "dog"}``) has them by its keys' order. Lists and objects may be in JSON.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            cell = json.loads(cell)
    if isinstance(cell, Mapping):
        return [str(cell[key]).strip() for key in sorted(cell)]
    tags = tags_of(cell)
    return [cell.strip()] if tags is None and isinstance(cell, str) and cell.strip() else tags or []


def _json_list(text: str) -> list[str] | None:
    """The items of a list as JSON writes it, or as Python does: pandas writes a cell's list so."""
    if not text.lstrip().startswith("["):
        return None
    found: Any
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            return None
    return [item if isinstance(item, str) else json.dumps(item) for item in found]
