"""How often are copies of a clip missed, and other clips taken for one? For ``inspect``'s fingerprints.

    python -m benchmarks.data.fingerprints [--clips 300]

One JSON line for each kind of sound and what its copies went through: how many of so many copies were
One JSON line for each kind of sound and what its copies went through: how many of so many were missed, and
at which stage (``no_candidate``: the fingerprints share too little; ``unlike``: the samples do). A line for
all pairs of different clips of a kind: how many were taken for copies. Then the speed.
- ``digits``: the spoken digits of ../shared/data, where that folder is; 0.1 to 2.3 s, median 0.4 s. Their
  pairs are all pairs of 3,000 recordings, 73,500 of them one word by one speaker.
- ``utterances``: eight to twelve of these digits of a speaker in a row, 2 to 8 s.
- ``sounds``: the demonstration's: bells, alarms, engines, whistles, at levels of noise of their own.
- ``noises``: white to brown noise, 0.5 to 4 s, each drawn anew.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import soundfile
import soxr

from benchmarks.common import RECORDINGS, emit
from mdl_toolkit.data.audio.load import load_waveform
from mdl_toolkit.demo import sounds, task
from mdl_toolkit.inspection.sound.candidates import candidates
from mdl_toolkit.inspection.sound.comparison import compare, for_comparison
from mdl_toolkit.inspection.sound.fingerprint import fingerprint, small

Wave = Any
#: Samples a second of all clips here.
RATE = 16_000
_PACKAGES = ("numpy", "soundfile", "soxr")


def coded(wave: Wave, rate: int, container: str, **options: Any) -> Wave:
    """A clip that was written at a rate and in a format, and read again."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(at_rate(wave, RATE, rate), -1, 1), rate, format=container, **options)
    buffer.seek(0)
    samples, read_rate = soundfile.read(buffer, dtype="float32")
    return at_rate(samples, read_rate, RATE)


def at_rate(wave: Wave, rate: int, wanted: int) -> Wave:
    """Samples at another rate."""
    return wave if rate == wanted else soxr.resample(wave, rate, wanted).astype(np.float32)


def mp3(kilobits: int, rate: int) -> Callable[[Wave], Wave]:
    """MP3 of one channel with a constant bit rate, at a sample rate of MPEG-1 or MPEG-2."""
    least, most = (32, 320) if rate >= 32_000 else (8, 160)
    level = (most - kilobits) / (most - least)
    return lambda wave: coded(wave, rate, "MP3", bitrate_mode="CONSTANT", compression_level=level)


def noisy(decibels: float) -> Callable[[Wave], Wave]:
    """White noise so many decibels below the clip's loudness."""

    def add(wave: Wave) -> Wave:
        dice = np.random.default_rng(len(wave))
        noise = dice.standard_normal(len(wave)).astype(np.float32)
        return wave + noise * np.float32(np.sqrt(np.mean(wave**2)) * 10 ** (-decibels / 20))

    return add


def cut(begin: float, end: float) -> Callable[[Wave], Wave]:
    """Seconds taken off the beginning and the end, by no whole step of a spectrogram."""
    return lambda wave: wave[round(begin * RATE) + 37 : len(wave) - round(end * RATE) - 11]


COPIES: dict[str, Callable[[Wave], Wave]] = {
    "mp3 128 kbit/s, 44.1 kHz": mp3(128, 44_100),
    "mp3 64 kbit/s, 44.1 kHz": mp3(64, 44_100),
    "mp3 64 kbit/s, 16 kHz": mp3(64, 16_000),
    "mp3 24 kbit/s, 16 kHz": mp3(24, 16_000),
    "ogg vorbis, 16 kHz": lambda wave: coded(wave, 16_000, "OGG", subtype="VORBIS"),
    "ogg opus, 16 kHz": lambda wave: coded(wave, 16_000, "OGG", subtype="OPUS"),
    "gain +12 dB": lambda wave: 4 * wave,
    "gain +12 dB, clipped at full scale": lambda wave: np.clip(4 * wave, -1, 1),
    "gain -12 dB, 16 bits": lambda wave: np.rint(wave / 4 * 32768) / np.float32(32768),
    "8 kHz and back": lambda wave: at_rate(at_rate(wave, RATE, 8000), 8000, RATE),
    "44.1 kHz and back": lambda wave: at_rate(at_rate(wave, RATE, 44_100), 44_100, RATE),
    "offset of a tenth": lambda wave: wave + np.float32(0.1),
    "turned upside down": lambda wave: -wave,
    "white noise at 20 dB": noisy(20),
    "white noise at 15 dB": noisy(15),
    "cut by 0.1 s at the beginning": cut(0.1, 0.0),
    "cut by 0.1 s at both ends": cut(0.1, 0.1),
    "cut by 0.2 s at both ends": cut(0.2, 0.2),
    "cut by 0.1 s at both ends, mp3 64 kbit/s at 16 kHz, -6 dB": lambda wave: mp3(64, 16_000)(
        cut(0.1, 0.1)(wave) / 2
    ),
}
#: Seconds that have to be left of a clip that was cut, and the share of it.
LEFT, SHARE_LEFT = 0.15, 0.6


