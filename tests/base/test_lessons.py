"""The same seed gives the same lessons, and their sounds are what their captions say."""

from __future__ import annotations

import re

import numpy as np

from mdl_toolkit.demo import sounds, task
from scripts.base import lessons, voice


def usable(wave: sounds.Wave) -> bool:
    return (
        wave.dtype == np.float32
        and wave.ndim == 1
        and bool(np.isfinite(wave).all())
        and np.abs(wave).max() <= 1
    )


def test_a_seed_and_a_number_give_the_same_lesson_again():
    first, again = lessons.lesson(3, 17), lessons.lesson(3, 17)
    assert np.array_equal(first.wave, again.wave)
    assert (first.answer, first.user_prompt, first.system_prompt) == (
        again.answer, again.user_prompt, again.system_prompt,
    )  # fmt: skip
    assert not np.array_equal(first.wave[:1000], lessons.lesson(3, 18).wave[:1000])
    assert not np.array_equal(first.wave[:1000], lessons.lesson(4, 17).wave[:1000])


def test_every_family_makes_usable_sounds_with_answers():
    for family in lessons.FAMILIES:
        for number in range(4):
            heard = family(np.random.default_rng([1, number]))
            assert usable(heard.wave), family
            assert 0.1 < len(heard.wave) / sounds.SAMPLE_RATE < 5, family
            assert heard.caption.strip() == heard.caption != ""
            assert all(question and answer for question, answer in heard.questions)


def test_recorded_lessons_stay_within_full_scale():
    for number in range(40):
        lesson = lessons.lesson(0, number)
        assert usable(lesson.wave)
        assert len(lesson.wave) <= 10 * sounds.SAMPLE_RATE


def test_the_voice_says_vowels_with_their_formants():
    speaker = voice.Speaker(pitch=100, throat=1.0, pace=0.3, breath=0.0)
    powers = {}
    for name in ("ee", "ah"):
        wave = voice.speak(np.random.default_rng(0), voice.VOWELS[name], speaker)
        spectrum = np.abs(np.fft.rfft(wave)) ** 2
        hertz = np.fft.rfftfreq(len(wave), 1 / sounds.SAMPLE_RATE)
        powers[name] = spectrum[(hertz > 600) & (hertz < 1300)].sum() / spectrum.sum()
    assert powers["ah"] > 5 * powers["ee"]


def test_syllables_are_written_as_they_are_spoken():
    written, phones = voice.syllables(np.random.default_rng(5), 3)
    names = written.split()
    assert sum(name in voice.VOWELS for name in names) == 3
    assert phones == [phone for name in names for phone in (voice.CONSONANTS.get(name) or voice.VOWELS[name])]


def test_the_demonstration_s_things_are_in_no_lesson():
    taught = " ".join(
        heard.caption
        for family in lessons.FAMILIES
        for number in range(20)
        for heard in [family(np.random.default_rng(number))]
    )
    for name in task.THINGS:
        assert not re.search(rf"\b{re.escape(name.removeprefix('a '))}\b", taught)
