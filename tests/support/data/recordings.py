"""Recordings as programs write them that can't go back in a file, or don't know better: made as bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from support.data.clips import wav_bytes

SHARED_CASES = Path(__file__).resolve().parents[3].parent / "shared" / "cases"


def bursts(seconds: float, rate: int = 16000) -> np.ndarray:
    """Noise that is silent every other half second: variable bit rates vary on it. float32 [samples]."""
    samples = np.random.default_rng(0).normal(0, 0.2, round(seconds * rate)).astype(np.float32)
    time = np.arange(len(samples)) / rate
    return np.clip(np.where(time % 1 < 0.5, samples, samples * 0.001), -1, 1)


def mp3_bytes(samples: np.ndarray, rate: int = 16000, length: bool = True) -> bytes:
    """An MP3 of variable bit rate; without ``length`` as an encoder that writes to a pipe leaves it."""
    data = wav_bytes(
        samples, rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.6
    )
    return data if length else data[mp3_sizes(data)[0] :]


def mp3_sizes(data: bytes) -> list[int]:
    """Sizes of the frames of an MPEG-1 or MPEG-2 Layer III stream without tags."""
    sizes, place = [], 0
    while place < len(data):
        version_1 = data[place + 1] >> 3 & 3 == 3
        kbits = (
            (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
            if version_1
            else (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
        )[data[place + 2] >> 4]
        rate = (44100, 48000, 32000)[data[place + 2] >> 2 & 3] // (1 if version_1 else 2)
        sizes.append((144 if version_1 else 72) * kbits * 1000 // rate + (data[place + 2] >> 1 & 1))
        place += sizes[-1]
    return sizes


def flac_without_length(data: bytes) -> bytes:
    """A FLAC file whose number of samples was never filled in."""
    info = int.from_bytes(data[18:26], "big") >> 36 << 36
    return data[:18] + info.to_bytes(8, "big") + data[26:]


def wav_with_lengths(data: bytes, outer: int, inner: int) -> bytes:
    """A WAV file with other lengths of the file and of its samples."""
    place = data.index(b"data") + 4
    return data[:4] + struct.pack("<I", outer) + data[8:place] + struct.pack("<I", inner) + data[place + 4 :]


def wav_with_byte_rate(data: bytes, byte_rate: int) -> bytes:
    """A WAV file with another number of bytes a second in its header."""
    return data[:28] + struct.pack("<I", byte_rate) + data[32:]
