"""Spectrograms as small PNG files, made of numpy and the standard library.

They are made here and not in the page: a page that is opened from a file may play the recordings beside it,
but its scripts may not read them.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

#: Hz. Loudness is shown up to half of it.
SAMPLE_RATE = 16000
BANDS = 64
#: Columns of the widest picture; longer clips have several frames in each.
MOST_COLUMNS = 360
#: Colours of the loudness from nothing to loudest: paper, amber, red, violet, night. Dark on light: on a dark
#: page they may be inverted as a whole.
_INK = np.array([(255, 253, 247), (253, 203, 120), (223, 88, 82), (120, 32, 110), (12, 9, 40)], float)
#: Steps of loudness that are told apart: more make the file larger, and look no better.
_LEVELS = 32
#: dB between nothing and loudest.
_RANGE = 65.0
#: dB of what is taken for loudest at least: a clip of digital silence is white, not black.
_QUIET = -34.0
_WINDOW, _HOP = 512, SAMPLE_RATE // 100
_FRAMES_AT_ONCE = 2048


def spectrogram(samples: Samples) -> NDArray[np.uint8]:
    """Loudness over time and pitch.

    Args:
        samples: ``[L]`` at 16 kHz.

    Returns:
        Levels ``[64, columns]`` from 0 (nothing) to 31 (loudest): rows in equal steps of the mel scale from
        0 to 8 kHz, the highest first; a column is 10 ms, or as many as make 360 columns.
    """
    spare = max(0, _WINDOW - len(samples))
    padded = np.pad(samples, (_WINDOW // 2, _WINDOW // 2 + spare))
    frames = (len(padded) - _WINDOW) // _HOP + 1
    together = -(-frames // MOST_COLUMNS)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    step = max(1, _FRAMES_AT_ONCE // together) * together
    parts = [_power(windows[at : at + step], together) for at in range(0, frames, step)]
    loudness = 10 * np.log10(np.concatenate(parts).T[::-1] + 1e-10)
    share = np.clip((loudness - max(loudness.max(), _QUIET) + _RANGE) / _RANGE, 0, 1)
    levels: NDArray[np.uint8] = np.rint(share * (_LEVELS - 1)).astype(np.uint8)
    return levels


def _power(windows: NDArray[np.float32], together: int) -> NDArray[np.float32]:
    """Mean power by band ``[columns, 64]``, ``together`` frames in each column; the last may have fewer."""
    hann, weights = _tables()
    power = np.abs(np.fft.rfft(windows * hann, axis=1)).astype(np.float32) ** 2 @ weights
    begins = np.arange(0, len(power), together)
    counts = np.diff(np.append(begins, len(power)))[:, None].astype(np.float32)
    return (np.add.reduceat(power, begins, axis=0) / counts).astype(np.float32, copy=False)


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The window ``[512]``, and the share of each frequency in each band, ``[257, 64]``."""
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.linspace(0, SAMPLE_RATE / 2, _WINDOW // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    weights = np.clip(np.minimum(rising, falling), 0, None)
    # A band between two frequencies of the transform has the nearer of them.
    nearest = np.rint(middle / (SAMPLE_RATE / _WINDOW)).astype(int)
    bare = weights.sum(axis=0) < 0.1
    weights[nearest[bare], np.flatnonzero(bare)] = 1.0
    return np.hanning(_WINDOW).astype(np.float32), (weights / weights.sum(axis=0)).astype(np.float32)


def png(levels: NDArray[np.uint8]) -> bytes:
    """A picture of levels ``[rows, columns]`` as a PNG with a palette."""
    rows, columns = levels.shape
    lines = np.zeros((rows, columns + 1), np.uint8)  # each begins with a 0: as it stands, no filter
    lines[:, 1:] = levels
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", _palette()),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


@lru_cache(maxsize=1)
def _palette() -> bytes:
    """The colours of the levels: three bytes for each."""
    places, stops = np.linspace(0, 1, _LEVELS), np.linspace(0, 1, len(_INK))
    colours = [np.interp(places, stops, _INK[:, channel]) for channel in range(3)]
    return np.stack(colours, axis=-1).astype(np.uint8).tobytes()


def _chunk(name: bytes, content: bytes) -> bytes:
    whole = name + content
    return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))
