"""Puts the data of a report and the files of ``page/`` into one page that fetches nothing."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

from mdl_toolkit.report.data import ReportPage, plain

#: Where ``page/index.html`` has a place for something.
_PLACE = re.compile(r"\{\{(title|style|data|script)\}\}")
#: In a script a browser looks for "</script" and "<!--", and older ones take these two characters for line
#: ends.
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_UNSAFE_CHARACTER = re.compile("[<>&\u2028\u2029]")


def assemble(page: ReportPage) -> str:
    """The page as HTML, in one piece.

    ``page/index.html`` is the frame. All ``*.css`` and all ``*.js`` beside it, in the order of their names,
    and the data take the places ``{{style}}``, ``{{script}}``, ``{{data}}`` and ``{{title}}`` in it. The
    data is JSON in a ``<script type="application/json" id="data">``.
    """
    parts = {
        "title": html.escape(page.title),
        "style": _texts(".css"),
        "data": f'<script type="application/json" id="data">{embedded_json(plain(page))}</script>',
        "script": _texts(".js"),
    }
    frame = (
        resources.files("mdl_toolkit.report")
        .joinpath("page")
        .joinpath("index.html")
        .read_text(encoding="utf-8")
    )
    # In one pass: what is put in may hold anything, also something like a place.
    return _PLACE.sub(lambda place: parts[place[1]], frame)


def embedded_json(value: Any) -> str:
    """JSON without spaces that may stand in an HTML script. Numbers that aren't finite become ``null``."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # None of these characters stands outside of JSON's strings, and in a string each may be escaped. A half
    # of a surrogate pair can't be written as UTF-8: it is escaped too.
    safe = _UNSAFE_CHARACTER.sub(lambda found: _UNSAFE[found[0]], text)
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", safe)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _texts(ending: str) -> str:
    return "\n".join(text for _, text in sorted(_page_files(ending)))


def _page_files(ending: str) -> Iterator[tuple[str, str]]:
    for file in resources.files("mdl_toolkit.report").joinpath("page").iterdir():
        if file.name.endswith(ending):
            yield file.name, file.read_text(encoding="utf-8")
