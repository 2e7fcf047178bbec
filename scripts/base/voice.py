"""A robot's voice: speech sounds from formants, so that who learned from it has met vowels and consonants.

A pulse train (the voice) and noise (the breath) are shaped, in short overlapping frames, by spectral
envelopes that move from one phone's to the next one's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.demo.sounds import SAMPLE_RATE, Rng, Wave, peak

FRAME, HOP = 320, 80  # 20 ms windows, one every 5 ms
Formants = tuple[float, float, float]


@dataclass(frozen=True)
class Phone:
    """One speech sound.

    Attributes:
        formants: First three resonances in Hz of an average man's voice (vowels: Peterson and Barney, 1952).
        seconds: Typical length.
        voice: Level of the voice, 0 to 1.
        breath: Level of the noise, 0 to 1.
        band: Lower and upper edge in Hz of the noise; ``None`` shapes it by the formants, as in a whisper.
        dark: How much everything above 1 kHz is weakened (nasals and closures), 0 to 1.
    """

    formants: Formants
    seconds: float = 0.09
    voice: float = 1.0
    breath: float = 0.0
    band: tuple[float, float] | None = None
    dark: float = 0.0


VOWELS: dict[str, list[Phone]] = {
    name: [Phone(formants, 0.16 / len(track)) for formants in track]
    for name, track in {
        "ee": [(270, 2290, 3010)],
        "i": [(390, 1990, 2550)],
        "e": [(530, 1840, 2480)],
        "a": [(660, 1720, 2410)],
        "u": [(640, 1190, 2390)],
        "ah": [(730, 1090, 2440)],
        "aw": [(570, 840, 2410)],
        "oo": [(300, 870, 2240)],
        "er": [(490, 1350, 1690)],
        "ay": [(530, 1840, 2480), (300, 2250, 2900)],
        "eye": [(730, 1200, 2440), (330, 2150, 2800)],
        "oh": [(570, 900, 2410), (350, 820, 2250)],
        "ow": [(730, 1200, 2440), (380, 900, 2250)],
    }.items()
}

_LIPS, _TEETH, _THROAT = (280.0, 850.0, 2250.0), (280.0, 1750.0, 2650.0), (280.0, 2100.0, 2500.0)


def _stop(place: Formants, band: tuple[float, float], voiced: bool) -> list[Phone]:
    closure = Phone(place, 0.055, voice=0.22 if voiced else 0.0, dark=1.0)
    burst = Phone(place, 0.015, voice=0.2 if voiced else 0.0, breath=0.9, band=band)
    release = [] if voiced else [Phone(place, 0.045, voice=0.0, breath=0.45)]
    return [closure, burst, *release]


def _hiss(band: tuple[float, float], level: float, voice: float = 0.0) -> list[Phone]:
    return [Phone(_TEETH, 0.11 if not voice else 0.08, voice=voice, breath=level, band=band)]


CONSONANTS: dict[str, list[Phone]] = {
    "p": _stop(_LIPS, (300, 2500), False),
    "b": _stop(_LIPS, (300, 2500), True),
    "t": _stop(_TEETH, (2800, 7000), False),
    "d": _stop(_TEETH, (2800, 7000), True),
    "k": _stop(_THROAT, (1500, 3200), False),
    "g": _stop(_THROAT, (1500, 3200), True),
    "s": _hiss((3600, 7900), 0.9),
    "sh": _hiss((1900, 6000), 0.9),
    "f": _hiss((900, 7900), 0.25),
    "th": _hiss((1400, 7900), 0.2),
    "z": _hiss((3600, 7900), 0.6, 0.45),
    "v": _hiss((900, 7900), 0.2, 0.5),
    "h": [Phone((550, 1500, 2500), 0.07, voice=0.0, breath=0.5)],
    "m": [Phone((260, 1000, 2200), 0.08, voice=0.7, dark=0.75)],
    "n": [Phone((260, 1500, 2500), 0.08, voice=0.7, dark=0.7)],
    "l": [Phone((360, 1100, 2600), 0.075, voice=0.8, dark=0.2)],
    "r": [Phone((320, 1080, 1450), 0.075, voice=0.8)],
    "w": [Phone((290, 620, 2200), 0.075, voice=0.8)],
    "y": [Phone((260, 2100, 3000), 0.07, voice=0.8)],
}


@dataclass(frozen=True)
class Speaker:
    """Who speaks: pitch in Hz, size of the throat (1 a man's, 1.3 a child's), pace, breathiness, melody."""

    pitch: float
    throat: float
    pace: float
    breath: float
    fall: float = field(default=0.8)

    @classmethod
    def draw(cls, rng: Rng) -> Speaker:
        """Somebody, anywhere between a deep man and a small child."""
        size = rng.uniform(0, 1)
        return cls(
            pitch=float(90 * 2.9**size * rng.uniform(0.88, 1.14)),
            throat=float(0.94 + 0.3 * size + rng.uniform(-0.06, 0.06)),
            pace=float(rng.uniform(0.75, 1.5)),
            breath=float(rng.uniform(0.0, 0.08)),
            fall=float(rng.uniform(0.65, 1.15)),
        )


def _curves(
    phones: list[Phone], speaker: Speaker, rng: Rng
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per frame ``[frames, 3]`` formants and ``[frames, 3]`` voice, breath and darkness, moving smoothly."""
    formants, levels = [], []
    for phone in phones:
        frames = max(2, round(phone.seconds / speaker.pace * rng.uniform(0.8, 1.25) * SAMPLE_RATE / HOP))
        shift = rng.normal(1, 0.035, 3) * speaker.throat
        formants += [np.array(phone.formants) * shift] * frames
        levels += [np.array([phone.voice, phone.breath, phone.dark])] * frames
    return _smooth(np.array(formants), 9), _smooth(np.array(levels), 3)


