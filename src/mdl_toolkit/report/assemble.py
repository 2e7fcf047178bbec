"""Puts the data of a report and the files of ``page/`` into one page that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

from mdl_toolkit.report.data import ReportPage, plain

if TYPE_CHECKING:
    from importlib.abc import Traversable

#: Where ``page/index.html`` has a place for something.
_PLACE = re.compile(r"\{\{(policy|title|style|data|script)\}\}")
#: In a script a browser looks for "</script" and "<!--", and older ones take these two characters for line
#: ends.
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_UNSAFE_CHARACTER = re.compile("[<>&\u2028\u2029]")


def assemble(page: ReportPage) -> str:
    """The page as HTML, in one piece.

    ``page/index.html`` is the frame. All ``*.css`` and all ``*.js`` below ``page/``, in the order of their
    paths, and the data take the places ``{{style}}``, ``{{script}}``, ``{{data}}`` and ``{{title}}`` in it.
    The data is JSON in a ``<script type="application/json" id="data">``. ``{{policy}}`` is what a browser is
    to allow: this script and style, pictures and sounds of the page or beside it, and nothing else.
    """
    folder = resources.files("mdl_toolkit.report").joinpath("page")
    style, script = ("\n".join(_texts(folder, ending)) for ending in (".css", ".js"))
    parts = {
        "policy": content_policy(style, script),
        "title": html.escape(page.title),
        "style": style,
        "data": f'<script type="application/json" id="data">{embedded_json(plain(page))}</script>',
        "script": script,
    }
    frame = folder.joinpath("index.html").read_text(encoding="utf-8")
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


def content_policy(style: str, script: str) -> str:
    """A Content-Security-Policy under which the page asks nobody for anything.

    A text that became markup all the same couldn't run, for only what has these checksums does. ``'self'`` is
    the server that the page came from; one that was opened as a file has none, and its clips are files too.
    """
    allowed = {
        "default-src": "'none'",
        "script-src": _checksum(script),
        "style-src": _checksum(style),
        "img-src": "'self' file: data:",
        "media-src": "'self' file: data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {sources}" for name, sources in allowed.items())


def _checksum(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _texts(folder: Traversable, ending: str) -> Iterator[str]:
    """The files of an ending below a folder, in the order of their paths."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            yield from _texts(item, ending)
        elif item.name.endswith(ending):
            yield item.read_text(encoding="utf-8")
