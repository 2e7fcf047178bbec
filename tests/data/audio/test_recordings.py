"""Recordings as other programs write them: all of what is in them, or an error. Never the first part."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mdl_toolkit.data.audio import decode
from mdl_toolkit.data.audio.load import AudioLimits, clip_seconds, load_waveform
from mdl_toolkit.errors import DataError
from support.data.clips import tone, wav_bytes
from support.data.recordings import (
    SHARED_CASES,
    bursts,
    flac_without_length,
    mp3_bytes,
    mp3_sizes,
    wav_with_byte_rate,
    wav_with_lengths,
)

THREE = np.concatenate([tone(1, hertz=300), tone(1, hertz=600), tone(1, hertz=900)])


def _file(folder: Path, content: bytes, name: str = "a") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def _problem(source: str, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_waveform(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _hertz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * 16000 / len(samples)


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("seconds", [3.9, 20.0])
def test_an_mp3_without_a_length_is_read_to_its_end(tmp_path: Path, rate: int, seconds: float):
    """The library's own guess of its length is wrong in both directions: 3 of 20 s, or 4.0 of 3.9."""
    data = mp3_bytes(bursts(seconds, rate), rate, length=False)
    assert soundfile.info(io.BytesIO(data)).duration != pytest.approx(seconds, abs=0.5)
    loaded = load_waveform(_file(tmp_path, data))
    assert seconds <= len(loaded) / 16000 <= seconds + 0.15  # the codec's own delay and padding
    whole = load_waveform(_file(tmp_path, mp3_bytes(bursts(seconds, rate), rate), "b"))
    told = clip_seconds(str(tmp_path / "a"))
    assert told == pytest.approx(len(loaded) / 16000, abs=1e-3)
    if rate == 16000:  # the same frames but for that delay, which only a length can say
        lag = int(np.correlate(loaded[: 16000 + 2000], whole[:16000]).argmax())
        np.testing.assert_allclose(loaded[lag : lag + len(whole)], whole, atol=1e-5)


@pytest.mark.parametrize("length", [True, False])
def test_segments_of_an_mp3_are_slices_of_it(tmp_path: Path, length: bool):
    """Frames need bytes of frames before them, and a seek doesn't bring those."""
    path = _file(tmp_path, mp3_bytes(bursts(20), length=length))
    whole = load_waveform(path)
    for start in (0.25, 4.6, 10.0, 13.3, 19.0):
        part = load_waveform(path, start=start, end=start + 0.8)
        begin = round(start * 16000)
        np.testing.assert_allclose(part, whole[begin : begin + 12800], atol=1e-4)
    assert "outside of its 20" in _problem(path, start=19.5, end=21)


def test_reading_block_by_block_is_reading_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = _file(tmp_path, mp3_bytes(bursts(10)))
    whole = load_waveform(path)
    monkeypatch.setattr(decode, "_BLOCK", 10_000)
    np.testing.assert_array_equal(load_waveform(path), whole)


