"""Synthetic sounds, of numpy alone: tones, noises, clicks, bells, drums, and what a room does to them.

Every function takes the generator that it draws from, so that a seed gives the same samples again. A sound is
a float32 array ``[L]`` at 16 kHz, roughly within [-1, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000

Wave: TypeAlias = NDArray[np.float32]
Rng: TypeAlias = np.random.Generator

#: Relative strengths of the harmonics of each timbre.
TIMBRES = {
    "pure": np.array([1.0]),
    "soft": np.array([1.0, 0.35, 0.12, 0.04]),
    "hollow": np.array([1 / k if k % 2 else 0.0 for k in range(1, 20)]),
    "rough": np.array([1 / k for k in range(1, 20)]),
}


def samples(seconds: float) -> int:
    """How many samples a time takes; at least one."""
    return max(1, round(seconds * SAMPLE_RATE))


def peak(wave: NDArray[np.floating], level: float, quiet: float = 1e-9) -> Wave:
    """Scale a sound so that its largest sample has a level; below ``quiet``, to that share of it."""
    scaled: Wave = (level * wave / max(quiet, float(np.abs(wave).max()))).astype(np.float32)
    return scaled


def oscillator(frequency: NDArray[np.float64], timbre: str = "pure") -> Wave:
    """A tone whose pitch follows a curve.

    Args:
        frequency: In Hz, one value a sample ``[L]``.
        timbre: A name of :data:`TIMBRES`. Harmonics above 7.6 kHz are left out, so nothing folds back.
    """
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    strengths = TIMBRES[timbre]
    wave = np.zeros(len(frequency))
    highest = float(frequency.max())
    for number, strength in enumerate(strengths, start=1):
        if strength and number * highest < 7600:
            wave += strength * np.sin(number * phase)
    return peak(wave, 0.8, quiet=1.0)


def tone(frequency: float, seconds: float, timbre: str = "pure") -> Wave:
    """A tone of one pitch."""
    return oscillator(np.full(samples(seconds), float(frequency)), timbre)


def glide(start: float, end: float, seconds: float, timbre: str = "pure") -> Wave:
    """A tone that goes from one pitch to another in equal musical steps."""
    return oscillator(np.geomspace(start, end, samples(seconds)), timbre)


def noise(rng: Rng, seconds: float, low: float = 0.0, high: float = 8000.0, tilt: float = 0.0) -> Wave:
    """Noise between two frequencies.

    Args:
        rng: What is drawn from.
        seconds: Length.
        low: Lower edge in Hz.
        high: Upper edge in Hz.
        tilt: How fast higher parts get weaker: 0 white, 0.5 pink, 1 brown.
    """
    count = samples(seconds)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    gain = ((frequency >= low) & (frequency <= high)) / np.maximum(frequency, 40.0) ** tilt
    wave = np.fft.irfft(spectrum * gain, count)
    return peak(wave, 0.6)


def edges(wave: Wave, seconds: float = 0.008) -> Wave:
    """Let a sound begin and end softly, so that it does not click."""
    ramp = min(samples(seconds), len(wave) // 2)
    shaped: Wave = wave.copy()
    if ramp:
        slope = np.linspace(0, 1, ramp, dtype=np.float32)
        shaped[:ramp] *= slope
        shaped[-ramp:] *= slope[::-1]
    return shaped


def fade(wave: Wave, seconds: float) -> Wave:
    """Let a sound die away like a struck thing: to a third after so many seconds."""
    time = np.arange(len(wave)) / SAMPLE_RATE
    return edges((wave * np.exp(-time / seconds)).astype(np.float32), 0.002)


def grow(wave: Wave) -> Wave:
    """Let a sound swell from nothing to its full level."""
    return edges((wave * np.linspace(0.03, 1, len(wave)) ** 1.5).astype(np.float32))


def tremble(wave: Wave, rate: float, depth: float = 0.8) -> Wave:
    """Let the level of a sound go up and down so many times a second."""
    time = np.arange(len(wave)) / SAMPLE_RATE
    level = 1 - depth * (0.5 + 0.5 * np.cos(2 * np.pi * rate * time))
    return edges((wave * level).astype(np.float32))


def wobble(frequency: float, seconds: float, rate: float, width: float, timbre: str = "pure") -> Wave:
    """A tone whose pitch goes up and down ``rate`` times a second, by the factor ``1 + width`` each way."""
    time = np.arange(samples(seconds)) / SAMPLE_RATE
    return oscillator(frequency * (1 + width) ** np.sin(2 * np.pi * rate * time), timbre)


def silence(seconds: float) -> Wave:
    """Nothing, for so long."""
    return np.zeros(max(0, round(seconds * SAMPLE_RATE)), np.float32)


def join(*parts: Wave) -> Wave:
    """One sound after the other."""
    return np.concatenate(parts).astype(np.float32)


def mix(*parts: Wave) -> Wave:
    """All sounds at once, from a common start, kept within [-1, 1]."""
    total = np.zeros(max(len(part) for part in parts), np.float32)
    for part in parts:
        total[: len(part)] += part
    return total / max(1.0, float(np.abs(total).max()))


def place(parts: list[tuple[float, Wave]], seconds: float) -> Wave:
    """Sounds set at given times; what reaches beyond the end is cut.

    Args:
        parts: Start in seconds and sound.
        seconds: Length of the whole.
    """
    total = np.zeros(samples(seconds), np.float32)
    for start, part in parts:
        first = round(start * SAMPLE_RATE)
        piece = part[: max(0, len(total) - first)]
        total[first : first + len(piece)] += piece
    return total / max(1.0, float(np.abs(total).max()))


def click(rng: Rng, pitch: float = 2500.0, seconds: float = 0.012) -> Wave:
    """A short knock: a burst of noise and a ring of some pitch."""
    body = 0.7 * tone(pitch, seconds * 3) + 0.5 * noise(rng, seconds * 3, pitch / 2, min(7900.0, pitch * 2))
    return fade(body, seconds)


def bell(pitch: float, seconds: float) -> Wave:
    """A struck bell: partials that are no harmonics, the higher ones dying sooner."""
    parts = [
        strength * fade(tone(pitch * ratio, seconds), 0.45 * seconds / ratio**0.5)
        for ratio, strength in ((0.5, 0.3), (1.0, 0.8), (1.19, 0.4), (2.0, 0.5), (2.74, 0.35), (3.76, 0.2))
        if pitch * ratio < 7600
    ]
    return mix(*parts)


def band_limit(wave: Wave, highest: float) -> Wave:
    """Take away everything above a frequency in Hz, as a telephone line or an 8 kHz recording does."""
    spectrum = np.fft.rfft(wave)
    frequency = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    spectrum *= np.clip((highest - frequency) / 200 + 1, 0, 1)
    return np.fft.irfft(spectrum, len(wave)).astype(np.float32)


def change_speed(wave: Wave, factor: float) -> Wave:
    """Play a sound faster (and higher) by a factor."""
    count = max(1, round(len(wave) / factor))
    places = np.linspace(0, len(wave) - 1, count)
    return np.interp(places, np.arange(len(wave)), wave).astype(np.float32)


def room(rng: Rng, wave: Wave, strength: float) -> Wave:
    """Add the decaying echoes of a small room."""
    tail = samples(rng.uniform(0.08, 0.25))
    response = rng.standard_normal(tail) * np.exp(-6 * np.arange(tail) / tail) * strength / np.sqrt(tail)
    response[0] = 1.0
    size = len(wave) + tail - 1
    echoed = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[: len(wave)]
    return peak(echoed, 1.0, quiet=1.0)


def record(rng: Rng, wave: Wave, narrow_share: float = 0.35) -> Wave:
    """Record a sound: pauses around it, a room, hiss or hum, a level, at times a narrow band.

    Args:
        rng: What is drawn from.
        wave: The clean sound ``[L]``.
        narrow_share: How often everything above about 4 kHz is lost.

    Returns:
        The recording, longer than the sound by up to 0.3 s.
    """
    before, after = rng.uniform(0, 0.15, 2)
    wave = join(silence(before), wave, silence(after))
    if rng.random() < 0.4:
        wave = room(rng, wave, rng.uniform(0.3, 1.5))
    loudness = float(np.sqrt(np.mean(wave**2))) + 1e-4
    floor = loudness * 10 ** (-rng.uniform(15, 55) / 20)
    hiss = noise(rng, len(wave) / SAMPLE_RATE, tilt=rng.choice([0.0, 0.5, 1.0]))[: len(wave)]
    wave = wave + floor * hiss / (float(np.sqrt(np.mean(hiss**2))) + 1e-9)
    if rng.random() < narrow_share:
        wave = band_limit(wave, rng.uniform(3300, 4000))
    level = 10 ** (-rng.uniform(0, 24) / 20)
    return peak(wave, level)


def write_wav(target: Path | BinaryIO, wave: Wave) -> None:
    """Write a sound as a 16-bit mono WAV file, or into an open binary stream."""
    import soundfile

    soundfile.write(target, np.clip(wave, -1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
