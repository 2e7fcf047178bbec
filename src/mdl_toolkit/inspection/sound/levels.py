"""Levels of a clip: how loud it is, whether it was clipped, and whether it lies beside zero."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: One step of 16 bits.
_STEP = 2.0**-15
#: Samples in a row at the extreme of a clip that a hard limit has made, at the least; a sound that merely
#: turns there is at its extreme for one or two.
_FLAT_RUN = 3
#: Steps between a flat top and the sample before or after it. A low tone turns slowly, and has less.
_INTO_FLAT = 16
#: The least extreme at which flat tops are looked for, in shares of full scale: quiet clips have few steps.
_LEAST_EXTREME = 0.25
#: Seconds of a piece whose mean is taken: the offset of a clip is the median over its pieces, so that low
#: sounds aren't taken for one.
_PIECE = 0.04


class Levels(NamedTuple):
    """Levels of a clip, in shares of full scale.

    Attributes:
        peak: The largest absolute sample.
        loudness: The root of the mean square, without the offset.
        offset: What the clip is shifted by.
        flat: Samples in flat tops.
        beyond: Samples beyond full scale.
    """

    peak: float
    loudness: float
    offset: float
    flat: int
    beyond: int


def levels(samples: Floats, rate: int) -> Levels:
    """The levels of a clip.

    Args:
        samples: float32 [N] at the recording's own rate: resampling rounds flat tops off.
        rate: Samples a second.
    """
    high, low = float(samples.max()), float(samples.min())
    peak = max(high, -low)
    beyond = int(np.count_nonzero(np.abs(samples) > 1.0)) if peak > 1.0 else 0
    mean = float(samples.mean(dtype=np.float64))
    power = float(np.dot(samples, samples)) / len(samples)
    flat = sum(
        _flat_tops(samples, extreme)
        for extreme in (high, low)
        if abs(extreme) >= _LEAST_EXTREME and peak <= 1.0
    )
    return Levels(peak, max(0.0, power - mean**2) ** 0.5, _offset(samples, rate), flat, beyond)


def _offset(samples: Floats, rate: int) -> float:
    size = max(1, round(_PIECE * rate))
    count = len(samples) // size
    if count < 2:
        return float(samples.mean())
    return float(np.median(samples[: count * size].reshape(count, size).mean(axis=1)))


def _flat_tops(samples: Floats, extreme: float) -> int:
    """Samples in runs at an extreme that are entered or left by a jump."""
    near = np.abs(samples - np.float32(extreme)) <= 1.01 * _STEP
    places = np.flatnonzero(near)
    if len(places) < _FLAT_RUN:
        return 0
    breaks = np.flatnonzero(np.diff(places) > 1)
    begins = places[np.concatenate([[0], breaks + 1])]
    ends = places[np.concatenate([breaks, [len(places) - 1]])]
    long = ends - begins + 1 >= _FLAT_RUN
    begins, ends = begins[long], ends[long]
    before, after = samples[np.maximum(begins - 1, 0)], samples[np.minimum(ends + 1, len(samples) - 1)]
    jump = np.maximum(np.abs(before - np.float32(extreme)), np.abs(after - np.float32(extreme)))
    kept = jump >= _INTO_FLAT * _STEP
    return int((ends - begins + 1)[kept].sum())