@pytest.mark.parametrize("length", [True, False])
def test_an_mp3_that_ends_within_a_frame_is_cut_short(tmp_path: Path, length: bool):
    data = mp3_bytes(bursts(3), length=length)
    for missing in (1, 30, mp3_sizes(data)[-1] - 1, len(data) // 2 + 7):
        assert "cut short" in _problem(_file(tmp_path, data[:-missing]))
    if length:  # else nothing tells that there were more frames
        assert "cut short" in _problem(_file(tmp_path, data[: -sum(mp3_sizes(data)[-5:])]))


def test_a_stream_that_was_joined_in_the_middle(tmp_path: Path):
    """As somebody records the radio: the first bytes belong to a frame that is not there."""
    data = mp3_bytes(bursts(5), length=False)
    sizes, whole = mp3_sizes(data), load_waveform(_file(tmp_path, data))
    for missing in (17, 2000, 5001):
        loaded = load_waveform(_file(tmp_path, data[missing:]))
        np.testing.assert_allclose(loaded[-40000:], whole[-40000:], atol=1e-5)
        frames = next(i for i in range(len(sizes)) if sum(sizes[:i]) >= missing)
        assert len(loaded) == len(whole) - 576 * frames
    assert "not readable as audio" in _problem(_file(tmp_path, bytes([0xFF, 0x00]) + bytes(9000)))


def test_something_lost_within_an_mp3_is_an_error(tmp_path: Path):
    data = mp3_bytes(bursts(3), length=False)
    middle = sum(mp3_sizes(data)[:40])
    assert "no MPEG audio" in _problem(_file(tmp_path, data[: middle + 20] + data[middle + 40 :]))


def _tag(size: int) -> bytes:
    return b"ID3\x03\x00\x00" + bytes([0, 0, size >> 7, size & 0x7F]) + bytes(size)


def test_tags_are_no_frames(tmp_path: Path):
    data = mp3_bytes(THREE, length=False)
    want = load_waveform(_file(tmp_path, data))
    ape = b"APETAGEX" + struct.pack("<4I", 2000, 64, 1, 0) + bytes(40)
    for before, behind in [
        (_tag(300), b""),
        (_tag(300) + _tag(20), b"TAG" + bytes(125)),
        (b"", ape + b"TAG" + b"\xff" * 125),
        (_tag(10) + bytes(500), bytes(3000)),
    ]:
        np.testing.assert_array_equal(load_waveform(_file(tmp_path, before + data + behind)), want)


@pytest.mark.parametrize("end", [b"APETAGEX", b"APETAGEX" + bytes(8), b"LYRICSBEGIN", b"ID3\x03", b"TAG"])
def test_tags_cut_short_are_no_trap(tmp_path: Path, end: bytes):
    whole, piped = (mp3_bytes(THREE, length=length) for length in (True, False))
    assert len(load_waveform(_file(tmp_path, whole + end))) == 48000
    try:
        load_waveform(_file(tmp_path, piped + end))
    except DataError as error:
        assert "damaged or cut short" in str(error)


def test_a_file_in_countless_pieces_is_refused_soon(tmp_path: Path):
    piped = mp3_bytes(tone(1), length=False)
    frame = piped[: mp3_sizes(piped)[0]]
    assert "pieces" in _problem(_file(tmp_path, (frame * 2 + b"\0") * 2001))
    assert "more than 10000 recordings" in _problem(_file(tmp_path, wav_bytes(THREE[:1]) * 10_001))


def test_a_length_that_says_too_little_is_not_gone_by(tmp_path: Path):
    """A file with a true length, and more frames behind it that have none."""
    data = mp3_bytes(THREE) + mp3_bytes(THREE, length=False)
    assert len(load_waveform(_file(tmp_path, data))) == pytest.approx(96000, abs=4000)


KINDS = {
    "WAV": {},
    "WAV-ADPCM": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "RF64": {},
    "AIFF": {},
    "AU": {},
    "W64": {},
    "CAF": {},
    "FLAC": {},
    "OGG": {},
    "OPUS": {"format": "OGG", "subtype": "OPUS"},
    "MP3": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_recordings_joined_end_to_end_are_read_whole(tmp_path: Path, kind: str):
    """As ``cat`` and radio streams make them."""
    options: Any = {"format": kind, **KINDS[kind]}
    one, other = (wav_bytes(samples, **options) for samples in (THREE, THREE[:8000]))
    alone = [load_waveform(_file(tmp_path, data)) for data in (one, other)]
    path = _file(tmp_path, one + other + one)
    loaded = load_waveform(path)
    want = np.concatenate([alone[0], alone[1], alone[0]])
    np.testing.assert_allclose(loaded, want, atol=1e-3)
    length = len(alone[0]) / 16000
    for start, end in ((0.5, 1.5), (length - 0.4, length + 0.2), (length + 1.0, length + 2.0), (2.7, None)):
        part = load_waveform(path, start=start, end=end)
        piece = want[round(start * 16000) : None if end is None else round(end * 16000)]
        np.testing.assert_allclose(part[500:], piece[500:], atol=2e-3)
    assert "outside of its" in _problem(path, start=1, end=8)
    assert "more than --max-audio-seconds 5" in _problem(path, limits=AudioLimits(max_seconds=5))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "WAV-ADPCM"])
def test_recordings_of_other_rates_joined_are_an_error(tmp_path: Path, kind: str):
    if kind == "OPUS":
        pytest.skip("libsndfile writes Opus at one rate")
    parts = (wav_bytes(tone(1, rate), rate, format=kind) for rate in (16000, 22050))
    message = _problem(_file(tmp_path, b"".join(parts)))
    assert "2 recordings joined in one file, of 16000 or 22050 Hz" in message and "ffmpeg" in message


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", [0.99, 0.5])
def test_a_last_part_cut_short_is_found(tmp_path: Path, kind: str, share: float):
    data = wav_bytes(THREE, format=kind)
    message = _problem(_file(tmp_path, data + data[: int(len(data) * share)]))
    assert "cut short" in message or "not readable as audio" in message


