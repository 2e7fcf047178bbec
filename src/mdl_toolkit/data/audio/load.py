"""From a path or URL to float32 samples of one channel at the model's rate, or an error with the reason."""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.audio.decode import Reading
from mdl_toolkit.data.audio.path_lookup import find_existing, is_file_url, path_of
from mdl_toolkit.data.audio.unreadable import explain
from mdl_toolkit.data.audio.urls import UrlLimits, fetch, is_url, shown
from mdl_toolkit.errors import DataError, printable
from mdl_toolkit.settings import ConvertOptions
from mdl_toolkit.settings.checks import foreign_path

Floats = NDArray[np.float32]

#: Float samples beyond this are not audio in [-1, 1] but, for example, 16-bit numbers stored as floats.
MAX_PEAK = 16.0


@dataclass(frozen=True)
class AudioLimits:
    """What a row may name as its clip. The defaults are those of the options.

    Attributes:
        max_seconds: The length of the longest clip, in seconds (``--max-audio-seconds``).
        urls: What fetching a URL may cost.
        base_dir: The folder that relative paths start from (``--base-dir``); ``None``: the working directory.
        outside: Whether paths may lead out of ``base_dir`` (``--allow-outside-base-dir``).
    """

    max_seconds: float = ConvertOptions.max_audio_seconds
    urls: UrlLimits = field(default_factory=UrlLimits)
    base_dir: str | None = None
    outside: bool = ConvertOptions.allow_outside_base_dir

    @classmethod
    def of(cls, options: ConvertOptions) -> AudioLimits:
        """The limits that a command's options set."""
        return cls(
            max_seconds=options.max_audio_seconds,
            urls=UrlLimits.of(options),
            base_dir=None if options.base_dir is None else str(options.base_dir),
            outside=options.allow_outside_base_dir,
        )


class Recording(NamedTuple):
    """A clip, and the recording that it was taken from.

    Attributes:
        waveform: float32 [L], all channels mixed, at the model's rate.
        native: float32 [N], the same at the recording's own rate. It lies in memory that the thread's next
            clip reuses.
        rate: Samples a second of the recording.
        channels: Channels of the recording.
        kind: Its container and coding, in libsndfile's words: ``WAV PCM_16``.
    """

    waveform: Floats
    native: Floats
    rate: int
    channels: int
    kind: str


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
        source: Path (relative to ``limits.base_dir``), http(s) URL, or ``file://`` URL.
        start: Where the clip begins, in seconds.
        end: Where the clip ends, in seconds.
        limits: What the row may name.
        sample_rate: The model's sample rate in Hz.

    Returns:
        float32 [L], all channels mixed, resampled where the file has another rate. Samples can exceed [-1, 1]
        a little where resampling overshoots or the file does.

    Raises:
        DataError: The file is missing, not allowed, no audio, damaged, empty, too long, or holds samples that
            are not finite. The message does not name the row.
    """
    return load_recording(source, start=start, end=end, limits=limits, sample_rate=sample_rate).waveform


def load_recording(
    source: str,
    *,
    start: float | None = None,
    end: float | None = None,
    limits: AudioLimits | None = None,
    sample_rate: int = 16000,
) -> Recording:
    """Load a clip and say what recording it is of; arguments and errors as :func:`load_waveform`."""
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


def clip_seconds(
    source: str, *, start: float | None = None, end: float | None = None, limits: AudioLimits | None = None
) -> float | None:
    """How long a clip is, without decoding it; arguments as :func:`load_waveform`.

    Returns:
        Seconds; ``None`` where only loading it will tell: for URLs, files of unknown length, and unfit ones.
    """
    if is_url(source):
        return None
    limits = limits or AudioLimits()
    try:
        with open(locate(source, limits), "rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            with Reading(stream, size, source, limits.max_seconds) as reading:
                whole = reading.seconds
    except (DataError, OSError, RuntimeError):
        return None
    if whole is None:
        return None
    return max(0.0, (whole if end is None else min(end, whole)) - (start or 0.0))


def _shown(source: str) -> str:
    """A cell of the table as a message of one line shows it."""
    return printable(source if len(source) <= 200 else f"{source[:200]}…")


def locate(source: str, limits: AudioLimits) -> str:
    """The file that a cell names.

    Raises:
        DataError: The file isn't there, isn't a regular file, or lies outside of ``base_dir`` (symbolic links
            are followed first) though it mustn't.
    """
    name = _shown(source)
    try:
        path = find_existing(path_of(source, limits.base_dir))
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
    except DataError:
        raise  # a DataError is a ValueError too
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{name}: can't be read ({reason})") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{name}: a folder, not a recording")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{name}: not a regular file")
    if status.st_size == 0:
        raise DataError(f"{name}: an empty file (0 bytes)")
    return path


@lru_cache(maxsize=8)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _looked_in(source: str, limits: AudioLimits) -> str:
    if hint := foreign_path(source):
        return hint
    if os.path.isabs(source) or source.startswith("~") or is_file_url(source):
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
) -> Recording:
    import soundfile

    try:
        with Reading(stream, size, name, limits.max_seconds) as reading:
            native = reading.clip(start, end)
            waveform = resample(native, reading.rate, sample_rate, name)
            return Recording(waveform, native, reading.rate, reading.channels, reading.kind)
    except soundfile.LibsndfileError as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise DataError(f"{name}: not readable as audio{explain(stream, name, reason)}") from error


def resample(waveform: Floats, rate: int, sample_rate: int, name: str) -> Floats:
    """Bring samples to the model's rate, with soxr's HQ filter."""
    peak = max(float(waveform.max()), -float(waveform.min()))
    if peak > MAX_PEAK:
        raise DataError(
            f"{name}: samples up to {peak:g} where audio has -1 to 1: not audio, or to be scaled first"
        )
    if rate == sample_rate:
        return np.array(waveform)  # a copy: the next clip will use the same memory
    import soxr

    resampled = np.asarray(soxr.resample(waveform, rate, sample_rate, quality="HQ"), dtype=np.float32)
    if not len(resampled):
        raise DataError(f"{name}: {len(waveform)} samples at {rate} Hz are none at {sample_rate} Hz")
    return resampled
