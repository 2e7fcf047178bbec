"""How alike two clips are, by their samples: the judge of what fingerprints propose.

Both clips are laid upon each other where their sound fits best, cut to what both have, and correlated in
blocks of 50 ms between 80 and 3,600 Hz, higher frequencies raised. A copy, re-encoded or a little noisy,
correlates by 0.93 and more; another recording of the same word by the same speaker hardly ever by 0.85.
Blocks count by their level, but less than in proportion: a loud beep that many recordings begin with doesn't
make them alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.inspection.sound.fingerprint import HOP, RATE, small

Floats = NDArray[np.float32]

#: Clips that are at least this alike are copies; and those that are nearly, if their fingerprints share so
#: much: what codecs of few bits leave. ``benchmarks/data/fingerprints.py`` measures the errors.
COPY, NEARLY, MUCH_SHARED = 0.92, 0.82, 24
#: Share of the shorter clip that both must have.
_LEAST_COMMON = 0.6
#: Seconds that both must have at least.
_LEAST_SECONDS = 0.1
#: Band in Hz, and the power of the frequency by which it is raised: voices are loudest where they are least
#: distinct.
_LOW, _HIGH, _RAISED = 80.0, 3600.0, 0.75
#: Samples of a block, and of the soft edges of what is compared.
_BLOCK, _EDGE = 400, 80
#: Samples by which the offset that fingerprints say may be wrong.
_SEARCHED = 8 * HOP
#: Steps of a sample in which it is searched, how many places are tried, and the score that needs no other
#: place.
_FINER, _TRIED, _CERTAIN = 4, 8, 0.97
#: Decibels below the loudest block from which on blocks don't count, and the power by which levels count.
_QUIET, _LEVEL_POWER = 40.0, 0.75


class Likeness(NamedTuple):
    """How alike two clips are.

    Attributes:
        score: Their correlation where they lie upon each other, at most 1.
        common: Share of the longer clip that both have.
    """

    score: float
    common: float

    def is_copy(self, shared: int) -> bool:
        """Whether one is a copy of the other, or of a part of it.

        Args:
            shared: Hashes that their fingerprints share.
        """
        return self.score >= COPY or (self.score >= NEARLY and shared >= MUCH_SHARED)


def for_comparison(waveform: Floats, rate: int) -> NDArray[np.int16]:
    """A clip as it is compared: 16-bit samples at :data:`RATE`, as loud as can be, without an offset."""
    samples = small(waveform, rate)
    peak = float(np.abs(samples).max(initial=0.0))
    return np.asarray(np.rint(samples * (32767 / peak if peak else 0.0)), dtype=np.int16)


def compare(first: NDArray[np.int16], second: NDArray[np.int16], offset: int) -> Likeness:
    """How alike two clips are.

    Args:
        first: As :func:`for_comparison` gives it.
        second: The other one.
        offset: Spectra of the fingerprint by which the same sound comes later in ``second``.
    """
    one, other = first.astype(np.float32), second.astype(np.float32)
    best = Likeness(0.0, 0.0)
    for lag in _likely_lags(one, other, offset * HOP):
        best = max(best, _likeness_at(one, other, lag))
        if best.score >= _CERTAIN:
            break
    return best


def _likeness_at(one: Floats, other: Floats, lag: float) -> Likeness:
    """How alike two clips are where sample t of the first lies upon sample t + ``lag`` of the second."""
    begin, end = max(0, int(np.ceil(-lag))), min(len(one), int(len(other) - lag))
    length = end - begin
    if length < max(_LEAST_COMMON * min(len(one), len(other)), _LEAST_SECONDS * RATE):
        return Likeness(0.0, 0.0)
    moved = _moved(other, begin + lag, length)
    return Likeness(_correlation(one[begin:end], moved), length / max(len(one), len(other)))


def _likely_lags(one: Floats, other: Floats, expected: float) -> list[float]:
    """Samples, with a fraction, by which the same sound may come later in ``other``, the likeliest first.

    They are the highest places of the product of both clips. The very highest can be wrong by a period of the
    voice, or of the highest frequency: where a clip was cut, both clips end differently.
    """
    size = _fast_size(len(one) + len(other))
    spectrum = np.fft.rfft(_soft(other), size) * np.conj(np.fft.rfft(_soft(one), size)) * _weight(size)
    product = np.abs(np.fft.irfft(spectrum, _FINER * size))
    lags = np.arange(-_FINER * _SEARCHED, _FINER * _SEARCHED + 1) + round(_FINER * expected)
    left, top, right = (product[(lags + step) % len(product)] for step in (-1, 0, 1))
    places = np.flatnonzero((top >= left) & (top > right))
    places = places[np.argsort(-top[places])][:_TRIED]
    shift = 0.5 * (left - right)[places] / (left - 2 * top + right)[places]
    return [float(lag) for lag in (lags[places] + shift) / _FINER]


def _moved(samples: Floats, start: float, length: int) -> Floats:
    """Samples from a place with a fraction on."""
    whole = int(np.floor(start))
    low, high = max(0, whole - _EDGE), min(len(samples), whole + length + _EDGE)
    piece = samples[low:high]
    size = _fast_size(len(piece) + 2 * _EDGE)
    turn = np.exp(2j * np.pi * np.fft.rfftfreq(size) * (start - whole))
    shifted = np.fft.irfft(np.fft.rfft(piece, size) * turn, size)
    return np.asarray(shifted[whole - low : whole - low + length], dtype=np.float32)


def _correlation(one: Floats, other: Floats) -> float:
    """The correlation of two pieces of one length, over blocks."""
    size = _fast_size(len(one) + _EDGE)
    weight = np.sqrt(_weight(size))
    blocks = max(1, round(len(one) / _BLOCK))
    block = len(one) // blocks
    a, b = (
        np.fft.irfft(np.fft.rfft(_soft(piece), size) * weight, size)[: blocks * block].reshape(blocks, block)
        for piece in (one, other)
    )
    energy_a, energy_b = (a**2).sum(axis=1) + 1e-9, (b**2).sum(axis=1) + 1e-9
    products = (a * b).sum(axis=1)
    level = np.sqrt(energy_a / energy_a.max() * energy_b / energy_b.max())
    counts = level**_LEVEL_POWER * (level > 10 ** (-_QUIET / 10))
    # A copy may be turned upside down, but then all of it.
    return float(abs((counts * products / np.sqrt(energy_a * energy_b)).sum()) / counts.sum())


def _soft(samples: Floats) -> Floats:
    """Samples without an offset whose ends fade: an edge is a click, and clicks would lie upon each other."""
    samples = samples - samples.mean()
    edge = min(_EDGE, len(samples) // 4)
    ramp = (0.5 - 0.5 * np.cos(np.pi * np.arange(edge) / max(1, edge))).astype(np.float32)
    samples[:edge] *= ramp
    samples[len(samples) - edge :] *= ramp[::-1]
    return samples


def _weight(size: int) -> NDArray[np.float64]:
    """The power by which each frequency of a spectrum counts."""
    frequencies = np.fft.rfftfreq(size, 1 / RATE)
    inside = (frequencies >= _LOW) & (frequencies <= _HIGH)
    return np.asarray(inside * (frequencies / 1000) ** (2 * _RAISED))


def _fast_size(size: int) -> int:
    """The next power of two, or three quarters of it."""
    power = 1 << max(4, (size - 1).bit_length())
    return power * 3 // 4 if power * 3 // 4 >= size else power