def test_flac_of_unknown_length(tmp_path: Path):
    data = wav_bytes(THREE, format="FLAC")
    want = load_waveform(_file(tmp_path, data))
    path = _file(tmp_path, flac_without_length(data))
    np.testing.assert_array_equal(load_waveform(path), want)
    np.testing.assert_array_equal(load_waveform(path, start=1.2, end=2.1), want[19200:33600])
    np.testing.assert_array_equal(load_waveform(path, start=2.5), want[40000:])
    assert "outside of its 3 s" in _problem(path, start=2.5, end=3.5)
    assert "outside of its 3 s" in _problem(path, start=4.0)
    assert "no samples" in _problem(path, start=1.0, end=1.00001)
    assert "longer than --max-audio-seconds 2" in _problem(path, limits=AudioLimits(max_seconds=2))
    assert "1.5 s long, more than" in _problem(path, start=1, end=2.5, limits=AudioLimits(max_seconds=1))
    for share in (0.99, 0.7, 0.3):
        cut = _file(tmp_path, flac_without_length(data)[: int(len(data) * share)])
        assert "cut short" in (problem := _problem(cut)) or "not readable as audio" in problem
    twice = _file(tmp_path, flac_without_length(data) + data)
    np.testing.assert_array_equal(load_waveform(twice), np.tile(want, 2))
    np.testing.assert_array_equal(load_waveform(twice, start=2.5, end=3.5), np.tile(want, 2)[40000:56000])


def test_an_unknown_length_takes_no_more_memory_than_is_allowed(tmp_path: Path):
    data = flac_without_length(wav_bytes(np.zeros(16000 * 1000, dtype=np.int16), format="FLAC"))
    path = _file(tmp_path, data)
    load_waveform(path, limits=AudioLimits(max_seconds=2000))
    tracemalloc.start()
    assert "longer than --max-audio-seconds 30" in _problem(path, limits=AudioLimits(max_seconds=30))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 16000 * 4 + (4 << 20)  # the whole would be 64 MB


def _rf64_piped() -> bytes:
    data = bytearray(wav_bytes(THREE, format="RF64"))
    place = data.index(b"ds64") + 8
    data[place : place + 24] = bytes(24)
    return bytes(data)


def _aiff_piped() -> bytes:
    data = bytearray(wav_bytes(THREE, format="AIFF"))
    frames, samples = data.index(b"COMM") + 10, data.index(b"SSND") + 4
    for place in (4, frames, samples):
        data[place : place + 4] = bytes(4)
    return bytes(data)


def _au_piped(length: bytes) -> bytes:
    data = wav_bytes(THREE, format="AU")
    return data[:8] + length + data[12:]


PLAIN = wav_bytes(THREE)
ADPCM = wav_bytes(THREE, subtype="MS_ADPCM")
PIPED: dict[str, bytes] = {
    "wav-0": wav_with_lengths(PLAIN, 0, 0),
    "wav-0-of-its-header": wav_with_lengths(PLAIN, 36, 0),
    "wav-ffffffff": wav_with_lengths(PLAIN, 0xFFFFFFFF, 0xFFFFFFFF),
    "wav-0-ffffffff": wav_with_lengths(PLAIN, 0, 0xFFFFFFFF),
    "wav-sox": wav_with_lengths(PLAIN, 0x7FFFF024, 0x7FFFF000),
    "adpcm-0": wav_with_lengths(ADPCM, 0, 0),
    "adpcm-ffffffff": wav_with_lengths(ADPCM, 0xFFFFFFFF, 0xFFFFFFFF),
    "rf64": _rf64_piped(),
    "aiff": _aiff_piped(),
    "au": _au_piped(b"\xff" * 4),
    "au-0": _au_piped(bytes(4)),
}


@pytest.mark.parametrize("kind", PIPED)
def test_lengths_that_were_never_filled_in(tmp_path: Path, kind: str):
    path = _file(tmp_path, PIPED[kind])
    loaded = load_waveform(path)
    whole = load_waveform(_file(tmp_path, ADPCM if "adpcm" in kind else PLAIN, "b"))
    np.testing.assert_array_equal(loaded, whole)
    for start, hertz in ((0.0, 300), (1.0, 600), (2.0, 900)):
        assert abs(_hertz(load_waveform(path, start=start, end=start + 1)) - hertz) <= 2
    assert "more than --max-audio-seconds 2" in _problem(path, limits=AudioLimits(max_seconds=2))


def test_piped_wav_files_joined(tmp_path: Path):
    path = _file(tmp_path, PIPED["wav-ffffffff"] + PIPED["wav-0"])
    np.testing.assert_allclose(load_waveform(path), np.tile(THREE, 2), atol=1e-4)


@pytest.mark.parametrize(
    "data",
    [
        wav_bytes(np.zeros(0, dtype=np.float32)),
        wav_with_lengths(wav_bytes(np.zeros(0, dtype=np.float32)), 0, 0),
        wav_with_lengths(wav_bytes(np.zeros(0, dtype=np.float32)), 0xFFFFFFFF, 0xFFFFFFFF),
        wav_bytes(np.zeros(0, dtype=np.float32))[:4] + struct.pack("<I", 48)
        + wav_bytes(np.zeros(0, dtype=np.float32))[8:44] + b"LIST\x04\x00\x00\x00INFO",
    ],
)  # fmt: skip
def test_wav_files_without_samples_stay_so(tmp_path: Path, data: bytes):
    assert "no samples" in _problem(_file(tmp_path, data))


