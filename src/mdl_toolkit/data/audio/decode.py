"""Decode a recording, or a segment of it, to one channel: to its end, within bounds, or an error.

libsndfile decodes. What it says about a file's length is believed where it reads it from a header; where
there is none it guesses, and :mod:`mdl_toolkit.data.audio.containers` knows better. A file is cut short when
its container or its decoder says so.
"""

from __future__ import annotations

import io
import re
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.audio.containers import UNKNOWN_LENGTH, find_parts, flac_parts
from mdl_toolkit.data.audio.mpeg import PREROLL_FRAMES, headless_parts
from mdl_toolkit.data.audio.parts import Part, PartView
from mdl_toolkit.data.audio.unreadable import convert_line
from mdl_toolkit.errors import DataError

Floats = NDArray[np.float32]

MAX_CHANNELS = 64
MAX_RATE = 768_000
#: Where the mean of all channels has less than this share (10 dB) of their average energy, they cancel each
#: other. Independent channels lose 3 dB, equal ones nothing.
VANISHING = 0.1
#: Samples of all channels read at a time: what a file of many channels needs beside the mixed clip.
_BLOCK = 1 << 20
#: Samples of the largest memory that is kept for the next clip.
_MAX_SCRATCH = 1 << 23
_memory = threading.local()

#: Kinds of samples that 16 bits hold exactly.
_SIXTEEN_BITS = ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW")
#: Lines of libsndfile's log on lengths that go past the end of the file. Other lines look alike.
_LENGTHS = re.compile(
    r"^ *(RIFF|RIFX|riff|FORM|SSND|data|BODY|Riff size|Data Size|Data length) *: *(\d+) \(should be (\d+)\)",
    re.MULTILINE,
)
#: Of these, the lengths of the whole file; some programs count the header in.
_OUTER = ("RIFF", "RIFX", "FORM", "Riff size")
#: Recordings that one file may hold.
_MAX_PARTS = 10_000
#: Lengths from here on stand for "not known" in libsndfile.
_NO_LENGTH = 1 << 62
#: Bytes for each channel that libsndfile's FLAC decoder reads ahead, at most.
_READ_AHEAD = 1 << 15


