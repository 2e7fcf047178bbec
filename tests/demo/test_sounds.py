"""The same seed gives the same sounds, and they are what their captions say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mdl_toolkit.demo import lessons, sounds, task, voice


def loudest_pitch(wave: sounds.Wave) -> float:
    spectrum = np.abs(np.fft.rfft(wave))
    return float(np.argmax(spectrum) * sounds.SAMPLE_RATE / len(wave))


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