@pytest.mark.parametrize("subtype", ["PCM_16", "MS_ADPCM", "IMA_ADPCM", "GSM610", "ULAW"])
@pytest.mark.parametrize("byte_rate", [0, 64000, 16000, 0xFFFFFFFF])
def test_a_byte_rate_is_no_length(tmp_path: Path, subtype: str, byte_rate: int):
    """Recorders and ffmpeg fill it in as if for other channels or samples."""
    data = wav_bytes(tone(1, 8000), 8000, subtype=subtype)
    want = load_waveform(_file(tmp_path, data))
    np.testing.assert_array_equal(load_waveform(_file(tmp_path, wav_with_byte_rate(data, byte_rate))), want)
    assert "cut short" in _problem(_file(tmp_path, wav_with_byte_rate(data, byte_rate)[:-200]))


def test_what_can_t_be_sought_in_is_decoded_up_to_the_segment(tmp_path: Path):
    data = wav_bytes(np.concatenate([tone(1, 8000, 300), tone(1, 8000, 600)]), 8000, subtype="GSM610")
    path = _file(tmp_path, data)
    whole = load_waveform(path)
    part = load_waveform(path, start=1.0, end=1.5)
    np.testing.assert_allclose(part[200:-200], whole[16200 : 24000 - 200], atol=1e-3)
    assert "outside" in _problem(path, start=1.5, end=3)


def test_opposite_channels_don_t_vanish(tmp_path: Path):
    """A microphone wired the wrong way round: left is minus right."""
    speech, noise = tone(2), np.random.default_rng(0).normal(0, 0.01, (32000, 2)).astype(np.float32)
    exact = np.stack([speech, -speech], axis=1)
    for channels in (exact, exact + noise, exact * [1.0, 0.9], np.stack([speech * 0, *exact.T], axis=1)):
        kinds: list[Any] = [{"subtype": "FLOAT"}, {"subtype": "PCM_16"}, {"format": "FLAC"}]
        for kind in kinds:
            path = _file(tmp_path, wav_bytes(channels, **kind))
            loaded = load_waveform(path)
            assert np.sqrt(np.mean(loaded**2)) == pytest.approx(np.sqrt(np.mean(speech**2)), rel=0.05)
            assert abs(_hertz(loaded) - 440) <= 1
            np.testing.assert_allclose(load_waveform(path, start=0.5, end=1.0), loaded[8000:16000], atol=1e-6)


def test_other_channels_are_mixed_as_ever(tmp_path: Path):
    """Independent channels, silent ones, and those that cancel in part are not taken for opposite ones."""
    dice = np.random.default_rng(0)
    apart = dice.normal(0, 0.1, (16000, 2)).astype(np.float32)
    partly = np.stack([tone(1), -0.3 * tone(1)], axis=1)
    for channels in (apart, partly, np.stack([tone(1), 0 * tone(1)], axis=1), np.zeros((16000, 2))):
        loaded = load_waveform(_file(tmp_path, wav_bytes(channels.astype(np.float32), subtype="FLOAT")))
        np.testing.assert_allclose(loaded, channels.mean(axis=1), atol=1e-6)


FOREIGN = {
    "MPEG-4": b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00",
    "Matroska": b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01",
    "Windows Media": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
    "video (avi)": b"RIFF\x00\x10\x00\x00AVI LIST",
    "AAC": (b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(9)) * 5,
    "AMR": b"#!AMR\n\x3c",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_formats_that_are_not_read_are_named_with_a_remedy(tmp_path: Path, kind: str):
    message = _problem(_file(tmp_path, FOREIGN[kind] + bytes(5000), "my clip.xyz"))
    assert "not readable as audio" in message and kind in message
    assert message.endswith("convert it first: ffmpeg -i 'my clip.xyz' -vn 'my clip.wav'")


def test_what_is_no_recording_at_all_is_named(tmp_path: Path):
    pages = (
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    )
    for content, what in pages:
        assert what in _problem(_file(tmp_path, content + bytes(500), "a.wav"))


@pytest.mark.skipif(not SHARED_CASES.is_dir(), reason="no recordings beside the repository (../shared/cases)")
@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("piped.mp3", 3.85, 4.05),
        ("vbr-no-xing.mp3", 19.9, 20.2),
        ("chained.opus", 7.7, 7.9),
        ("piped.flac", 3.9, 3.9),
        ("byte-rate-doubled.wav", 1.0, 1.0),
        ("antiphase-stereo.wav", 1.0, 1.0),
    ],
)
def test_recordings_of_real_programs(name: str, least: float, most: float):
    loaded = load_waveform(str(SHARED_CASES / name))
    assert least <= len(loaded) / 16000 <= most
    assert np.sqrt(np.mean(loaded**2)) > 0.05
