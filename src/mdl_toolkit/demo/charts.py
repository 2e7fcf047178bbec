"""Pictures for the report, made of the standard library and numpy: curves as SVG, spectrograms as PNG."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.demo.sounds import SAMPLE_RATE, Wave

#: Colours of a spectrogram from nothing to loudest: night blue, violet, red, amber, pale yellow.
_HEAT = np.array(
    [(7, 9, 28), (52, 22, 94), (134, 34, 106), (213, 74, 78), (249, 150, 60), (252, 247, 187)], float
)


@dataclass(frozen=True)
class Series:
    """A line or a row of dots: its CSS class and its points, x from left to right."""

    style: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def _nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between two bounds."""
    if high <= low:
        return [low]
    step = 10 ** np.floor(np.log10((high - low) / count))
    for factor in (1, 2, 5, 10):
        if (high - low) / (step * factor) <= count:
            step *= factor
            break
    first = np.ceil(low / step) * step
    return [float(v) for v in np.arange(first, high + step * 1e-6, step)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    decades = [10.0**k for k in range(first, last + 1) if low <= 10.0**k <= high]
    if len(decades) >= 3:
        return decades
    return [f * 10.0**k for k in range(first, last + 1) for f in (1, 2, 5) if low <= f * 10.0**k <= high]


@dataclass(frozen=True)
class _Axes:
    """The bounds of a chart, and where a point lies between them, in percent from the top left corner."""

    left: float
    right: float
    low: float
    high: float
    log: bool

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]], log: bool) -> _Axes:
        """Bounds with a little room above the points."""
        xs, ys = [x for x, _ in points], [y for _, y in points]
        left, right = min(xs), max(max(xs), min(xs) + 1)
        low, high = min(ys), max(ys)
        if log:
            return cls(left, right, low / 1.15, high * 1.15, log)
        return cls(left, right, min(0.0, low), high * 1.08 if high > 0 else 1.0, log)

    def across(self, x: float) -> float:
        return 100 * (x - self.left) / (self.right - self.left)

    def down(self, y: float) -> float:
        if self.log:
            share = np.log(y / self.low) / np.log(self.high / self.low)
        else:
            share = (y - self.low) / (self.high - self.low)
        return float(100 * (1 - share))

    def y_ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else _nice_ticks(self.low, self.high, 3)

    def x_ticks(self) -> list[float]:
        return [x for x in _nice_ticks(self.left, self.right, 5) if x == int(x)]


def line_chart(series: Sequence[Series], label: str, *, log: bool = False, x_label: str = "") -> str:
    """Draw lines over a common x axis.

    The drawing stretches to the width it gets, its labels are text beside it: readable on a phone too.

    Args:
        series: What to draw, first at the bottom.
        label: What the chart shows, for those who don't see it.
        log: Whether the y axis is logarithmic (points at or below zero are left out).
        x_label: Written at the right end of the x axis.

    Returns:
        HTML; empty where there is no point at all.
    """
    kept = [[(x, y) for x, y in one.points if np.isfinite(y) and (y > 0 or not log)] for one in series]
    every = [point for points in kept for point in points]
    if not every:
        return ""
    axes = _Axes.around(every, log)
    heights = [(axes.down(y), y) for y in axes.y_ticks()]
    grid = "".join(f'<line x1="0" x2="100" y1="{top:.2f}" y2="{top:.2f}"/>' for top, _ in heights)
    body = "".join(_path(one, points, axes) for one, points in zip(series, kept, strict=True))
    y_labels = "".join(f'<span class="y" style="top:{top:.2f}%">{y:g}</span>' for top, y in heights)
    x_labels = "".join(
        f'<span class="x" style="left:{axes.across(x):.2f}%">{x:g}</span>' for x in axes.x_ticks()
    )
    drawing = (
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(label)}"><g class="grid">{grid}</g>{body}</svg>'
    )
    axis = f'<p class="axis">{html.escape(x_label)}</p>'
    return f'<div class="chart"><div class="plot">{drawing}{y_labels}{x_labels}</div>{axis}</div>'


def _path(series: Series, points: Sequence[tuple[float, float]], axes: _Axes) -> str:
    """SVG of one series; empty where it has no point."""
    style = html.escape(series.style)
    places = [(axes.across(x), axes.down(y)) for x, y in points]
    if series.dots:
        return "".join(f'<path class="{style}" d="M{x:.2f} {y:.2f}h0"/>' for x, y in places)
    steps = "L".join(f"{x:.2f} {y:.2f}" for x, y in places)
    return f'<path class="{style}" d="M{steps}"/>' if steps else ""


def smooth(points: Sequence[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    """A running mean over the last ``width`` points."""
    values = [y for _, y in points]
    return [
        (x, float(np.mean(values[max(0, place - width + 1) : place + 1])))
        for place, (x, _) in enumerate(points)
    ]


def spectrogram(wave: Wave, bands: int = 64) -> NDArray[np.uint8]:
    """Loudness over time and pitch as a picture.

    Args:
        wave: ``[L]``.
        bands: Rows; equal steps of the mel scale from 0 to 8 kHz, the highest first.

    Returns:
        Colours ``[bands, frames, 3]``, one frame every 10 ms.
    """
    hop, size = SAMPLE_RATE // 100, 512
    padded = np.pad(wave, (size // 2, size // 2 + max(0, size - len(wave))))
    starts = np.arange(0, len(padded) - size + 1, hop)[:, None] + np.arange(size)[None]
    power = np.abs(np.fft.rfft(padded[starts] * np.hanning(size), axis=1)) ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), bands + 1)
    edges = np.minimum((700 * (10 ** (mel / 2595) - 1) / (SAMPLE_RATE / size)).astype(int), size // 2)
    rows = [power[:, a : max(a + 1, b)].mean(axis=1) for a, b in pairwise(edges)]
    loudness = 10 * np.log10(np.stack(rows[::-1]) + 1e-10)
    level = np.clip((loudness - loudness.max() + 65) / 65, 0, 1)
    scale = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(level, scale, _HEAT[:, c]) for c in range(3)], axis=-1).astype(np.uint8)


def png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture ``[rows, columns, 3]`` as PNG."""
    rows, columns, _ = picture.shape

    def chunk(name: bytes, content: bytes) -> bytes:
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    lines = b"".join(b"\0" + row.tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )


def data_uri(kind: str, content: bytes) -> str:
    """Bytes as an address that carries them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