def digits() -> dict[str, Wave]:
    """All spoken digits, by their files' names."""
    return {path.stem: load_waveform(str(path)) for path in sorted((RECORDINGS / "fsdd").glob("*.wav"))}


def utterances(spoken: dict[str, Wave], count: int) -> list[Wave]:
    """Digits of a speaker in a row."""
    dice = np.random.default_rng(1)
    of_speaker: dict[str, list[Wave]] = {}
    for name, wave in spoken.items():
        of_speaker.setdefault(name.split("_")[1], []).append(wave)
    voices = [of_speaker[name] for name in sorted(of_speaker)]
    made = []
    for number in range(count):
        voice = voices[number % len(voices)]
        chosen = dice.choice(len(voice), int(dice.integers(8, 13)), replace=False)
        made.append(np.concatenate([voice[place] for place in chosen]))
    return made


def noises(count: int) -> list[Wave]:
    """Noises, each drawn anew."""
    dice = np.random.default_rng(2)
    return [
        sounds.noise(dice, dice.uniform(0.5, 4), tilt=float(dice.choice([0, 0.5, 1]))) for _ in range(count)
    ]


def misses(clips: Sequence[Wave], change: Callable[[Wave], Wave]) -> dict[str, Any]:
    """How many copies were missed, and how alike the others were."""
    found: dict[str, Any] = {"copies": 0, "no_candidate": 0, "unlike": 0}
    scores = []
    for wave in clips:
        copy = np.asarray(change(wave), dtype=np.float32)
        if len(copy) < max(LEFT * RATE, SHARE_LEFT * len(wave)):
            continue
        found["copies"] += 1
        pairs = list(candidates([fingerprint(small(wave, RATE)), fingerprint(small(copy, RATE))]))
        if not pairs:
            found["no_candidate"] += 1
            continue
        likeness = compare(for_comparison(wave, RATE), for_comparison(copy, RATE), pairs[0].offset)
        found["unlike"] += not likeness.is_copy(pairs[0].shared)
        scores.append(likeness.score)
    missed = found["no_candidate"] + found["unlike"]
    return {
        **found,
        "missed": round(missed / max(1, found["copies"]), 4),
        "likeness_1_percent": round(float(np.percentile(scores, 1)), 3) if scores else None,
    }


def false_matches(clips: Sequence[Wave]) -> dict[str, Any]:
    """How many pairs of different clips were taken for copies."""
    prints = [fingerprint(small(wave, RATE)) for wave in clips]
    pairs = list(candidates(prints))
    heard = {n: for_comparison(clips[n], RATE) for n in {n for pair in pairs for n in pair[:2]}}
    found = [(compare(heard[p.first], heard[p.second], p.offset), p.shared) for p in pairs]
    return {
        "clips": len(clips),
        "pairs": len(clips) * (len(clips) - 1) // 2,
        "candidates": len(pairs),
        "false_copies": sum(likeness.is_copy(shared) for likeness, shared in found),
        "highest_likeness": round(max((likeness.score for likeness, _ in found), default=0.0), 3),
        "most_shared": max((shared for _, shared in found), default=0),
    }


def kinds(count: int) -> Iterator[tuple[str, list[Wave], list[Wave]]]:
    """Each kind of sound: some clips to copy, and all that are compared with each other."""
    dice = np.random.default_rng(0)
    if RECORDINGS.is_dir():
        spoken = digits()
        every = list(spoken.values())
        yield "digits", [every[n] for n in dice.choice(len(every), count, replace=False)], every
        rows = utterances(spoken, count)
        # Different utterances share digits, and would rightly be found to overlap.
        yield "utterances", rows, []
    made = [task.clip(0, "train", number)[1] for number in range(4 * count)]
    yield "sounds", made[:count], made
    drawn = noises(count)
    yield "noises", drawn, drawn


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=300, help="clips of each kind that are copied")
    count = parser.parse_args().clips
    for kind, clips, every in kinds(count):
        for name, change in COPIES.items():
            emit("fingerprints.misses", _PACKAGES, kind=kind, copy=name, **misses(clips, change))
        if every:
            emit("fingerprints.false_matches", _PACKAGES, kind=kind, **false_matches(every))
    wave = np.concatenate(noises(4))[: 5 * RATE]
    start, runs = time.perf_counter(), 50
    for _ in range(runs):
        fingerprint(small(wave, RATE))
    seconds = (time.perf_counter() - start) / runs
    milliseconds = round(1000 * seconds, 2)
    emit("fingerprints.speed", _PACKAGES, clip_seconds=5, milliseconds_a_clip=milliseconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
