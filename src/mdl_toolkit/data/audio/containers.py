"""Files that hold more, or other lengths, than the decoding library reads from their headers.

Such files come from programs that write to a pipe (lengths that were never filled in), from ``cat`` and
from radio streams (several recordings end to end, of which libsndfile reads the first). Ordinary files are
read by libsndfile as they are: what is done here for them is a look at a few bytes.
"""

from __future__ import annotations

import io
import itertools
import os
import struct
from functools import lru_cache
from typing import BinaryIO

from mdl_toolkit.data.audio.mpeg import frame_of, mpeg_parts, tag_size
from mdl_toolkit.data.audio.parts import Part, read_at
from mdl_toolkit.errors import DataError

#: Lengths from here on stand for "not known yet", written by a program that couldn't go back to fill them in.
UNKNOWN_LENGTH = 0x7FFFF000
_RIFF = (b"RIFF", b"RIFX", b"RF64")
_MPEG_TAGS = (0x50, 0x55)
#: How the first block of a FLAC stream begins: its kind and length are known, it may be the last or not.
_FLAC_INFO = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")
_BLOCK = 1 << 20
_SMALL_BLOCK = 1 << 13
_MAX_CHUNKS = 1000
#: The size in bytes from which on the recordings found in a file are cached.
_LARGE = 1 << 20


def find_parts(stream: BinaryIO, size: int, name: str) -> list[Part]:
    """The recordings in a file.

    Args:
        stream: The file.
        size: The size of the file in bytes.
        name: The file's name in messages.

    Returns:
        The recordings; an empty list where libsndfile reads the file rightly as it is.

    Raises:
        DataError: The file is cut short.
    """
    if size < _LARGE or isinstance(stream, io.BytesIO):
        return _find(stream, size, name)
    status = os.fstat(stream.fileno())
    found = _found((status.st_dev, status.st_ino, size, status.st_mtime_ns))
    if not found:
        found.append(_find(stream, size, name))
    return found[0]


@lru_cache(maxsize=16)
def _found(file: tuple[int, int, int, int]) -> list[list[Part]]:  # noqa: ARG001 -- the key of the cache
    """The list that caches the answer for a file: rows that are segments of one file ask again and again."""
    return []


def _find(stream: BinaryIO, size: int, name: str) -> list[Part]:  # noqa: PLR0911 -- one for each kind of file
    head = read_at(stream, 0, 44)
    if _is_plain_wav(head, size):
        return []
    if head[:4] in _RIFF and head[8:12] == b"WAVE":
        return _riff_parts(stream, size, name)
    if head[:4] == b"OggS":
        return _ogg_parts(stream, size, name)
    if head[:4] in _ENDS:
        return _joined(stream, size, head[:4])
    place = 0
    while tag := tag_size(head):
        place += tag
        head = read_at(stream, place, 44)
    if head[:4] == b"fLaC":
        # Samples of each channel, in 36 bits; 0: not known.
        known = int.from_bytes(head[18:26], "big") & 0xFFFFFFFFF
        return [] if known else flac_parts(stream, size)
    if place or frame_of(head[:4]):  # zeros may follow a tag
        return mpeg_parts(stream, place, size, name)
    return []


def _is_plain_wav(head: bytes, size: int) -> bool:
    """Whether the first 44 bytes are those of a plain WAV file, which needs no further search."""
    if len(head) < 44 or head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt " or head[36:40] != b"data":
        return False
    outer, kind, length = struct.unpack_from("<4xI12xH18xI", head)
    return (outer, length) == (size - 8, size - 44) and kind == 1 and length > 0


def flac_parts(stream: BinaryIO, size: int, begin: int = 0) -> list[Part]:
    """All FLAC streams from a place on, found by how each begins."""
    places = [
        at for at in _find_all(stream, b"fLaC", begin, size) if read_at(stream, at + 4, 4) in _FLAC_INFO
    ]
    return [Part(*ends) for ends in itertools.pairwise([*places, size])]


def _find_all(stream: BinaryIO, mark: bytes, begin: int, end: int) -> list[int]:
    places, place, rest = [], begin, b""
    stream.seek(begin)
    while place < end and (block := stream.read(min(_BLOCK, end - place))):
        text, base = rest + block, place - len(rest)
        at = text.find(mark)
        while at >= 0:
            places.append(base + at)
            at = text.find(mark, at + 1)
        place += len(block)
        rest = text[1 - len(mark) :]
    return places


def _riff_parts(stream: BinaryIO, size: int, name: str) -> list[Part]:
    """Recordings in a WAV file or several; lengths that were never filled in are those of the file."""
    parts: list[Part] = []
    begin, plain = 0, True
    while begin < size:
        data, end, mended, is_mpeg = _riff(stream, begin, size)
        following = _next_riff(stream, end, size) if end < size else size
        if is_mpeg:
            inner = mpeg_parts(stream, data, min(end, following), name)
            parts += inner or [Part(data, min(end, following))]
        else:
            parts.append(Part(begin, following if end < size else size, mended))
        plain = plain and not mended and not is_mpeg
        begin = following
    return [] if plain and len(parts) == 1 else parts


