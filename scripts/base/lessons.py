"""What the small base model learns to hear: sounds of many kinds, each with a caption and questions about it.

A lesson is a recording, a prompt (or none) and the answer. The captions name what is in the sound (pitch,
timbre, movement, number, order); no lesson names a thing that makes it: that is left to whoever fine-tunes
the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mdl_toolkit.demo import sounds as s
from mdl_toolkit.demo.sounds import Rng, Wave
from scripts.base import voice
from scripts.base.instruments import drum, pluck

CAPTION_PROMPTS = (
    "Describe the sound.",
    "What do you hear?",
    "What is this sound?",
    "Caption the audio.",
    "Describe this recording in a few words.",
)
SPEECH_PROMPTS = ("Which speech sounds do you hear?", "Write down the speech sounds.")
SYSTEM_PROMPTS = ("You are a helpful assistant.", "You listen carefully and answer in a few words.")

PITCHES = {"low": (90.0, 260.0), "middle": (400.0, 850.0), "high": (1300.0, 2800.0)}
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class Heard:
    """A clean sound, its caption, and questions about it with their answers."""

    wave: Wave
    caption: str
    questions: list[tuple[str, str]] = field(default_factory=list)
    speech: bool = False


@dataclass(frozen=True)
class Lesson:
    """A recording ``[L]`` with what is asked and the answer wanted."""

    wave: Wave
    answer: str
    user_prompt: str | None
    system_prompt: str | None


def _pitch(rng: Rng) -> tuple[str, float]:
    name = str(rng.choice(list(PITCHES)))
    low, high = PITCHES[name]
    return name, float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _timbre(rng: Rng) -> str:
    return str(rng.choice(list(s.TIMBRES)))


def _move(wave: Wave, movement: str, rate: float) -> Wave:
    """Shape the level of a sound as a caption has it; ``rate`` is that of trembling and pulsing, in Hz."""
    if movement == "fading":
        return s.fade(wave, len(wave) / s.SAMPLE_RATE / 4)
    if movement == "growing":
        return s.grow(wave)
    if movement == "swelling and fading":
        return _swell(wave)
    if movement in ("trembling", "pulsing"):
        return s.tremble(wave, rate, 0.95 if movement == "pulsing" else 0.8)
    return s.edges(wave)


def _swell(wave: Wave) -> Wave:
    """Let a sound come and go."""
    rise = np.sin(np.linspace(0, np.pi, len(wave))) ** 2
    return s.edges((wave * rise).astype(np.float32))


def _tone(rng: Rng) -> Heard:
    pitch, frequency = _pitch(rng)
    timbre, movement = _timbre(rng), str(rng.choice(["steady", "fading", "growing", "trembling", "wobbling"]))
    seconds = rng.uniform(0.5, 1.4)
    if movement == "wobbling":
        wave = s.edges(s.wobble(frequency, seconds, rng.uniform(3, 8), rng.uniform(0.06, 0.2), timbre))
    else:
        wave = _move(s.tone(frequency, seconds, timbre), movement, rng.uniform(5, 14))
    return Heard(
        wave,
        f"a {pitch} {timbre} tone, {movement}",
        [
            ("Is the pitch low, middle or high?", pitch),
            ("What is the tone like?", timbre),
            ("How does it change?", movement),
        ],
    )


def _glide(rng: Rng) -> Heard:
    timbre, slow = _timbre(rng), bool(rng.random() < 0.5)
    seconds = rng.uniform(0.9, 1.6) if slow else rng.uniform(0.2, 0.5)
    low = rng.uniform(120, 900)
    high = low * rng.uniform(2, 4)
    kind = str(rng.choice(["rising", "falling", "rising and falling", "falling and rising"]))
    up, down = s.glide(low, high, seconds / 2, timbre), s.glide(high, low, seconds / 2, timbre)
    wave = {
        "rising": lambda: s.glide(low, high, seconds, timbre),
        "falling": lambda: s.glide(high, low, seconds, timbre),
        "rising and falling": lambda: s.join(up, down),
        "falling and rising": lambda: s.join(down, up),
    }[kind]()
    pace = "slowly" if slow else "quickly"
    return Heard(
        s.edges(wave),
        f"a {timbre} tone {pace} {kind}",
        [("Is the pitch rising or falling?", kind), ("Is it slow or quick?", pace)],
    )


def _beeps(rng: Rng) -> Heard:
    count = int(rng.integers(1, 6))
    pitch, frequency = _pitch(rng)
    timbre, long = _timbre(rng), bool(rng.random() < 0.4)
    on = rng.uniform(0.28, 0.4) if long else rng.uniform(0.05, 0.11)
    gap = rng.uniform(0.09, 0.2)
    beep = s.edges(s.tone(frequency, on, timbre))
    wave = s.join(*(part for _ in range(count) for part in (beep, s.silence(gap))))
    plural = "beep" if count == 1 else "beeps"
    length = "long" if long else "short"
    return Heard(
        wave,
        f"{COUNTS[count]} {length} {pitch} {plural}",
        [("How many are there?", COUNTS[count]), ("Is the pitch low, middle or high?", pitch)],
    )


def _noise(rng: Rng) -> Heard:
    bands = {"low": (30, 400), "middle": (700, 1900), "high": (2600, 7900), "white": (20, 7900)}
    band = str(rng.choice(list(bands)))
    low, high = bands[band]
    seconds = rng.uniform(0.5, 1.5)
    wave = s.noise(rng, seconds, low * rng.uniform(0.9, 1.1), high * rng.uniform(0.9, 1.0))
    kind = str(rng.choice(["steady", "fading", "growing", "pulsing", "swelling and fading"]))
    wave = _move(wave, kind, rng.uniform(4, 12))
    return Heard(wave, f"{band} noise, {kind}", [("How does it change?", kind)])


def _clicks(rng: Rng) -> Heard:
    kind = str(rng.choice(["slow regular", "quick regular", "speeding up", "slowing down", "irregular"]))
    steps = {
        "slow regular": [rng.uniform(0.28, 0.4)] * 4,
        "quick regular": [rng.uniform(0.05, 0.1)] * int(rng.integers(9, 16)),
        "speeding up": list(np.geomspace(0.35, 0.04, 10)),
        "slowing down": list(np.geomspace(0.04, 0.35, 10)),
        "irregular": list(rng.uniform(0.03, 0.35, 8)),
    }[kind]
    stroke = s.click(rng, rng.uniform(600, 3000), rng.uniform(0.004, 0.015))
    starts = np.cumsum([0.0, *steps])
    wave = s.place([(float(start), stroke) for start in starts], float(starts[-1]) + 0.1)
    return Heard(wave, f"clicks, {kind}", [("How do the clicks come?", kind)])


def _knocks(rng: Rng) -> Heard:
    count = int(rng.integers(1, 6))
    dull = bool(rng.random() < 0.5)
    stroke = s.click(rng, rng.uniform(120, 300) if dull else rng.uniform(700, 2200), 0.035 if dull else 0.015)
    step = rng.uniform(0.14, 0.32)
    wave = s.place([(step * k, stroke) for k in range(count)], step * count + 0.05)
    sound = "dull" if dull else "sharp"
    plural = "knock" if count == 1 else "knocks"
    return Heard(wave, f"{COUNTS[count]} {sound} {plural}", [("How many are there?", COUNTS[count])])


def _chord(rng: Rng) -> Heard:
    kinds = {"major": (0, 4, 7), "minor": (0, 3, 7), "open": (0, 7, 12), "crowded": (0, 1, 2)}
    kind = str(rng.choice(list(kinds)))
    root, held = rng.uniform(180, 420), bool(rng.random() < 0.5)
    pitches = [root * 2 ** (step / 12) for step in kinds[kind]]
    if held:
        wave = s.edges(s.mix(*(0.5 * s.tone(p, rng.uniform(0.6, 1.1), "soft") for p in pitches)), 0.03)
    else:
        wave = s.mix(*(0.6 * pluck(rng, p, 1.0) for p in pitches))
    way, article = "held" if held else "plucked", "an" if kind == "open" else "a"
    return Heard(
        wave, f"{article} {kind} chord, {way}", [("What chord is it?", kind), ("Is it held or plucked?", way)]
    )


def _melody(rng: Rng) -> Heard:
    count = int(rng.integers(2, 6))
    kind = str(rng.choice(["going up", "going down", "going up and down", "all the same"]))
    root, step = rng.uniform(250, 700), rng.integers(2, 5)
    ladder = {
        "going up": range(count),
        "going down": range(count, 0, -1),
        "all the same": [2] * count,
        "going up and down": [0, 2, 0, 2, 0][: max(3, count)],
    }[kind]
    length, plucked = rng.uniform(0.16, 0.32), bool(rng.random() < 0.5)
    notes: list[Wave] = []
    for place in ladder:
        pitch = root * 2 ** (place * step / 12)
        notes.append(pluck(rng, pitch, length) if plucked else s.edges(s.tone(pitch, length, "soft"), 0.015))
    return Heard(
        s.join(*notes),
        f"{COUNTS[len(notes)]} notes {kind}",
        [("How many are there?", COUNTS[len(notes)]), ("Where do the notes go?", kind)],
    )


def _rhythm(rng: Rng) -> Heard:
    count = int(rng.integers(2, 6))
    strokes = [str(name) for name in rng.choice(["kick", "snare", "hat"], count)]
    step = rng.uniform(0.17, 0.3)
    wave = s.place([(step * k, drum(rng, name)) for k, name in enumerate(strokes)], step * count + 0.1)
    return Heard(
        wave,
        " ".join(strokes),
        [("How many are there?", COUNTS[count]), ("Write the rhythm.", " ".join(strokes))],
    )


def _bell(rng: Rng) -> Heard:
    count = int(rng.integers(1, 4))
    name = str(rng.choice(["low", "high"]))
    pitch = rng.uniform(250, 420) if name == "low" else rng.uniform(900, 1700)
    step = rng.uniform(0.3, 0.5)
    wave = s.place([(step * k, s.bell(pitch, 0.9)) for k in range(count)], step * (count - 1) + 0.9)
    times = {1: "once", 2: "twice", 3: "three times"}[count]
    return Heard(wave, f"a {name} bell struck {times}", [("How often is it struck?", times)])


def _hum(rng: Rng) -> Heard:
    rate, quick = rng.uniform(9, 16), bool(rng.random() < 0.5)
    rate = rate * 2.2 if quick else rate
    seconds = rng.uniform(0.7, 1.4)
    body = s.mix(0.8 * s.tone(rate * 4, seconds, "rough"), 0.7 * s.noise(rng, seconds, 40, 900, 0.5))
    pace = "quick" if quick else "slow"
    return Heard(
        s.tremble(body, rate, 0.9), f"a rough hum with a {pace} beat", [("Is the beat slow or quick?", pace)]
    )


def _chirps(rng: Rng) -> Heard:
    count = int(rng.integers(1, 6))
    up = bool(rng.random() < 0.5)
    low = rng.uniform(1400, 2000)
    ends = (low, low * rng.uniform(1.4, 1.9)) if up else (low * rng.uniform(1.4, 1.9), low)
    chirp = s.edges(s.glide(*ends, rng.uniform(0.06, 0.12)))
    gap = rng.uniform(0.07, 0.16)
    wave = s.join(*(part for _ in range(count) for part in (chirp, s.silence(gap))))
    kind, plural = "rising" if up else "falling", "chirp" if count == 1 else "chirps"
    return Heard(
        wave,
        f"{COUNTS[count]} {kind} {plural}",
        [("How many are there?", COUNTS[count]), ("Is the pitch rising or falling?", kind)],
    )


def _speech(rng: Rng) -> Heard:
    written, phones = voice.syllables(rng, int(rng.choice([1, 2, 3], p=[0.5, 0.4, 0.1])))
    return Heard(voice.speak(rng, phones, voice.Speaker.draw(rng)), written, speech=True)


def _vowel(rng: Rng) -> Heard:
    name = str(rng.choice(list(voice.VOWELS)))
    speaker = voice.Speaker.draw(rng)
    who = "deep" if speaker.pitch < 130 else "high" if speaker.pitch > 190 else "middle"
    slow = voice.Speaker(speaker.pitch, speaker.throat, speaker.pace / 3, speaker.breath, speaker.fall)
    wave = voice.speak(rng, voice.VOWELS[name], slow)
    return Heard(
        wave,
        f"a {who} voice says {name}",
        [("What does the voice say?", name), ("Is the voice deep or high?", who)],
    )


def _then(rng: Rng) -> Heard:
    first, second = (_SINGLE[int(rng.integers(len(_SINGLE)))](rng) for _ in range(2))
    wave = s.join(first.wave[:16000], s.silence(rng.uniform(0.15, 0.3)), second.wave[:16000])
    return Heard(
        wave,
        f"{first.caption}, then {second.caption}",
        [("What comes first?", first.caption), ("What comes last?", second.caption)],
    )


_SINGLE: list[Callable[[Rng], Heard]] = [_glide, _beeps, _knocks, _bell, _chirps, _melody]

#: Each family of sounds and how much of the lessons it gets.
FAMILIES: dict[Callable[[Rng], Heard], float] = {
    _tone: 8, _glide: 7, _beeps: 8, _noise: 6, _clicks: 5, _knocks: 5, _chord: 3, _melody: 6, _rhythm: 7,
    _bell: 4, _hum: 3, _chirps: 5, _speech: 40, _vowel: 7, _then: 6,
}  # fmt: skip


def lesson(seed: int, number: int) -> Lesson:
    """Make a lesson; the same seed and number give the same one.

    Args:
        seed: The seed of all lessons.
        number: The lesson's number.
    """
    rng = np.random.default_rng([seed, number])
    weights = np.array(list(FAMILIES.values()), float)
    heard = list(FAMILIES)[int(rng.choice(len(weights), p=weights / weights.sum()))](rng)
    wave = s.record(rng, s.change_speed(heard.wave, rng.uniform(0.93, 1.07)))
    system = str(rng.choice(SYSTEM_PROMPTS)) if rng.random() < 0.15 else None
    draw = rng.random()
    if heard.questions and draw < 0.3:
        question, answer = heard.questions[int(rng.integers(len(heard.questions)))]
        return Lesson(wave, answer, question, system)
    prompts = SPEECH_PROMPTS if heard.speech else CAPTION_PROMPTS
    prompt = str(rng.choice(prompts)) if draw < 0.75 else None
    return Lesson(wave, heard.caption, prompt, system)
