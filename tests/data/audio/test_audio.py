"""Recordings as they come: right samples, or an error that says what is wrong. Never something else."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mdl_toolkit.data.audio import load as audio
from mdl_toolkit.data.audio.load import AudioLimits, load_waveform
from mdl_toolkit.data.audio.pcm16 import to_pcm16
from mdl_toolkit.errors import DataError
from support.data.clips import SHARED_DATA, tone, wav_bytes, write_wav


def _problem(source: Path | str, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_waveform(str(source), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _hertz(samples: np.ndarray, rate: int = 16000) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * rate / len(samples)


def test_16_bit_files_at_the_models_rate_come_bit_exact(tmp_path: Path):
    samples = np.arange(-32768, 32768, 7, dtype=np.int16)
    path = write_wav(tmp_path / "a.wav", samples)
    loaded = load_waveform(str(path))
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded * 32768, samples)
    pcm, clipped = to_pcm16(loaded)
    np.testing.assert_array_equal(pcm, samples)
    assert clipped == 0


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_any_rate_becomes_the_models(tmp_path: Path, rate: int):
    path = write_wav(tmp_path / "a.wav", tone(1.0, rate, 440, 0.5), rate, subtype="FLOAT")
    loaded = load_waveform(str(path))
    assert len(loaded) == 16000
    assert abs(_hertz(loaded) - 440) <= 1
    middle = loaded[2000:-2000]
    np.testing.assert_allclose(middle, tone(1.0, hertz=440, level=0.5)[2000:-2000], atol=2e-3)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "PCM_U8"])
def test_channels_are_mixed_to_their_mean(tmp_path: Path, subtype: str):
    channels = np.stack([np.full(1000, 0.1 * i, dtype=np.float32) for i in range(8)], axis=1)
    path = write_wav(tmp_path / "a.wav", channels, subtype=subtype)
    np.testing.assert_allclose(load_waveform(str(path)), 0.35, atol=0.01 if subtype == "PCM_U8" else 1e-4)


def test_many_channels_take_no_more_memory_than_a_block(tmp_path: Path):
    path = write_wav(tmp_path / "a.wav", np.zeros((400_000, 16), dtype=np.int16))
    load_waveform(str(path))
    tracemalloc.start()
    load_waveform(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400_000 * 4 * 3  # the clip and a copy; all channels together would be 25 MB


@pytest.mark.parametrize(
    "kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "W64", "CAF", "RF64", "VOC", "NIST"]
)
def test_every_format_of_the_library(tmp_path: Path, kind: str):
    path = write_wav(tmp_path / f"a.{kind.lower()}", tone(1.0, 48000), 48000, format=kind)
    loaded = load_waveform(str(path))
    assert abs(len(loaded) - 16000) < 700  # lossy formats pad
    assert abs(_hertz(loaded) - 440) <= 2


def test_names_mean_nothing(tmp_path: Path):
    """A recording is what its content is, whatever the ending of its name."""
    path = write_wav(tmp_path / "a.wav", tone(0.5))
    for name in ("a.raw", "a.mp3", "a.txt", "a"):
        shutil.copy(path, tmp_path / name)
        assert len(load_waveform(str(tmp_path / name))) == 8000


@pytest.mark.parametrize("samples", [1, 2, 159, 3199])
def test_clips_of_a_few_samples_are_clips(tmp_path: Path, samples: int):
    path = write_wav(tmp_path / "a.wav", tone(1)[:samples])
    assert len(load_waveform(str(path))) == samples


def test_a_sample_too_short_for_the_models_rate_is_an_error(tmp_path: Path):
    path = write_wav(tmp_path / "a.wav", tone(1, 192000)[:1], 192000)
    assert "1 samples at 192000 Hz are none at 16000 Hz" in _problem(path)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "W64", "CAF", "RF64", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", [0.999, 0.7, 0.2])
def test_a_file_cut_short_is_never_taken_for_whole(tmp_path: Path, kind: str, share: float):
    path = write_wav(tmp_path / "a", tone(1.0, 44100), 44100, format=kind)
    data = path.read_bytes()
    load_waveform(str(path))
    path.write_bytes(data[: int(len(data) * share)])
    assert "cut short" in (problem := _problem(path)) or "not readable as audio" in problem


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0])
def test_a_length_not_known_when_written_is_no_damage(tmp_path: Path, length: int):
    """Programs that write to a pipe can't go back to fill in lengths."""
    data = bytearray(wav_bytes(tone(0.5)))
    place = data.index(b"data")
    data[place + 4 : place + 8] = struct.pack("<I", length)
    data[4:8] = struct.pack("<I", length)
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    np.testing.assert_allclose(load_waveform(str(path)), tone(0.5), atol=1e-4)


