"""The demonstration's own small task: name what makes a sound. The base's lessons name none of them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mdl_toolkit.demo import sounds as s
from mdl_toolkit.demo.sounds import Rng, Wave
from mdl_toolkit.files import atomic_file

PROMPT = "What makes this sound?"


def _doorbell(rng: Rng) -> Wave:
    pitch = rng.uniform(560, 720)
    step = rng.uniform(0.35, 0.5)
    return s.place([(0, s.bell(pitch, 0.8)), (step, s.bell(pitch / 2 ** (4 / 12), 0.9))], step + 0.9)


def _smoke_alarm(rng: Rng) -> Wave:
    beep = s.edges(s.tone(rng.uniform(2900, 3400), rng.uniform(0.36, 0.46), "hollow"))
    return s.join(*(part for _ in range(3) for part in (beep, s.silence(rng.uniform(0.14, 0.22)))))


def _kettle(rng: Rng) -> Wave:
    seconds = rng.uniform(1.1, 1.7)
    whistle = s.grow(s.glide(rng.uniform(900, 1200), rng.uniform(2000, 2600), seconds, "soft"))
    return s.mix(whistle, 0.35 * s.noise(rng, seconds, 1500, 7000))


def _heartbeat(rng: Rng) -> Wave:
    step, gap = rng.uniform(0.6, 0.85), rng.uniform(0.16, 0.22)
    thumps = [s.fade(s.glide(p, p * 0.6, 0.15), 0.05) for p in (rng.uniform(70, 95), rng.uniform(95, 120))]
    beats = [(step * k + gap * part, thumps[part]) for k in range(2) for part in range(2)]
    return s.place(beats, 2 * step)


def _bouncing_ball(rng: Rng) -> Wave:
    starts, time, step, shrink = [], 0.0, rng.uniform(0.38, 0.5), rng.uniform(0.68, 0.78)
    while step > 0.03:
        starts.append(time)
        time, step = time + step, step * shrink
    hit = s.click(rng, rng.uniform(300, 700), 0.02)
    return s.place([(t, hit * np.float32(0.85**k)) for k, t in enumerate(starts)], time + 0.1)


def _helicopter(rng: Rng) -> Wave:
    seconds = rng.uniform(1.0, 1.6)
    return s.tremble(s.noise(rng, seconds, 60, rng.uniform(900, 1400), 0.5), rng.uniform(10, 14), 0.95)


def _siren(rng: Rng) -> Wave:
    return s.edges(
        s.wobble(rng.uniform(800, 1000), rng.uniform(1.3, 1.8), rng.uniform(1.2, 2.0), 0.5, "soft")
    )


def _cricket(rng: Rng) -> Wave:
    pitch = rng.uniform(3800, 4600)
    chirp = s.tremble(s.tone(pitch, 0.09), rng.uniform(35, 45), 0.95)
    gap = rng.uniform(0.1, 0.2)
    return s.join(*(part for _ in range(int(rng.integers(5, 9))) for part in (chirp, s.silence(gap))))


def _cuckoo(rng: Rng) -> Wave:
    pitch = rng.uniform(620, 760)
    high, low = (
        s.edges(s.tone(p, rng.uniform(0.18, 0.25), "soft"), 0.03) for p in (pitch, pitch / 2 ** (4 / 12))
    )
    call = s.join(high, s.silence(0.06), low, s.silence(rng.uniform(0.22, 0.32)))
    return s.join(call, call)


def _laser(rng: Rng) -> Wave:
    shot = s.fade(s.glide(rng.uniform(2600, 3600), rng.uniform(180, 300), 0.22, "rough"), 0.15)
    return s.join(
        *(part for _ in range(int(rng.integers(2, 5))) for part in (shot, s.silence(rng.uniform(0.05, 0.15))))
    )


def _clock(rng: Rng) -> Wave:
    step, pitch = rng.uniform(0.26, 0.36), rng.uniform(2000, 2600)
    tick, tock = s.click(rng, pitch, 0.006), s.click(rng, pitch * 0.62, 0.006)
    return s.place([(step * k, tock if k % 2 else tick) for k in range(5)], 5 * step)


def _engine(rng: Rng) -> Wave:
    seconds = rng.uniform(1.1, 1.6)
    speed = np.geomspace(rng.uniform(45, 60), rng.uniform(110, 150), s.samples(seconds))
    return s.edges(s.mix(s.oscillator(speed, "rough"), 0.3 * s.noise(rng, seconds, 40, 1200, 0.5)), 0.05)


THINGS: dict[str, Callable[[Rng], Wave]] = {
    "a doorbell": _doorbell,
    "a smoke alarm": _smoke_alarm,
    "a kettle": _kettle,
    "a heartbeat": _heartbeat,
    "a bouncing ball": _bouncing_ball,
    "a helicopter": _helicopter,
    "a police siren": _siren,
    "a cricket": _cricket,
    "a cuckoo clock": _cuckoo,
    "a laser gun": _laser,
    "a ticking clock": _clock,
    "a car engine": _engine,
}


def clip(seed: int, part: str, number: int) -> tuple[str, Wave]:
    """Make one clip of the task.

    Args:
        seed: The seed of the task.
        part: ``train`` or ``test``; they never share a clip.
        number: The clip's number within its part. The things take turns.

    Returns:
        What makes the sound, and a recording ``[L]`` of it.
    """
    rng = np.random.default_rng([seed, ("train", "test").index(part), number])
    name = list(THINGS)[number % len(THINGS)]
    wave = s.change_speed(THINGS[name](rng), rng.uniform(0.92, 1.09))
    return name, s.record(rng, wave, narrow_share=0.0)


def write_clips(folder: Path, seed: int, part: str, count: int) -> Path:
    """Write clips and the CSV that lists them.

    Args:
        folder: Gets ``clips/PART-000.wav`` and so on, and ``PART.csv``.
        seed: The seed of the task.
        part: ``train`` or ``test``.
        count: How many clips.

    Returns:
        The CSV: ``audio`` (relative to the folder) and ``prediction`` (the truth).
    """
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        name, wave = clip(seed, part, number)
        audio = f"clips/{part}-{number:03d}.wav"
        s.write_wav(folder / audio, wave)
        rows.append({"audio": audio, "prediction": name})
    listing = folder / f"{part}.csv"
    with atomic_file(listing, newline="") as stream:
        writer = csv.DictWriter(stream, ["audio", "prediction"])
        writer.writeheader()
        writer.writerows(rows)
    return listing
