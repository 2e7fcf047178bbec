"""Tables compressed by gzip, bzip2 or xz: recognised by content, and read as a stream, never whole."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple


class Compression(NamedTuple):
    """A way in which files are compressed.

    Attributes:
        name: For people.
        ending: That of a file's name.
        open: Opens a file as :func:`gzip.open` does.
    """

    name: str
    ending: str
    open: Callable[..., Any]


GZIP = Compression("gzip", ".gz", gzip.open)
BZIP2 = Compression("bzip2", ".bz2", bz2.open)
XZ = Compression("xz", ".xz", lzma.open)
#: What the decompressors raise for data that is damaged or cut short, besides :class:`OSError`.
DAMAGED = (EOFError, zlib.error, lzma.LZMAError)


def compression(head: bytes) -> Compression | None:
    """How a file is compressed, by its first bytes; ``None`` where it isn't."""
    if head.startswith(b"\x1f\x8b"):
        return GZIP
    if head.startswith(b"BZh") and head[4:10] == b"\x31\x41\x59\x26\x53\x59":  # BZh alone may begin a text
        return BZIP2
    return XZ if head.startswith(b"\xfd7zXZ\0") else None


def compression_of(path: Path) -> Compression | None:
    """How a file is compressed.

    Raises:
        OSError: It can't be read.
    """
    with open(path, "rb") as stream:
        return compression(stream.read(16))


def open_unpacked(path: Path) -> IO[bytes]:
    """A file's bytes as they were before it was compressed.

    Raises:
        OSError: It can't be opened.
    """
    found = compression_of(path)
    stream: IO[bytes] = open(path, "rb") if found is None else found.open(path, "rb")  # noqa: SIM115 -- the caller's
    return stream


def unpacked_name(path: Path) -> Path:
    """The name that a file had before it was compressed: ``a.csv`` for ``a.csv.gz``."""
    endings = (GZIP.ending, BZIP2.ending, XZ.ending)
    return path.with_suffix("") if path.suffix.lower() in endings else path
