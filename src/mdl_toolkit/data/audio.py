"""From a path or URL to float32 samples: one channel, the model's rate, bounded, never a substitute."""

from __future__ import annotations

import io
import os
import re
import stat
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.urls import UrlLimits, fetch, is_url, shown
from mdl_toolkit.errors import DataError
from mdl_toolkit.options import printable

Floats = NDArray[np.float32]

MAX_CHANNELS = 64
MAX_RATE = 768_000
#: Louder float samples are not audio in [-1, 1] but, for example, 16-bit numbers stored as floats.
MAX_PEAK = 16.0
#: Samples of all channels read at a time: what a file of many channels needs beside the mixed clip.
_BLOCK = 1 << 20
#: Samples of the largest memory that is kept for the next clip.
_MAX_SCRATCH = 1 << 23
_memory = threading.local()

#: Kinds of samples that 16 bits hold exactly.
_SIXTEEN_BITS = ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW")
_LENGTHS = re.compile(r"^(.*?) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
#: Lengths from here on stand for "not known yet", written by a program that couldn't go back to fill them in.
_UNKNOWN_LENGTH = 0x7FFFF000
_MAX_PAGE = 65307


@dataclass(frozen=True)
class AudioLimits:
    """Bounds of what a row may name.

    Attributes:
        max_seconds: Longest clip.
        urls: Bounds of fetching; see :class:`UrlLimits`.
        base_dir: Root of relative paths; else the working directory.
        outside: Whether paths may lead out of ``base_dir``.
    """

    max_seconds: float = 300.0
    urls: UrlLimits = field(default_factory=UrlLimits)
    base_dir: str | None = None
    outside: bool = False


def load_waveform(
    source: str,
    *,
    start: float | None = None,
    end: float | None = None,
    limits: AudioLimits | None = None,
    sample_rate: int = 16000,
) -> Floats:
    """Load a clip.

    Args:
        source: Path (relative to ``limits.base_dir``) or http(s) URL.
        start: Where the clip begins, in seconds.
        end: Where it ends, in seconds.
        limits: What is allowed.
        sample_rate: In Hz.

    Returns:
        float32 [L], all channels mixed, resampled where the file has another rate. Samples can exceed [-1, 1]
        a little where resampling overshoots or the file does.

    Raises:
        DataError: Where the file is missing, not allowed, no audio, damaged, empty, too long, or holds
            samples that are not finite. The message does not name the row.
    """
    limits, name = limits or AudioLimits(), _shown(source)
    if is_url(source):
        data = fetch(source, limits.urls)
        if not data:
            raise DataError(f"{shown(source)}: empty")
        return _load(io.BytesIO(data), len(data), shown(source), start, end, limits, sample_rate)
    path = locate(source, limits)
    try:
        with open(path, "rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            return _load(stream, size, name, start, end, limits, sample_rate)
    except OSError as error:
        raise DataError(f"{name}: can't be read ({error.strerror or error})") from error


def _shown(source: str) -> str:
    """A cell for a message of one line."""
    return printable(source if len(source) <= 200 else f"{source[:200]}…")


def locate(source: str, limits: AudioLimits) -> str:
    """The file that a cell names.

    Raises:
        DataError: For a file that isn't there, isn't a regular file, or lies outside ``base_dir`` (symbolic
            links are followed first) though it mustn't.
    """
    path, name = os.path.join(limits.base_dir, source) if limits.base_dir else source, _shown(source)
    try:
        if limits.base_dir and not limits.outside:
            root, real = _real(limits.base_dir), os.path.realpath(path)
            if os.path.commonpath([root, real]) != root:
                raise DataError(
                    f"{name}: leads out of --base-dir {limits.base_dir}; say --allow-outside-base-dir if "
                    "it is meant"
                )
        status = os.stat(path)
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file{_looked_in(source, limits)}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{name}: can't be read ({reason})") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{name}: not a regular file")
    if status.st_size == 0:
        raise DataError(f"{name}: an empty file (0 bytes)")
    return path


@lru_cache(maxsize=8)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _looked_in(source: str, limits: AudioLimits) -> str:
    if os.path.isabs(source):
        return ""
    return f" in {limits.base_dir}" if limits.base_dir else f" in {os.getcwd()} (is --base-dir missing?)"


def _load(
    stream: Any,
    size: int,
    name: str,
    start: float | None,
    end: float | None,
    limits: AudioLimits,
    sample_rate: int,
) -> Floats:
    import soundfile

    try:
        # By descriptor where there is one: by name, the library would go by the name's ending too.
        handle = stream if isinstance(stream, io.BytesIO) else stream.fileno()
        with soundfile.SoundFile(handle, closefd=False) as sound:
            _check_whole(sound, stream, size, name)
            waveform = _read(sound, name, start, end, limits)
            rate = sound.samplerate
    except soundfile.LibsndfileError as error:
        raise DataError(f"{name}: not readable as audio ({_reason(error)})") from error
    return resample(waveform, rate, sample_rate, name)


def _reason(error: Any) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def _read(sound: Any, name: str, start: float | None, end: float | None, limits: AudioLimits) -> Floats:
    """The wanted part of a file, mixed to one channel; bounds are checked before memory is taken."""
    rate, channels, frames = sound.samplerate, sound.channels, sound.frames
    if not 1 <= channels <= MAX_CHANNELS:
        raise DataError(f"{name}: {channels} channels; at most {MAX_CHANNELS} are read")
    if not 1 <= rate <= MAX_RATE:
        raise DataError(f"{name}: a sample rate of {rate} Hz; at most {MAX_RATE} are read")
    if frames <= 0:
        raise DataError(f"{name}: no samples in it")
    first = round((start or 0.0) * rate)
    last = frames if end is None else round(end * rate)
    # Times written with two or three decimals may pass the end by a rounding.
    if first >= frames or last > frames + 0.05 * rate:
        there = f"{frames / rate:g} s"
        raise DataError(f"{name}: the segment {start or 0:g} to {last / rate:g} s is outside of its {there}")
    last = min(last, frames)
    seconds = (last - first) / rate
    if seconds > limits.max_seconds:
        raise DataError(
            f"{name}: {seconds:.1f} s long, more than --max-audio-seconds {limits.max_seconds:g}; cut it "
            "into segments with start and end columns, or allow more"
        )
    if last <= first:
        raise DataError(f"{name}: the segment from {start or 0:g} s has no samples")
    if first:
        sound.seek(first)
    return _mixed(sound, name, last - first)


def _mixed(sound: Any, name: str, count: int) -> Floats:
    """Read ``count`` frames, the mean of all channels. It lies in memory that the next call reuses."""
    # Sixteen-bit samples are read as they are: half the memory, and they are finite by nature.
    exact = sound.subtype in _SIXTEEN_BITS
    channels, done = sound.channels, 0
    mono: Floats = _scratch("mono", np.float32, count)
    step = max(1, _BLOCK // channels)
    block = _scratch("block", np.int16 if exact else np.float32, min(count, step) * channels)
    while done < count:
        frames = min(count - done, step)
        view = block[: frames * channels].reshape(frames, channels)
        got = sound.read(out=view)
        part = mono[done : done + len(got)]
        if channels == 1:
            part[:] = got[:, 0]
        else:
            np.mean(got, axis=1, dtype=np.float32, out=part)
        done += len(got)
        if len(got) < frames:
            break
    if done != count:
        raise DataError(f"{name}: damaged or cut short, {done} of {count} samples could be read")
    if exact:
        np.multiply(mono, np.float32(1 / 32768), out=mono)
        return mono
    # One pass instead of three: a sum of squares is finite only where all samples are.
    with np.errstate(over="ignore"):
        energy = np.dot(mono, mono)
    if not np.isfinite(energy) and not np.isfinite(mono).all():
        where = int(np.flatnonzero(~np.isfinite(mono))[0])
        raise DataError(f"{name}: sample {where} is not a finite number (NaN or infinity)")
    return mono


def _scratch(name: str, dtype: type, count: int) -> Any:
    """Memory kept from call to call: fresh pages cost more than decoding into them."""
    kept = getattr(_memory, name, None)
    if kept is None or kept.dtype != dtype or len(kept) < count:
        kept = np.empty(max(count, 1 << 16), dtype=dtype)
        if count <= _MAX_SCRATCH:
            setattr(_memory, name, kept)
    return kept[:count]


def resample(waveform: Floats, rate: int, sample_rate: int, name: str) -> Floats:
    """Bring samples to the model's rate, with soxr's HQ filter."""
    peak = max(float(waveform.max()), -float(waveform.min()))
    if peak > MAX_PEAK:
        raise DataError(
            f"{name}: samples up to {peak:g} where audio has -1 to 1: not audio, or to be scaled first"
        )
    if rate == sample_rate:
        return np.array(waveform)  # it lies in memory that the next clip will use
    import soxr

    resampled = np.asarray(soxr.resample(waveform, rate, sample_rate, quality="HQ"), dtype=np.float32)
    if not len(resampled):
        raise DataError(f"{name}: {len(waveform)} samples at {rate} Hz are none at {sample_rate} Hz")
    return resampled


def _check_whole(sound: Any, stream: BinaryIO, size: int, name: str) -> None:
    """Refuse a file that ends before its header says: the library reads it as if it ended there on purpose.

    The library notes in its log every length that goes past the end of the file.
    """
    for part, promised, there in _LENGTHS.findall(sound.extra_info):
        # Some programs count the outer header too.
        spare = 8 if part.strip().upper() in ("RIFF", "FORM", "RIFF SIZE") else 0
        if int(there) + spare < int(promised) < _UNKNOWN_LENGTH:
            raise DataError(f"{name}: cut short, {there} bytes are there where its header says {promised}")
    if sound.format == "OGG":
        _check_last_page(stream, size, name)


def _check_last_page(stream: BinaryIO, size: int, name: str) -> None:
    """Refuse an Ogg file (RFC 3533) whose last page goes past the end of the file."""
    place = stream.tell()  # shared with the library, which goes on reading from it
    stream.seek(max(0, size - _MAX_PAGE))
    tail = stream.read(_MAX_PAGE)
    stream.seek(place)
    begin = tail.rfind(b"OggS")
    page = tail[begin:]
    body = 27 + page[26] if begin >= 0 and len(page) > 26 else 0
    if not body or body > len(page) or body + sum(page[27:body]) > len(page):
        raise DataError(f"{name}: cut short, its last Ogg page is not whole")


def to_pcm16(waveform: Floats) -> tuple[NDArray[np.int16], int]:
    """Round to 16 bits, to the nearest and alike on both sides of zero.

    Returns:
        int16 [L] (little-endian), and how many samples lay beyond full scale and were clipped.
    """
    scaled = np.multiply(waveform, np.float32(32768), out=_scratch("scaled", np.float32, len(waveform)))
    np.rint(scaled, out=scaled)
    clipped = 0
    if scaled.max() > 32767 or scaled.min() < -32768:
        clipped = int(np.count_nonzero(np.abs(scaled) > 32768))
        np.clip(scaled, -32768, 32767, out=scaled)
    return scaled.astype("<i2"), clipped


def flac_bytes(pcm: NDArray[np.int16], sample_rate: int) -> bytes:
    """16-bit samples as a FLAC file, without loss."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
