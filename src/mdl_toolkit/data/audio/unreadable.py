"""Files that the decoding library doesn't read: what they are, and what to do about it."""

from __future__ import annotations

import os
import shlex
from typing import BinaryIO

_LOOK = 1 << 12
#: Place, bytes, what it is.
_AUDIO = (
    (4, b"ftyp", "an MPEG-4 file (m4a, mp4, mov, 3gp)"),
    (4, b"moov", "a QuickTime file (mov)"),
    (4, b"mdat", "a QuickTime file (mov)"),
    (0, b"\x1aE\xdf\xa3", "a Matroska file (webm, mkv, mka)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file (wma, wmv)"),
    (8, b"AVI ", "a video (avi)"),
    (0, b"FLV\x01", "a video (flv)"),
    (0, b"\x00\x00\x01\xba", "a video (MPEG)"),
    (0, b".RMF", "a RealMedia file"),
    (0, b"#!AMR", "AMR speech"),
    (0, b"#!SILK", "SILK speech"),
    (1, b"#!SILK", "SILK speech"),
    (0, b"ADIF", "AAC audio"),
    (0, b"\x0b\x77", "AC-3 audio"),
    (0, b"wvpk", "WavPack audio"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "True Audio"),
    (0, b"DSD ", "DSD audio"),
    (0, b"FRM8", "DSD audio"),
    (28, b"Speex   ", "Speex speech"),
    (28, b"\x7fFLAC", "FLAC within Ogg"),
    (28, b"\x80theora", "a video (Ogg Theora)"),
    (0, b"caff", "a Core Audio file (caf) of a kind that is not read"),
)
_OTHER = (
    (b"version https://git-lfs", "a Git LFS pointer, not the recording itself; fetch it: git lfs pull"),
    (b"<!doctype html", "a web page, not a recording"),
    (b"<html", "a web page, not a recording"),
    (b"#extm3u", "a playlist, not a recording"),
    (b"mthd", "a MIDI file: notes, not a recording"),
    (b"pk\x03\x04", "a zip archive, not a recording; unpack it first"),
    (b"\x1f\x8b", "a gzip archive, not a recording; unpack it first"),
)


def explain(stream: BinaryIO, name: str, reason: str) -> str:
    """What to add to the message "not readable as audio": what the file is, and how to convert it.

    Args:
        stream: The file.
        name: The file's name in messages.
        reason: The decoding library's message.
    """
    stream.seek(0)
    head = stream.read(_LOOK)
    if what := kind_of(head):
        return f": it is {what}; convert it first: {convert_line(name)}"
    start = head.lstrip()[:32].lower()
    for mark, what in _OTHER:
        if start.startswith(mark):
            return f": it is {what}"
    return f" ({reason})"


def kind_of(head: bytes) -> str:
    """The kind of a file with sound that libsndfile doesn't read, by its first bytes; else an empty text."""
    for place, mark, what in _AUDIO:
        if head[place : place + len(mark)] == mark:
            return what
    if _is_adts(head):
        return "AAC audio"
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "an MPEG transport stream (ts)"
    return ""


def convert_line(name: str) -> str:
    """A command that makes a file that can be read."""
    stem, ending = os.path.splitext(os.path.basename(name))
    output = stem + (".flac" if ending.lower() == ".wav" else ".wav")
    return f"ffmpeg -i {shlex.quote(os.path.basename(name))} -vn {shlex.quote(output)}"


def _is_adts(head: bytes) -> bool:
    """Whether it is raw AAC (ADTS), recognised by two frames in a row."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return False
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return head[size : size + 1] == b"\xff" and head[size + 1] & 0xF6 == 0xF0
