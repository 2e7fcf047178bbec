"""Instruments that the lessons have and the demonstration hasn't: plucked strings and drums."""

from __future__ import annotations

import numpy as np

from mdl_toolkit.demo import sounds
from mdl_toolkit.demo.sounds import Rng, Wave


def pluck(rng: Rng, pitch: float, seconds: float) -> Wave:
    """A plucked string: harmonics that die the sooner the higher they are."""
    count = sounds.samples(seconds)
    time = np.arange(count) / sounds.SAMPLE_RATE
    wave = np.zeros(count)
    for number in range(1, 16):
        if number * pitch < 7600:
            decay = np.exp(-time * (2.5 + 1.2 * number))
            wave += np.sin(2 * np.pi * number * pitch * time + rng.uniform(0, 6.28)) * decay / number
    return sounds.edges(sounds.peak(wave, 0.8), 0.002)


def drum(rng: Rng, kind: str) -> Wave:
    """A stroke: ``kick`` (a low thump), ``snare`` (a noisy slap) or ``hat`` (a short hiss)."""
    if kind == "kick":
        return sounds.fade(sounds.glide(rng.uniform(110, 160), rng.uniform(42, 55), 0.25), 0.09)
    if kind == "snare":
        return sounds.mix(
            sounds.fade(sounds.noise(rng, 0.2, 700, 7000), 0.06),
            0.5 * sounds.fade(sounds.tone(rng.uniform(170, 210), 0.15), 0.05),
        )
    if kind == "hat":
        return 0.6 * sounds.fade(sounds.noise(rng, 0.09, 5500, 7900), 0.025)
    raise ValueError(f"no drum {kind!r}")
