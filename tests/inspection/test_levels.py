"""Levels of clips: clipped, shifted, quiet; and what isn't any of it."""

from __future__ import annotations

import numpy as np
import pytest

from mdl_toolkit.inspection.sound.levels import levels
from support.data.clips import tone


def _sixteen_bits(wave: np.ndarray) -> np.ndarray:
    return (np.rint(np.clip(wave, -1, 32767 / 32768) * 32768) / 32768).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("hertz", [30, 55, 100, 440, 1234.5])
def test_a_loud_sine_is_not_clipped(rate: int, hertz: float):
    assert levels(_sixteen_bits(tone(1.0, rate, hertz, 0.99997)), rate).flat == 0


@pytest.mark.parametrize("level", [1.0, 0.5, 0.3])
def test_flat_tops_are_counted_at_any_level(level: float):
    wave = _sixteen_bits(level * np.clip(tone(1.0, hertz=200, level=1.5), -1, 1))
    found = levels(wave, 16000)
    assert found.flat > 1000 and found.beyond == 0 and found.peak == pytest.approx(level, abs=1e-3)


def test_one_side_may_be_clipped():
    assert levels(_sixteen_bits(np.minimum(tone(1.0, hertz=200, level=0.9), 0.5)), 16000).flat > 500


def test_samples_beyond_full_scale_are_counted():
    found = levels(tone(1.0, hertz=440, level=1.2), 16000)
    assert found.beyond > 1000 and found.flat == 0


def test_a_shift_is_measured_beside_low_sounds():
    assert levels(tone(1.0) + np.float32(0.05), 16000).offset == pytest.approx(0.05, abs=2e-3)
    # Half a period of a low tone has a mean far from zero, but is not shifted all along.
    rumble = tone(0.5, hertz=3.0, level=0.5)
    rumble[len(rumble) // 3 :] *= 0.01
    assert abs(levels(rumble, 16000).offset) < 0.01


def test_loudness_is_without_the_shift():
    assert levels(tone(1.0, level=0.2) + np.float32(0.3), 16000).loudness == pytest.approx(
        0.2 / 2**0.5, abs=1e-3
    )