def test_an_outer_length_that_counts_its_own_header_is_no_damage(tmp_path: Path):
    data = bytearray(wav_bytes(tone(0.5)))
    data[4:8] = struct.pack("<I", len(data))
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    assert len(load_waveform(str(path))) == 8000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_an_error(tmp_path: Path, value: float):
    samples = tone(0.5, 44100)
    samples[1000] = value
    path = write_wav(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    assert "sample 1000 is not a finite number" in _problem(path)


def test_loud_but_finite_samples_are_no_error_though_their_squares_overflow(tmp_path: Path):
    samples = np.full(1000, 1e30, dtype=np.float32)
    path = write_wav(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert "samples up to 1e+30 where audio has -1 to 1" in _problem(path)
    path = write_wav(tmp_path / "a.wav", samples / 1e30 * 1.5, subtype="FLOAT")
    pcm, clipped = to_pcm16(load_waveform(str(path)))
    assert clipped == 1000 and set(pcm) == {32767}


def test_rounding_to_16_bits_is_alike_on_both_sides_of_zero():
    values = np.random.default_rng(0).uniform(-0.99, 0.99, 10_000).astype(np.float32)
    plus, minus = to_pcm16(values)[0], to_pcm16(-values)[0]
    np.testing.assert_array_equal(plus, -minus)
    assert np.abs(plus / 32768 - values).max() <= 0.5 / 32768 + 1e-9
    pcm, clipped = to_pcm16(np.array([1.0, -1.0, 1.1, -1.1], dtype=np.float32))
    assert pcm.tolist() == [32767, -32768, 32767, -32768] and clipped == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty file"),
        (b"RIFF", "not readable as audio"),
        (b"this is a text, renamed to wav\n" * 50, "not readable as audio"),
        (os.urandom(5000), "not readable as audio"),
        (wav_bytes(tone(0.1))[:44], "cut short"),
        (wav_bytes(np.zeros(0, dtype=np.float32)), "no samples"),
    ],
)
def test_what_is_no_audio(tmp_path: Path, content: bytes, problem: str):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert problem in _problem(path)


def _claim(frames: int, channels: int, rate: int) -> bytes:
    """A FLAC file whose header claims what its few bytes don't hold."""
    data = bytearray(wav_bytes(np.zeros((4096, min(channels, 8)), dtype=np.int16), 16000, format="FLAC"))
    info = int.from_bytes(data[18:26], "big")
    info = (rate << 44) | (info & (0xFF << 36)) | frames
    data[18:26] = info.to_bytes(8, "big")
    return bytes(data)


