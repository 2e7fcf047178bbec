"""The demonstration's sounds are what they are said to be, and the same seed gives the same ones."""

from __future__ import annotations

import numpy as np
import pytest

from mdl_toolkit.demo import sounds, task


def loudest_pitch(wave: sounds.Wave) -> float:
    spectrum = np.abs(np.fft.rfft(wave))
    return float(np.argmax(spectrum) * sounds.SAMPLE_RATE / len(wave))


def test_a_tone_has_its_pitch_and_nothing_folds_back():
    assert loudest_pitch(sounds.tone(440, 1.0)) == pytest.approx(440, abs=2)
    spectrum = np.abs(np.fft.rfft(sounds.tone(3000, 1.0, "rough")))
    strong = np.flatnonzero(spectrum > spectrum.max() / 100) * 1.0
    assert all(min(abs(place - 3000), abs(place - 6000)) < 60 for place in strong)


def test_a_glide_goes_where_it_says():
    wave = sounds.glide(300, 1200, 1.0)
    assert loudest_pitch(wave[:2000]) < 400
    assert loudest_pitch(wave[-2000:]) > 1000


def test_band_limit_takes_the_high_part_away():
    rng = np.random.default_rng(0)
    wave = sounds.band_limit(sounds.noise(rng, 1.0), 3500)
    spectrum = np.abs(np.fft.rfft(wave)) ** 2
    assert spectrum[4000:].sum() < 1e-6 * spectrum.sum()


def test_parts_of_the_task_share_no_clip(tmp_path):
    name, train = task.clip(0, "train", 5)
    other, test = task.clip(0, "test", 5)
    assert name == other
    assert not np.array_equal(train[:1000], test[:1000])
    assert np.array_equal(test, task.clip(0, "test", 5)[1])
    listing = task.write_clips(tmp_path, 0, "test", 13)
    lines = listing.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "audio,prediction"
    assert len(lines) == 14
    assert all((tmp_path / line.split(",")[0]).is_file() for line in lines[1:])
