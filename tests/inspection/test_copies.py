"""Fingerprints: copies of a clip are found, whatever they went through; other clips are not taken for one."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
import soxr

from mdl_toolkit.data.audio.load import load_waveform
from mdl_toolkit.demo import sounds, task
from mdl_toolkit.inspection.sound.candidates import LEAST_SHARED, candidates
from mdl_toolkit.inspection.sound.comparison import compare, for_comparison
from mdl_toolkit.inspection.sound.fingerprint import SIZE, Fingerprint, fingerprint, small
from support.data.clips import SHARED_DATA, tone

RATE = 16_000


def _print(wave: np.ndarray) -> Fingerprint:
    return fingerprint(small(wave.astype(np.float32), RATE))


def _are_copies(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two clips of 16 kHz are found to be copies, by both stages."""
    found = list(candidates([_print(one), _print(other)]))
    if not found:
        return False
    likeness = compare(
        for_comparison(one, RATE), for_comparison(other.astype(np.float32), RATE), found[0].offset
    )
    return likeness.is_copy(found[0].shared)


def _coded(wave: np.ndarray, container: str, rate: int = RATE) -> np.ndarray:
    buffer = io.BytesIO()
    soundfile.write(buffer, soxr.resample(wave, RATE, rate), rate, format=container)
    buffer.seek(0)
    return soxr.resample(soundfile.read(buffer, dtype="float32")[0], rate, RATE)


def _noisy(wave: np.ndarray, decibels: float = 30.0) -> np.ndarray:
    noise = np.random.default_rng(3).standard_normal(len(wave))
    return wave + noise * np.sqrt(np.mean(wave**2)) * 10 ** (-decibels / 20)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mp3": lambda wave: _coded(wave, "MP3"),
    "mp3 at 44.1 kHz": lambda wave: _coded(wave, "MP3", 44_100),
    "ogg": lambda wave: _coded(wave, "OGG"),
    "louder": lambda wave: 4 * wave,
    "quieter": lambda wave: wave / 4,
    "8 kHz": lambda wave: soxr.resample(soxr.resample(wave, RATE, 8000), 8000, RATE),
    "44.1 kHz": lambda wave: soxr.resample(soxr.resample(wave, RATE, 44_100), 44_100, RATE),
    "cut": lambda wave: wave[1641:-1411],
    "noise at 30 dB": _noisy,
    "offset": lambda wave: wave + 0.1,
    "upside down": lambda wave: -wave,
    "cut, mp3, quieter": lambda wave: _coded(0.5 * wave[1111:], "MP3"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_copy_is_found(change: Callable[[np.ndarray], np.ndarray]):
    # Not the heartbeat, number 3: thumps below 100 Hz with nothing between them, which noise covers.
    for number in (0, 1, 2, 4, 5, 6, 8):
        wave = task.clip(5, "train", number)[1]
        assert _are_copies(wave, change(wave)), number


def test_other_clips_of_a_kind_are_no_copies():
    """Two doorbells are not the same recording, however alike they sound."""
    clips = [task.clip(5, "train", number)[1] for number in range(60)]
    prints = [_print(wave) for wave in clips]
    for pair in candidates(prints):
        one, other = (for_comparison(clips[place], RATE) for place in (pair.first, pair.second))
        assert not compare(one, other, pair.offset).is_copy(pair.shared), pair


def test_the_same_word_by_the_same_speaker_is_no_copy():
    """All recordings of the two words and speakers that are most alike."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the recordings are not beside the repository")
    for word, speaker in ((4, "george"), (4, "jackson")):
        paths = sorted((SHARED_DATA / "fsdd").glob(f"{word}_{speaker}_*.wav"))
        assert len(paths) == 50
        clips = [load_waveform(str(path)) for path in paths]
        found = list(candidates([_print(wave) for wave in clips]))
        assert found, "some of them are alike enough to be looked at"
        for pair in found:
            one, other = (for_comparison(clips[place], RATE) for place in (pair.first, pair.second))
            assert not compare(one, other, pair.offset).is_copy(pair.shared), pair


@pytest.mark.parametrize("change", ["mp3", "ogg", "cut at the beginning", "noise at 20 dB"])
def test_copies_of_short_words_are_found(change: str):
    if not SHARED_DATA.is_dir():
        pytest.skip("the recordings are not beside the repository")
    more = {"noise at 20 dB": lambda wave: _noisy(wave, 20), "cut at the beginning": lambda wave: wave[1111:]}
    changed = {**CHANGES, **more}[change]
    for path in sorted((SHARED_DATA / "fsdd").glob("7_*_2.wav")):
        wave = load_waveform(str(path))
        assert _are_copies(wave, changed(wave)), path.name


def test_a_common_beginning_does_not_make_copies():
    """A loud beep before each recording, or a jingle: what follows decides."""
    dice = np.random.default_rng(1)
    beep = 0.9 * tone(0.4, hertz=1000)
    clips = [np.concatenate([beep, sounds.noise(dice, 1.2, 200, 3000) * 0.3]) for _ in range(2)]
    assert not _are_copies(*clips)
    assert _are_copies(clips[0], _noisy(clips[0]))


def test_a_part_is_found_within_a_longer_recording():
    dice = np.random.default_rng(2)
    whole = np.concatenate([task.clip(7, "test", number)[1] for number in range(4)])
    part = whole[10_000:60_000]
    (pair,) = candidates([_print(whole), _print(part / 3)])
    likeness = compare(for_comparison(whole, RATE), for_comparison(part, RATE), pair.offset)
    assert likeness.is_copy(pair.shared) and likeness.common == pytest.approx(50_000 / len(whole), abs=0.01)
    assert not _are_copies(whole, sounds.noise(dice, 2.0))


def test_a_fingerprint_is_small_and_keeps_its_bytes():
    wave = task.clip(5, "train", 0)[1]
    long = np.concatenate([task.clip(5, "train", number)[1] for number in range(40)])
    for one in (_print(wave), _print(long)):
        assert SIZE // 2 < len(one.hashes) == len(one.times) <= SIZE
        again = Fingerprint.of_bytes(one.to_bytes())
        np.testing.assert_array_equal(again.hashes, one.hashes)
        np.testing.assert_array_equal(again.times, one.times)
    for nothing in (np.zeros(1), np.zeros(3000), np.full(20_000, 0.5)):
        assert not len(_print(nothing).hashes)


def test_candidates_are_told_once_with_what_they_share():
    wave, other = task.clip(5, "train", 0)[1], task.clip(5, "train", 1)[1]
    prints = [
        _print(other),
        _print(wave),
        _print(wave[1280:]),
        _print(sounds.noise(np.random.default_rng(0), 1)),
    ]
    (pair,) = candidates(prints)
    assert (pair.first, pair.second) == (1, 2) and pair.shared >= LEAST_SHARED
    assert pair.offset == pytest.approx(-1280 / RATE * 8000 / 32, abs=3)
    assert not list(candidates([])) and not list(candidates(prints[:1]))


def test_many_copies_of_one_clip_are_all_linked():
    """Far more clips share each hash than are paired with each other."""
    wave = task.clip(5, "train", 0)[1]
    one = _print(wave)
    linked = {place for pair in candidates([one] * 300) for place in pair[:2]}
    assert linked == set(range(300))


def test_clips_too_short_to_compare_are_none():
    little = for_comparison(tone(0.05), RATE)
    assert compare(little, little, 0).score == 0.0
    assert compare(for_comparison(tone(1.0), RATE), for_comparison(tone(1.0), RATE), 200).score == 0.0