def test_bounds_are_checked_before_memory_is_taken(tmp_path: Path):
    path = tmp_path / "a.flac"
    path.write_bytes(_claim(2**36 - 1, 8, 16000))
    tracemalloc.start()
    message = _problem(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "more than --max-audio-seconds 300" in message
    assert peak < 1_000_000


def test_a_header_that_claims_a_few_minutes_of_nothing_is_an_error(tmp_path: Path):
    path = tmp_path / "a.flac"
    path.write_bytes(_claim(16000 * 200, 1, 16000))
    assert "could be read" in (problem := _problem(path)) or "not readable" in problem


def test_a_three_hour_file_is_refused_whole_and_read_in_segments(tmp_path: Path):
    path = tmp_path / "long.wav"
    frames = 3 * 3600 * 8000
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_U8") as sound:
        for start in range(0, frames, 8_000_000):
            sound.write(np.zeros(min(8_000_000, frames - start), dtype=np.float32))
        sound.seek(10_000 * 8000)
        sound.write(tone(1.0, 8000))
    assert "10800.0 s long" in _problem(path)
    loaded = load_waveform(str(path), start=10_000, end=10_001)
    assert len(loaded) == 16000 and abs(_hertz(loaded) - 440) <= 1


def test_too_many_channels_or_too_high_a_rate(tmp_path: Path):
    path = write_wav(tmp_path / "a.wav", np.zeros((10, 65), dtype=np.int16))
    assert "65 channels" in _problem(path)
    path = write_wav(tmp_path / "b.wav", np.zeros(10, dtype=np.int16), 800_000)
    assert "800000 Hz" in _problem(path)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_segments(tmp_path: Path, kind: str):
    samples = np.concatenate([tone(1, hertz=300), tone(1, hertz=600), tone(1, hertz=900)])
    path = write_wav(tmp_path / "a", samples, format=kind)
    for start, hertz in ((None, 300), (1.0, 600), (2.0, 900)):
        loaded = load_waveform(str(path), start=start, end=(start or 0) + 1.0)
        assert len(loaded) == 16000 and abs(_hertz(loaded) - hertz) <= 2
    assert len(load_waveform(str(path), start=2.5)) == 8000
    assert len(load_waveform(str(path), start=2.5, end=3.01)) == 8000  # a rounded end
    assert "outside" in _problem(path, start=2.5, end=3.5)
    assert "outside" in _problem(path, start=3.0)
    assert "no samples" in _problem(path, start=1.0, end=1.00001)


def test_results_don_t_share_memory(tmp_path: Path):
    first = load_waveform(str(write_wav(tmp_path / "a.wav", tone(0.5, level=0.5))))
    kept = first.copy()
    load_waveform(str(write_wav(tmp_path / "b.wav", tone(0.5, level=0.1))))
    np.testing.assert_array_equal(first, kept)


def test_paths_stay_below_the_base_dir(tmp_path: Path):
    base = tmp_path / "base"
    write_wav(base / "sub" / "in.wav", tone(0.2))
    outside = write_wav(tmp_path / "secret.wav", tone(0.2))
    (base / "link.wav").symlink_to(outside)
    (base / "linked").symlink_to(tmp_path)
    (base / "inner.wav").symlink_to(base / "sub" / "in.wav")
    limits = AudioLimits(base_dir=str(base))
    for good in ("sub/in.wav", "sub/../sub/in.wav", "inner.wav", str(base / "sub" / "in.wav")):
        assert len(load_waveform(good, limits=limits)) == 3200
    for bad in ("../secret.wav", str(outside), "link.wav", "linked/secret.wav", "sub/../../secret.wav"):
        assert _problem(bad, limits=limits).startswith(f"{bad}: leads out of --base-dir {base}; say ")
        assert len(load_waveform(bad, limits=AudioLimits(base_dir=str(base), outside=True))) == 3200
    neighbour = write_wav(tmp_path / "base-two" / "a.wav", tone(0.2))
    assert "leads out" in _problem(f"../base-two/{neighbour.name}", limits=limits)


def test_things_that_are_no_files(tmp_path: Path):
    assert f"no such file in {tmp_path}" in _problem("a.wav", limits=AudioLimits(base_dir=str(tmp_path)))
    assert "is --base-dir missing?" in _problem("no-such-clip.wav")
    assert "a folder, not a recording" in _problem(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in _problem(tmp_path / "pipe")  # opening it would wait for ever
    assert "not a regular file" in _problem("/dev/zero")
    assert "can't be read" in _problem("a\0b.wav")
    assert "can't be read" in _problem("x" * 5000)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_wav(tmp_path / "a.wav", tone(0.2))

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(audio, "open", refuse, raising=False)
    assert "Permission denied" in _problem(path)


def test_decoding_needs_no_torch():
    code = "import sys, mdl_toolkit.data.conversion.worker; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "datasets", "pyarrow", "jinja2", "tokenizers"} & set(loaded)


def test_real_recordings():
    if not SHARED_DATA.is_dir():
        pytest.skip("no real recordings beside the repository (../shared/data)")
    paths = sorted((SHARED_DATA / "fsdd").glob("7_*.wav"))[:50]
    assert paths
    for path in paths:
        loaded, (samples, rate) = load_waveform(str(path)), soundfile.read(path)
        assert len(loaded) == pytest.approx(len(samples) * 16000 / rate, abs=1)
        energy = np.sqrt(np.mean(loaded**2)) / np.sqrt(np.mean(samples**2))
        assert energy == pytest.approx(1.0, abs=0.02)
