r"""Names that another machine writes otherwise: ``ü`` as ``u`` and two dots, or ``clips\a.wav``.

macOS takes letters apart, most other programs don't; Windows separates folders by backslashes; and a table
made on one machine meets files unpacked on another.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from functools import lru_cache

from mdl_toolkit.errors import DataError, printable
from mdl_toolkit.settings.checks import local_path


def path_of(source: str, folder: str | None = None) -> str:
    """The path that a cell of a table means.

    Args:
        source: A path, from ``~`` on the home folder's, or a ``file://`` URL.
        folder: The folder that relative paths start from.

    Raises:
        DataError: A file URL of another host, or without a path.
    """
    plain = os.path.join(folder, source) if folder else source
    if source.startswith("~"):
        return plain if os.path.lexists(plain) else os.path.join(folder or "", os.path.expanduser(source))
    if not is_file_url(source):
        return plain
    try:
        return local_path(source)
    except ValueError as error:
        raise DataError(f"{printable(source[:200])}: {error}") from error


def is_file_url(source: str) -> bool:
    """Whether a cell names a file of this machine by a URL."""
    return source[:6].lower() == "file:/"


def find_existing(path: str) -> str:
    """The path; where it doesn't exist, the existing one that another machine would write like that."""
    if (path.isascii() and "\\" not in path) or os.path.lexists(path):
        return path
    path = path.replace("\\", "/")
    found = "/" if path.startswith("/") else ""
    for part in path.split("/"):
        if not part:
            continue
        if not part.isascii() and not os.path.lexists(os.path.join(found, part)):
            try:
                names = _names(found or ".", os.stat(found or ".").st_mtime_ns)
            except OSError:
                return path
            alike = names.get(unicodedata.normalize("NFC", part), [])
            if len(alike) != 1:
                return path
            part = alike[0]
        found = os.path.join(found, part)
    return found


@lru_cache(maxsize=8)
def _names(folder: str, changed: int) -> dict[str, list[str]]:  # noqa: ARG001 -- a part of the key of the cache
    """The names in a folder that aren't ASCII, by their composed Unicode form (NFC)."""
    found = defaultdict[str, list[str]](list)
    for name in os.listdir(folder):
        if not name.isascii():
            found[unicodedata.normalize("NFC", name)].append(name)
    return found
