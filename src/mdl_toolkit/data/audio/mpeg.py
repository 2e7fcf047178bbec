"""How long an MPEG audio stream (MP3, MP2) is, counted frame by frame.

Such a stream has no length of its own. A frame that encoders put in front of it (called Xing, Info or VBRI;
the standard knows nothing of it) can hold one, but a program that writes to a pipe can't go back to fill it
in, and two files joined by ``cat`` have two. libsndfile then guesses from the first frame's size, stops
reading where its guess does, and can't be told better. So the frames are counted here. libsndfile is
shown enough zeros behind the end of such a stream that its guess is too high; the count says where to stop,
before the zeros.

Alternatives: miniaudio's decoder reads to the end by itself, but has no wheels for aarch64; and a Xing
frame made up here would do for Layer III alone.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from mdl_toolkit.data.audio.parts import Part, read_at
from mdl_toolkit.data.audio.unreadable import convert_line, kind_of
from mdl_toolkit.errors import DataError

#: kbit/s by (MPEG-1 or later, layer), for the header's values 1 to 14.
_BIT_RATES = {
    (True, 1): range(32, 449, 32),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
#: Sample rates of MPEG-1 in Hz by the header's value; MPEG-2 has half of them, MPEG-2.5 a quarter.
_RATES = (44100, 48000, 32000)
_BLOCK = 1 << 18
#: Bytes of a frame that are read: its header, and the place where an info frame has its lengths.
_LOOK = 64
#: Bytes without a frame that are searched for the next one.
_MAX_JUNK = 1 << 16
#: The largest number of tags and stretches of frames in a recording.
_MAX_PIECES = 2000
#: Bytes that are searched for a first frame, and the number of frames in a row that can't be chance.
_MAX_BEGINNING = 1 << 14
_FRAMES_IN_A_ROW = 4
#: Frames that are decoded before a segment: a frame uses bytes of earlier ones (its bit reservoir), and
#: overlaps with the one before it. There are some to spare.
PREROLL_FRAMES = 16


class Frame(NamedTuple):
    """What a frame's header says.

    Attributes:
        size: Its size in bytes; 0 for "free format", where the header doesn't say.
        samples: The number of samples of each channel.
        form: Version, layer, sample rate in Hz and channels: what is the same for all frames of a stream.
    """

    size: int
    samples: int
    form: tuple[int, int, int, int]


class _Stream(NamedTuple):
    """Frames without a gap."""

    begin: int
    end: int
    frames: int
    largest: int
    first: Frame
    promised: int | None
    info_end: int


@lru_cache(maxsize=4096)
def frame_of(header: bytes) -> Frame | None:
    """What the four bytes of a frame's header say; ``None`` where they are none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version = {3: 1, 2: 2, 0: 4}.get(header[1] >> 3 & 3)
    layer = 4 - (header[1] >> 1 & 3)
    bit_rate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version is None or layer == 4 or bit_rate == 15 or rate == 3:
        return None
    hertz = _RATES[rate] // version
    bits = _BIT_RATES[version == 1, layer][bit_rate - 1] * 1000 if bit_rate else 0
    padded = header[2] >> 1 & 1 if bits else 0
    if layer == 1:
        samples, size = 384, (12 * bits // hertz + padded) * 4
    else:
        samples = 576 if layer == 3 and version > 1 else 1152
        size = samples // 8 * bits // hertz + padded
    channels = 1 if header[3] >> 6 == 3 else 2
    return Frame(size, samples, (version, layer, hertz, channels))


def tag_size(head: bytes) -> int:
    """The size in bytes of the tag (ID3v1, ID3v2, APE) that begins here; 0 where none does."""
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:4] == b"TAG+":
        return 227
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) >= 24:
        size, _, flags = struct.unpack("<3I", head[12:24])
        return 32 + (size if flags & 1 << 29 else 0)  # this is the header, or the footer
    return 0


def headless_parts(stream: BinaryIO, size: int, name: str) -> list[Part]:
    """The recordings in a file that begins within a frame, as recordings of radio streams do.

    Returns:
        The recordings; an empty list where the file is of another known kind, or has no frames in a row that
        fit together.
    """
    head = read_at(stream, 0, _MAX_BEGINNING)
    at = -1 if kind_of(head) else head.find(b"\xff")
    while at >= 0:
        place = at
        forms: list[tuple[int, int, int, int]] = []
        while (frame := frame_of(head[place : place + 4])) and frame.size and len(forms) < _FRAMES_IN_A_ROW:
            forms.append(frame.form)
            place += frame.size
        if len(forms) == _FRAMES_IN_A_ROW and len(set(forms)) == 1:
            return mpeg_parts(stream, at, size, name) or [Part(at, size)]
        at = head.find(b"\xff", at + 1)
    return []


def mpeg_parts(stream: BinaryIO, begin: int, end: int, name: str) -> list[Part]:
    """The recordings in an MPEG audio stream.

    Args:
        stream: The file that holds the stream.
        begin: The place of its first byte, which begins a frame or a tag.
        end: The place after its last byte.
        name: The file's name in messages.

    Returns:
        The recordings; an empty list where libsndfile itself reads the stream rightly, which is a single
        recording whose first frame says truly how long it is.

    Raises:
        DataError: The stream ends within a frame or before its first frame says, or something else than
            frames and tags is between its frames.
    """
    head = read_at(stream, begin, min(_LOOK, end - begin))
    while (tag := tag_size(head)) and begin + tag < end:
        begin += tag
        head = read_at(stream, begin, min(_LOOK, end - begin))
    if _is_true(stream, begin, end, head):
        return []
    found = [_part(one, name) for one in _streams(stream, begin, end, name)]
    parts = [part for part in found if part is not None]
    return [] if len(parts) == 1 and parts[0].frames is None else parts


