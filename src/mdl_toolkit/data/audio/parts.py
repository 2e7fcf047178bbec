"""Parts of a file: recordings laid end to end, or the one whose header says less than it holds."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class Part:
    """A recording within a file.

    Attributes:
        begin: Its first byte.
        end: The byte after its last.
        header: What is read in place of its first bytes, where these don't say how long it is.
        frames: Its length in samples of each channel, where the decoding library would only guess.
        padding: Zero bytes to be seen after its end; see :mod:`mdl_toolkit.data.audio.mpeg`.
    """

    begin: int
    end: int
    header: bytes = b""
    frames: int | None = None
    padding: int = 0


def read_at(stream: BinaryIO, place: int, size: int) -> bytes:
    """Up to ``size`` bytes of a file from a place on."""
    stream.seek(place)
    return stream.read(max(0, size))


class PartView(io.RawIOBase):
    """A part as a file of its own, for the decoding library to read from.

    Args:
        stream: The whole file.
        part: The part that is seen.
    """

    def __init__(self, stream: BinaryIO, part: Part) -> None:
        self._stream, self._part, self._place = stream, part, 0
        self._real = part.end - part.begin
        self._size = self._real + part.padding

    def readable(self) -> bool:  # noqa: D102 -- as in io.RawIOBase
        return True

    def seekable(self) -> bool:  # noqa: D102 -- as in io.RawIOBase
        return True

    def tell(self) -> int:  # noqa: D102 -- as in io.RawIOBase
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102 -- as in io.RawIOBase
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # noqa: D102 -- as in io.RawIOBase
        into, done = memoryview(buffer), 0
        while done < len(into):
            count = self._fill(into[done:])
            if not count:
                break
            done += count
        return done

    def _fill(self, into: memoryview) -> int:
        """Read from one of the three stretches: the header, the file, the padding."""
        header, place = self._part.header, self._place
        if place < len(header):
            piece = header[place : place + len(into)]
        elif place < self._real:
            self._stream.seek(self._part.begin + place)
            piece = self._stream.read(min(len(into), self._real - place))
        else:
            piece = bytes(max(0, min(len(into), self._size - place)))
        into[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)