def _smooth(track: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    padded = np.pad(track, ((width // 2, width // 2), (0, 0)), mode="edge")
    window = np.hanning(width + 2)[1:-1]
    window /= window.sum()
    return np.stack([np.convolve(column, window, mode="valid") for column in padded.T], axis=1)


def _bands(phones: list[Phone], lengths: int, frequency: NDArray[np.floating]) -> NDArray[np.float64]:
    """Per frame the noise's own band ``[frames, bins]``; zero where the formants shape it."""
    shares = np.cumsum([phone.seconds for phone in phones])
    owner = np.searchsorted(shares / shares[-1], (np.arange(lengths) + 0.5) / lengths)
    table = np.stack(
        [
            np.zeros(len(frequency)) if phone.band is None
            else ((frequency >= phone.band[0]) & (frequency <= phone.band[1])).astype(float)
            for phone in phones
        ]
    )  # fmt: skip
    return table[np.minimum(owner, len(phones) - 1)]


def speak(rng: Rng, phones: list[Phone], speaker: Speaker) -> Wave:
    """Let somebody say a sequence of speech sounds.

    Args:
        rng: What is drawn from.
        phones: In order, see :data:`VOWELS` and :data:`CONSONANTS`.
        speaker: Who says it.

    Returns:
        The speech ``[L]``, peak 0.8.
    """
    formants, levels = _curves(phones, speaker, rng)
    frames = len(formants)
    frequency = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)
    widths = np.array([70.0, 100.0, 150.0])
    resonance = (
        sum(
            strength / (1 + ((frequency[None] - formants[:, k : k + 1]) / widths[k]) ** 2)
            for k, strength in enumerate((1.0, 0.6, 0.3))
        )
        + 0.004
    )
    dark = 1 - levels[:, 2:] * 0.93 * (frequency[None] > 900)
    voiced = resonance * dark * levels[:, :1]
    band = _bands(phones, frames, frequency)
    shaped = np.where(band.any(axis=1, keepdims=True), 0.35 * band, resonance)
    breath = shaped * (levels[:, 1:2] + speaker.breath * levels[:, :1])

    count = frames * HOP + FRAME
    melody = speaker.pitch * np.geomspace(1.08, speaker.fall, count)
    melody *= 1 + 0.02 * np.sin(2 * np.pi * 5 * np.arange(count) / SAMPLE_RATE + rng.uniform(0, 6))
    turns = np.cumsum(melody) / SAMPLE_RATE
    pulses = np.zeros(count)
    starts = np.flatnonzero(np.diff(np.floor(turns)) > 0)
    pulses[starts] = 1.0 * np.sqrt(SAMPLE_RATE / melody[starts])
    air = rng.standard_normal(count) * 0.9

    window = np.hanning(FRAME + 1)[:-1]
    places = np.arange(frames)[:, None] * HOP + np.arange(FRAME)[None]
    spectrum = np.fft.rfft(pulses[places] * window) * voiced + np.fft.rfft(air[places] * window) * breath
    pieces = np.fft.irfft(spectrum, FRAME)
    wave = np.zeros(count)
    np.add.at(wave, places, pieces)
    return peak(wave, 0.8)


def syllables(rng: Rng, count: int) -> tuple[str, list[Phone]]:
    """Draw syllables: a consonant, a vowel, at times a last consonant.

    Returns:
        How they are written, sound by sound (``"b ah sh ee k"``), and their phones.
    """
    written: list[str] = []
    firsts, vowels, lasts = list(CONSONANTS), list(VOWELS), list("ptksfnmlzv")
    for _ in range(count):
        first = [str(rng.choice(firsts))] if rng.random() < 0.85 else []
        last = [str(rng.choice(lasts))] if rng.random() < 0.4 else []
        written += [*first, str(rng.choice(vowels)), *last]
    phones = [phone for name in written for phone in (CONSONANTS.get(name) or VOWELS[name])]
    return " ".join(written), phones
