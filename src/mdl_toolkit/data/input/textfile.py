"""Text files of any encoding, with an error that says what else they may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

from mdl_toolkit.data.input.compressed import DAMAGED, Compression, compression_of, open_unpacked
from mdl_toolkit.data.input.kinds import damaged_message, table_head
from mdl_toolkit.errors import DataError

#: The number of characters of the longest line.
MAX_LINE = 1 << 24


def is_utf8(encoding: str) -> bool:
    """Whether a name of an encoding means UTF-8."""
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig", "u8")


def codec_name(encoding: str) -> str:
    """The encoding, with a byte-order mark left out."""
    return "utf-8-sig" if is_utf8(encoding) else encoding


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[IO[str]]:
    """A text file, line ends kept; one that is compressed is unpacked while it is read.

    Raises:
        DataError: It can't be opened; or, while it is read, a byte isn't of the encoding: the message names
            the line.
    """
    packed: Compression | None = None
    try:
        packed = compression_of(path)
        if packed is None:
            opening = open(path, encoding=codec_name(encoding), newline="")  # noqa: SIM115 -- closed right below
        else:
            opening = packed.open(path, "rt", encoding=codec_name(encoding), newline="")
        with opening as stream:
            yield stream
    except LookupError as error:
        raise DataError(
            f"--encoding {encoding}: no such text encoding; for example utf-8, gbk, utf-16"
        ) from error
    except UnicodeError as error:
        if b"\0" in table_head(path) and not any(size in encoding for size in ("16", "32")):
            raise DataError(
                f"{path}: not text; a table is a CSV, JSON lines, a JSON array or Parquet (text of another "
                "encoding? say it, for example --encoding utf-16)"
            ) from error
        raise DataError(
            f"{path}{_undecodable_line(path, encoding)}: not {encoding} text ({_reason(error)}); say what it "
            "is, for example --encoding gbk (cp1252 in western Europe), or save it as UTF-8"
        ) from error
    except (*DAMAGED, OSError) as error:
        if packed is not None:
            raise DataError(damaged_message(path, packed, error)) from error
        raise DataError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from error


def checked_lines(stream: IO[str], path: Path) -> Iterator[str]:
    """Its lines; a NUL character in one is an error, and so is a line that is too long.

    Some kilobytes of a compressed file can hold a line that fills the memory.
    """
    for number in count(1):
        line = stream.readline(MAX_LINE + 1)
        if not line:
            return
        if len(line) > MAX_LINE and "\0" not in line:
            raise DataError(f"{path} line {number}: longer than {MAX_LINE:,} characters; is it a table?")
        if "\0" in line:
            raise DataError(
                f"{path} line {number}: a NUL character; the file is damaged or of another encoding "
                "(--encoding utf-16?)"
            )
        yield line


def _reason(error: UnicodeError) -> str:
    return error.reason if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)) else str(error)


def _undecodable_line(path: Path, encoding: str) -> str:
    """`` line 17``: the first line that isn't of the encoding; nothing where that can't be said."""
    try:
        with open_unpacked(path) as stream:
            for number in count(1):
                if not (line := stream.readline(MAX_LINE)):
                    break
                try:
                    line.decode(encoding)
                except UnicodeError:
                    return f" line {number}"
    except (*DAMAGED, OSError, LookupError):
        pass
    return ""