def _part(found: _Stream, name: str) -> Part | None:
    promised, samples = found.promised, found.first.samples
    if promised is not None and found.frames < promised - 1:
        raise DataError(
            f"{name}: cut short, {found.frames} frames are there where its header says {promised}"
        )
    if promised == found.frames:
        return Part(found.begin, found.end)
    if not found.frames:
        return None
    seen = (found.frames + 4) * found.largest
    begin = found.info_end
    return Part(
        begin,
        found.end,
        frames=found.frames * samples,
        padding=max(0, seen - (found.end - begin)),
    )


def _is_true(stream: BinaryIO, begin: int, end: int, head: bytes) -> bool:
    """Whether the first frame says how many frames there are, and how many bytes, and the latter is true."""
    frame = frame_of(head[:4])
    lengths = frame and _info(head, frame)
    if not lengths or lengths[0] is None or lengths[1] is None:
        return False
    last = read_at(stream, max(begin, end - 128), min(128, end - begin))
    if last[:3] == b"TAG":
        end -= 128
    return begin + lengths[1] == end


def _info(head: bytes, frame: Frame) -> tuple[int | None, int | None] | None:
    """The numbers of frames and bytes that an info frame (Xing, VBRI) says; ``None`` for other frames."""
    version, layer, _, channels = frame.form
    if layer != 3:
        return None
    side = (32 if channels == 2 else 17) if version == 1 else (17 if channels == 2 else 9)
    place = 4 + side
    if head[place : place + 4] not in (b"Xing", b"Info"):
        # VBRI is always at this place. Not all decoders know it, so its lengths are not used.
        return (None, None) if head[36:40] == b"VBRI" else None
    flags = int.from_bytes(head[place + 4 : place + 8], "big")
    numbers = [int.from_bytes(head[place + 8 + at : place + 12 + at], "big") for at in (0, 4)]
    frames = numbers.pop(0) if flags & 1 else None
    return frames, numbers[0] if flags & 2 else None


def _streams(stream: BinaryIO, begin: int, end: int, name: str) -> list[_Stream]:
    """All streams between two places: a new one begins at each first frame, tag, and change of form."""
    found: list[_Stream] = []
    place = begin
    for _ in range(_MAX_PIECES):
        one, place = _walk(stream, place, end, name)
        if one is not None:
            found.append(one)
        if place >= end:
            return found
        head = read_at(stream, place, min(_LOOK, end - place))
        if frame_of(head[:4]) is None:
            # What follows a stream that is as long as it says is no part of it.
            needed = one is not None and one.promised != one.frames
            place = _after_junk(stream, place, end, head, needed, name)
            if place >= end:
                return found
    raise DataError(f"{name}: damaged, its MPEG frames are in more than {_MAX_PIECES} pieces")


def _walk(stream: BinaryIO, begin: int, end: int, name: str) -> tuple[_Stream | None, int]:
    """Count frames of one form; returns them, and the place where something else begins."""
    block, base, place = b"", begin, begin
    first: Frame | None = None
    frames = largest = 0
    info_end, promised = begin, None
    while place < end:
        at = place - base
        if at + _LOOK > len(block) and base + len(block) < end:
            base, at = place, 0
            block = read_at(stream, place, min(_BLOCK, end - place))
            if len(block) < 4:
                break
        frame = frame_of(block[at : at + 4])
        if frame is None or (first is not None and frame.form != first.form):
            break
        if not frame.size:
            raise DataError(
                f"{name}: MPEG audio of free format without its length; convert it: {convert_line(name)}"
            )
        if place + frame.size > end:
            rest = "" if promised else f"; if no more than that is missing: {convert_line(name)}"
            raise DataError(f"{name}: cut short, its last MPEG frame is not whole{rest}")
        info = _info(block[at : at + _LOOK], frame)
        if info is not None and first is not None:
            break
        first = first or frame
        place += frame.size
        if info is None:
            frames += 1
            largest = max(largest, frame.size)
        else:
            info_end, promised = place, info[0]
    if first is None:
        return None, place
    return _Stream(begin, place, frames, largest, first, promised, info_end), place


def _after_junk(stream: BinaryIO, place: int, end: int, head: bytes, needed: bool, name: str) -> int:
    """The place where frames go on after something else: a tag, zeros, or what doesn't belong there.

    Raises:
        DataError: Something is lost: it is no tag, and frames are ``needed`` in its place.
    """
    if tag := tag_size(head):
        return min(end, place + tag)
    block = read_at(stream, place, min(_MAX_JUNK, end - place))
    if block.startswith(b"LYRICSBEGIN"):
        return end  # this tag comes after all frames
    known = [at for mark in (b"LYRICSBEGIN", b"APETAGEX", b"TAG") if (at := block.find(mark, 1)) > 0]
    stop, at = min(known, default=len(block)), 1
    while (at := block.find(b"\xff", at)) >= 0:
        frame = frame_of(block[at : at + 4])
        if frame and frame.size and frame_of(block[at + frame.size : at + frame.size + 4]):
            stop = min(stop, at)
            break
        at += 1
    if needed and block[:stop].strip(b"\0"):
        raise DataError(f"{name}: damaged or cut short, {stop} bytes at {place} are no MPEG audio")
    return place + stop