def _riff(stream: BinaryIO, begin: int, size: int) -> tuple[int, int, bytes, bool]:
    """Walk through the chunks of a WAV file.

    Returns:
        Where its samples begin; where the file ends; its header with lengths that libsndfile takes for
        "up to the end", or nothing where they are good; whether the samples are an MPEG audio stream.
    """
    head = read_at(stream, begin, 12)
    order = ">" if head[:4] == b"RIFX" else "<"
    outer = struct.unpack(order + "I", head[4:8])[0]
    place, ds64, wide, is_mpeg = begin + 12, 0, 0, False
    for _ in range(_MAX_CHUNKS):
        chunk = read_at(stream, place, 36)
        if len(chunk) < 8:
            break
        length = struct.unpack(order + "I", chunk[4:8])[0]
        if chunk[:4] == b"ds64" and len(chunk) >= 24:
            outer, wide = struct.unpack("<QQ", chunk[8:24])
            ds64 = place + 8 - begin
        elif chunk[:4] == b"fmt " and len(chunk) >= 10:
            is_mpeg = struct.unpack(order + "H", chunk[8:10])[0] in _MPEG_TAGS
        elif chunk[:4] == b"data":
            data = place + 8
            length = wide if ds64 and length == 0xFFFFFFFF else length
            told = begin + 8 + outer
            # A length of 0 was never filled in, unless the outer length says that the file goes on.
            known = length < UNKNOWN_LENGTH or ds64 if length else data < told < size + 2
            if known:
                outer_known = told >= data and (ds64 or outer < UNKNOWN_LENGTH)
                return data, max(told if outer_known else 0, data + length), b"", is_mpeg
            if data == size:
                return data, size, b"", is_mpeg
            end = _next_marked(stream, data, size)
            header = bytearray(read_at(stream, begin, data - begin))
            if ds64:
                header[ds64 : ds64 + 16] = struct.pack("<QQ", end - begin - 8, end - data)
            else:
                header[-4:] = b"\xff" * 4
            return data, end, bytes(header), is_mpeg
        place += 8 + length + (length & 1)
    return place, size, b"", False


def _next_marked(stream: BinaryIO, begin: int, size: int) -> int:
    """The place where another WAV file begins, searched for because no length says where; else ``size``."""
    for at in _find_all(stream, b"WAVEfmt ", begin, size):
        if read_at(stream, at - 8, 4) in _RIFF:
            return at - 8
    return size


def _next_riff(stream: BinaryIO, end: int, size: int) -> int:
    """The place where another WAV file begins at the end of one; ``size`` where none does."""
    for place in (end, end + 1):  # chunks have an even length, but not every program knows it
        head = read_at(stream, place, 12)
        if head[:4] in _RIFF and head[8:] == b"WAVE":
            return place
    return size


def _joined(stream: BinaryIO, size: int, mark: bytes) -> list[Part]:
    """Recordings of AIFF, AU, W64 or CAF files laid end to end."""
    parts: list[Part] = []
    begin, mended = 0, b""
    while begin < size:
        end = _ENDS[mark](stream, begin, size)
        follows = begin + 8 < end < size and read_at(stream, end, 4) == mark
        if mark == b".snd" and read_at(stream, begin + 8, 4) == bytes(4) and begin + 28 < size:
            # A length of 0 was never filled in, where samples follow. This header says "not known" instead.
            mended = read_at(stream, begin, 8) + b"\xff" * 4
            follows = False
        parts.append(Part(begin, end if follows else size, mended))
        begin = parts[-1].end
    return parts if len(parts) > 1 or mended else []


def _end_of_aiff(stream: BinaryIO, begin: int, _size: int) -> int:
    return begin + 8 + int.from_bytes(read_at(stream, begin + 4, 4), "big")


def _end_of_au(stream: BinaryIO, begin: int, _size: int) -> int:
    fields = read_at(stream, begin + 4, 8)
    return begin + int.from_bytes(fields[:4], "big") + int.from_bytes(fields[4:], "big")


def _end_of_w64(stream: BinaryIO, begin: int, _size: int) -> int:
    return begin + (int.from_bytes(read_at(stream, begin + 16, 8), "little") + 7) // 8 * 8


def _end_of_caf(stream: BinaryIO, begin: int, _size: int) -> int:
    """The place after a CAF file, found by its chunks, since CAF has no length of its own."""
    place = begin + 8
    for _ in range(_MAX_CHUNKS):
        chunk = read_at(stream, place, 12)
        length = int.from_bytes(chunk[4:], "big", signed=True)
        if len(chunk) < 12 or chunk[:4] == b"caff" or length < 0:
            break
        place += 12 + length
    return place


_ENDS = {b"FORM": _end_of_aiff, b".snd": _end_of_au, b"riff": _end_of_w64, b"caff": _end_of_caf}


def _ogg_parts(stream: BinaryIO, size: int, name: str) -> list[Part]:
    """Links of a chained Ogg file (RFC 3533): a new one begins where first pages follow others."""
    begins: list[int] = []
    place, in_head = 0, False
    while place < size:
        page = read_at(stream, place, 27 + 255)
        if page[:4] != b"OggS":
            if b"OggS".startswith(page[:4]):
                raise _cut(name)
            following = _find_first(stream, b"OggS", place + 1, size)
            if following is None:
                break  # what follows the last page is no part of the file
            place = following
            continue
        if len(page) < 27 or len(page) < 27 + page[26]:
            raise _cut(name)
        is_first = bool(page[5] & 2)
        if is_first and not in_head:
            begins.append(place)
        in_head = is_first
        place += 27 + page[26] + sum(page[27 : 27 + page[26]])
    if place > size:
        raise _cut(name)
    if len(begins) < 2:
        return []
    begins[0] = 0
    return [Part(*ends) for ends in itertools.pairwise([*begins, size])]


def _find_first(stream: BinaryIO, mark: bytes, begin: int, end: int) -> int | None:
    place = begin
    while place < end:
        block = read_at(stream, place, _SMALL_BLOCK)
        at = block.find(mark)
        if at >= 0:
            return place + at
        place += max(1, len(block) + 1 - len(mark))
    return None


def _cut(name: str) -> DataError:
    return DataError(f"{name}: cut short, its last Ogg page is not whole")