class Reading:
    """A recording that is open for reading.

    Args:
        stream: The file, unbuffered where it has a descriptor.
        size: The size of the file in bytes.
        name: The file's name in messages.
        max_seconds: The length of the longest clip in seconds.

    Raises:
        DataError: The file is no audio, is cut short, or can't be read by its header.
    """

    def __init__(self, stream: Any, size: int, name: str, max_seconds: float) -> None:
        import soundfile

        self._stream, self._size, self._name, self._max_seconds = stream, size, name, max_seconds
        self._parts = find_parts(stream, size, name) or [Part(0, size)]
        self._sound: Any = None
        self._opened, self._read_from = -1, False
        self._energies: NDArray[np.float64] = np.zeros(0)
        try:
            try:
                self._look()
            except soundfile.LibsndfileError:
                if not (parts := headless_parts(stream, size, name)):
                    raise
                self._parts = parts
                self._look()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close libsndfile's view of the file; the stream stays open."""
        if self._sound is not None:
            self._sound.close()
        self._sound, self._opened = None, -1

    @property
    def rate(self) -> int:
        """Samples a second of each channel."""
        return self._form[0]

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return self._form[1]

    @property
    def kind(self) -> str:
        """Its container and coding, in libsndfile's words: ``WAV PCM_16``."""
        return self._kind

    @property
    def seconds(self) -> float | None:
        """How long it is; ``None`` where only reading it will tell."""
        known = [length for length in self._lengths if length is not None]
        return sum(known) / self.rate if len(known) == len(self._lengths) else None

    def clip(self, start: float | None, end: float | None) -> Floats:
        """The samples between two times in seconds.

        Returns:
            float32 [L] at ``rate``: the mean of all channels, or the loudest one where the mean would be
            without what they hold (a channel that is another's negative). It lies in memory that the next
            call reuses.

        Raises:
            DataError: The span is outside of the recording, longer than allowed, damaged, or not finite.
        """
        span = self._span(start, end)
        clip = self._samples(*span, None)
        if self._goes_on(span[1]):
            return self.clip(start, end)
        energies = self._energies
        # Where the squares of loud samples overflow, the clip is refused later, for being no audio.
        with np.errstate(over="ignore"):
            vanishes = len(energies) > 0 and float(np.dot(clip, clip)) < VANISHING * energies.mean()
        if vanishes:
            clip = self._samples(*span, int(energies.argmax()))
        return clip

    def _look(self) -> None:
        """Find the rate, channels and length of each part, as its container or libsndfile says."""
        if len(self._parts) > _MAX_PARTS:
            raise DataError(f"{self._name}: more than {_MAX_PARTS} recordings joined in one file")
        self._lengths: list[int | None] = []
        forms: list[tuple[int, int]] = []
        for place, part in enumerate(self._parts):
            sound = self._open(place)
            frames = sound.frames if part.frames is None else part.frames
            self._lengths.append(frames if frames < _NO_LENGTH else None)
            forms.append((sound.samplerate, sound.channels))
            self._is_flac = sound.format == "FLAC"
            self._kind = f"{sound.format} {sound.subtype}"
        if len(set(forms)) > 1:
            rates, channels = {rate for rate, _ in forms}, {count for _, count in forms}
            raise DataError(
                f"{self._name}: {len(forms)} recordings joined in one file, of {_either(rates)} Hz and "
                f"{_either(channels)} channels; convert it to one: {convert_line(self._name)}"
            )
        self._form = forms[0]
        if not any(length is None or length > 0 for length in self._lengths):
            raise DataError(f"{self._name}: no samples in it")

    def _open(self, place: int) -> Any:
        """Open a part with libsndfile, at the part's beginning."""
        from mdl_toolkit.data.audio.sound import Sound

        if self._opened == place and not self._read_from:
            return self._sound
        self.close()
        part = self._parts[place]
        self._stream.seek(0)
        if (part.begin, part.end, part.header, part.padding) != (0, self._size, b"", 0):
            handle: Any = PartView(self._stream, part)
        elif isinstance(self._stream, io.BytesIO):
            handle = self._stream
        else:
            # By descriptor where there is one: of a name, libsndfile would believe the ending.
            handle = self._stream.fileno()
        self._sound = sound = Sound(handle, closefd=False)
        self._opened, self._read_from = place, False
        if not 1 <= sound.channels <= MAX_CHANNELS:
            raise DataError(f"{self._name}: {sound.channels} channels; at most {MAX_CHANNELS} are read")
        if not 1 <= sound.samplerate <= MAX_RATE:
            raise DataError(
                f"{self._name}: a sample rate of {sound.samplerate} Hz; at most {MAX_RATE} are read"
            )
        self._check_lengths(sound.extra_info)
        return sound

    def _check_lengths(self, said: str) -> None:
        """Refuse a file that ends before its header says: libsndfile reads it as if it ended on purpose."""
        for what, promised, there in _LENGTHS.findall(said) if "(should be" in said else ():
            spare = 8 if what in _OUTER else 0
            if int(there) + spare < int(promised) < UNKNOWN_LENGTH:
                raise DataError(
                    f"{self._name}: cut short, {there} bytes are there where its header says {promised}"
                )

    def _span(self, start: float | None, end: float | None) -> tuple[int, int | None]:
        """First sample and the one after the last (``None``: to the end), checked where lengths are known."""
        first = round((start or 0.0) * self.rate)
        last = None if end is None else round(end * self.rate)
        if last is not None and last <= first:
            raise DataError(f"{self._name}: the segment from {start or 0:g} s has no samples")
        if None in self._lengths:
            if last is not None:
                self._check_seconds(last - first)
            return first, last
        total = sum(length or 0 for length in self._lengths)
        if (first >= total or (last or 0) > total) and self._split():
            return self._span(start, end)
        self._check_inside(first, total if last is None else last, total)
        last = total if last is None else min(last, total)
        self._check_seconds(last - first)
        return first, last

    def _check_inside(self, first: int, last: int, total: int) -> None:
        # Times written with two or three decimals may pass the end by a rounding.
        if first >= total or last > total + 0.05 * self.rate:
            raise DataError(
                f"{self._name}: the segment {first / self.rate:g} to {last / self.rate:g} s is outside of "
                f"its {total / self.rate:g} s"
            )

    def _check_seconds(self, count: int, known: bool = True) -> None:
        if count > self._max_seconds * self.rate:
            long = f"{count / self.rate:.1f} s long, more" if known else "longer"
            raise DataError(
                f"{self._name}: {long} than --max-audio-seconds {self._max_seconds:g}; cut it into segments "
                "with start and end columns, or allow more"
            )

    def _samples(self, first: int, last: int | None, channel: int | None) -> Floats:
        """The samples of a span, from all parts that it touches; adds up the channels' energies."""
        self._energies = np.zeros(self._form[1] if channel is None and self._form[1] > 1 else 0)
        pieces: list[Floats] = []
        offset = have = 0
        for place, length in enumerate(self._lengths):
            low = max(0, first - offset)
            ends = [high for high in (length, None if last is None else last - offset) if high is not None]
            high = min(ends, default=None)
            if high is not None and low >= high:
                offset += length or 0
                continue
            sound, skipped = self._open_at(place, low)
            if length is not None:
                assert high is not None
                piece = self._known(sound, high - low, channel)
                offset += length
            else:
                piece = self._unknown(sound, None if high is None else high - low, have, channel)
                offset += skipped + len(piece)
            if have or len(self._lengths) > 1:
                piece = piece.copy()
            pieces.append(piece)
            have += len(piece)
        if None in self._lengths and (not have or (last is not None and have < last - first)):
            self._check_inside(first, offset if last is None else last, offset)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _open_at(self, place: int, count: int) -> tuple[Any, int]:
        """Open a part and skip samples; returns how many were skipped: fewer where the part is shorter."""
        import soundfile

        sound, begin = self._open(place), 0
        if count and sound.can_seek():
            # An MPEG frame needs bytes of those before it: they are decoded too, so that it is right.
            preroll = PREROLL_FRAMES * 1152 if sound.subtype.startswith("MPEG") else 0
            self._read_from = True
            try:
                begin = sound.seek(max(0, count - preroll))
            except soundfile.LibsndfileError:
                if self._lengths[place] is not None:
                    raise
                sound = self._open(place)  # perhaps it is shorter: reading will tell
        self._read_from = True
        while begin < count:
            step = min(count - begin, max(1, _BLOCK // sound.channels))
            block = scratch("block", np.float32, step * sound.channels)
            got = len(sound.read(out=block.reshape(step, sound.channels)))
            begin += got
            if got < step:
                break
        return sound, begin

    def _known(self, sound: Any, count: int, channel: int | None) -> Floats:
        """The next samples, which the file says are there."""
        mono: Floats = scratch("mono", np.float32, count)
        done = self._mix(sound, mono, channel)
        if done != count:
            raise DataError(f"{self._name}: damaged or cut short, {done} of {count} samples could be read")
        return mono

    def _unknown(self, sound: Any, count: int | None, have: int, channel: int | None) -> Floats:
        """The next samples, up to the end of what is there: memory grows with what was read."""
        pieces: list[Floats] = []
        done, step = 0, _BLOCK // 4
        while count is None or done < count:
            block = scratch("mono", np.float32, step if count is None else min(step, count - done))
            got = self._mix(sound, block, channel)
            pieces.append(block[:got].copy())
            done += got
            self._check_seconds(have + done, known=False)
            if got < len(block):
                # libsndfile's only sign of a frame that is not whole.
                if "returned false" in sound.extra_info:
                    raise DataError(f"{self._name}: damaged or cut short after {done} samples")
                break
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)

    def _mix(self, sound: Any, mono: Floats, channel: int | None) -> int:
        """Read samples into all of ``mono``; returns how many there were."""
        channels, done, count = sound.channels, 0, len(mono)
        # Sixteen-bit samples of one channel are read as they are: half the memory.
        exact = channels == 1 and sound.subtype in _SIXTEEN_BITS
        step = max(1, _BLOCK // channels)
        block = scratch("block", np.int16 if exact else np.float32, min(count, step) * channels)
        while done < count:
            frames = min(count - done, step)
            got = sound.read(out=block[: frames * channels].reshape(frames, channels))
            part = mono[done : done + len(got)]
            if channels == 1 or channel is not None:
                part[:] = got[:, channel or 0]
            else:
                self._add_channels(got, part)
            done += len(got)
            if len(got) < frames:
                break
        if exact:
            np.multiply(mono[:done], np.float32(1 / 32768), out=mono[:done])
        else:
            self._check_finite(mono[:done])
        return done

    def _check_finite(self, mono: Floats) -> None:
        # One pass instead of three: a sum of squares is finite only where all samples are.
        with np.errstate(over="ignore"):
            energy = np.dot(mono, mono)
        if not np.isfinite(energy) and not np.isfinite(mono).all():
            where = int(np.flatnonzero(~np.isfinite(mono))[0])
            raise DataError(f"{self._name}: sample {where} is not a finite number (NaN or infinity)")

    def _add_channels(self, block: Floats, mono: Floats) -> None:
        """The mean of all channels of a block [samples, channels], and the energies that went into it."""
        channels = [block[:, place] for place in range(block.shape[1])]
        np.add(channels[0], channels[1], out=mono)
        for more in channels[2:]:
            np.add(mono, more, out=mono)
        np.divide(mono, np.float32(len(channels)), out=mono)
        with np.errstate(over="ignore", invalid="ignore"):
            self._energies += [float(np.dot(one, one)) for one in channels]

    def _goes_on(self, last: int | None) -> bool:
        """Whether a FLAC file that was read to what its header says goes on with another recording."""
        if not self._is_flac or len(self._parts) > 1 or last != self._lengths[0]:
            return False
        begin = max(4, self._stream.tell() - _READ_AHEAD * self._form[1])
        return bool(flac_parts(self._stream, self._size, begin)) and self._split()

    def _split(self) -> bool:
        """Look for more recordings in a FLAC file; returns whether there are any."""
        if not self._is_flac or len(self._parts) > 1:
            return False
        parts = flac_parts(self._stream, self._size)
        if len(parts) > 1:
            self._parts = parts
            self.close()
            self._look()
        return len(parts) > 1


def _either(values: set[int]) -> str:
    return " or ".join(map(str, sorted(values)))


def scratch(name: str, dtype: type, count: int) -> Any:
    """Memory of this thread that is used again by the next call: new pages cost more than decoding."""
    kept = getattr(_memory, name, None)
    if kept is None or kept.dtype != dtype or len(kept) < count:
        kept = np.empty(max(count, 1 << 16), dtype=dtype)
        if count <= _MAX_SCRATCH:
            setattr(_memory, name, kept)
    return kept[:count]
