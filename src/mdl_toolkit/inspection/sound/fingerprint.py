"""A short fingerprint of a clip's sound, by which copies of it find each other among 100,000 clips.

Peaks of the spectrogram survive what copies go through: a codec, another level, another rate, some noise. As
in Wang, "An industrial-strength audio search algorithm" (ISMIR 2003), a peak and others soon after it make a
hash of their frequencies and the times between them; a cut at the beginning changes where hashes are, not
what they are. Here three peaks make a hash, not two: spoken words have few peaks at frequencies that recur,
and pairs of them recur in every clip of a voice.

Of all hashes of a clip those with the least numbers are kept, after a mixing of their bits (Broder's sketch):
copies keep the same ones, and a fingerprint has a fixed size, however long the clip is. That two fingerprints
share some hashes makes their clips candidates only; ``comparison.py`` compares the samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Samples a second that fingerprints are made of, which is what telephones have.
RATE = 8_000
#: Hashes of a fingerprint, at most: so many of each choice of peaks.
SIZE, _OF_EACH = 192, 96
#: Samples from one spectrum to the next, 4 ms. A cut moves the grid of spectra: on a fine one peaks move
#: less.
HOP = 32
#: Samples of a spectrum, 64 ms: long enough to tell the harmonics of a voice apart.
_WINDOW = 512
#: Samples of silence before and after a clip: short ones get some more spectra.
_BEFORE = 192
#: Bins of a spectrum that are looked at, 62 to 3,437 Hz.
_BINS = slice(4, 220)
#: The frequencies of these bins, in any unit.
_FREQUENCIES = np.arange(4, 220, dtype=np.float32) / np.float32(50)
#: A peak is the largest value within so many spectra and bins around it.
_AROUND = 3
#: Spectra within which levels are compared.
_NEAR = 128
#: How many of the following peaks are joined with each, and within how many spectra.
_FOLLOWING, _WITHIN = 7, 64
#: Times between peaks count in units of so many spectra: a cut moves the grid of spectra, and with it peaks
#: by one.
_TIME_UNIT = 8
#: Spectra that are computed at a time.
_BLOCK = 2048


class Fingerprint(NamedTuple):
    """A clip's fingerprint.

    Attributes:
        hashes: uint32 [n], at most :data:`SIZE`; none where there is nothing to hear.
        times: uint16 [n]: the spectrum at which each begins, counted in :data:`HOP` samples, modulo 65,536.
    """

    hashes: NDArray[np.uint32]
    times: NDArray[np.uint16]

    def to_bytes(self) -> bytes:
        """As :meth:`of_bytes` takes it."""
        return self.hashes.tobytes() + self.times.tobytes()

    @classmethod
    def of_bytes(cls, data: bytes | memoryview) -> Fingerprint:
        """The fingerprint that :meth:`to_bytes` was of."""
        count = len(data) // 6
        return cls(np.frombuffer(data, np.uint32, count), np.frombuffer(data, np.uint16, count, 4 * count))


def small(waveform: Floats, rate: int) -> Floats:
    """A clip at :data:`RATE`, without an offset.

    Args:
        waveform: float32 [L].
        rate: Its samples a second.
    """
    waveform = waveform - waveform.mean()
    if rate == RATE:
        return waveform
    import soxr

    return np.asarray(soxr.resample(waveform, rate, RATE, quality="MQ"), dtype=np.float32)


def fingerprint(waveform: Floats) -> Fingerprint:
    """The fingerprint of a clip.

    Args:
        waveform: As :func:`small` gives it.
    """
    spectra = _spectrogram(waveform)
    raised = np.asarray(spectra * _FREQUENCIES, dtype=np.float32)
    around = _largest_around(_largest_around(raised, _AROUND, 1), _AROUND, 0)
    tops = raised >= around
    hashes, times = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint16)]
    for choice in _CHOICES:
        places, bins = np.nonzero(tops & choice.admits(spectra))
        numbers, begins = _triples(places.astype(np.uint64), bins.astype(np.uint64))
        mixed, first = np.unique(_mixed(numbers), return_index=True)
        # The upper half of the mixed bits has decided which are kept; the lower half is as good as random.
        hashes.append(mixed[:_OF_EACH].astype(np.uint32))
        times.append(begins[first[:_OF_EACH]].astype(np.uint16))
    kept, first = np.unique(np.concatenate(hashes), return_index=True)
    return Fingerprint(kept, np.concatenate(times)[first])


class _Choice(NamedTuple):
    """Which peaks make hashes.

    Attributes:
        near: Decibels that a peak may lie below the loudest spectrum within :data:`_NEAR` spectra.
        overall: Decibels that it may lie below the loudest one of the clip.
        raised: The power of the frequency by which levels are raised before that.
    """

    near: float
    overall: float
    raised: float

    def admits(self, spectra: Floats) -> NDArray[np.bool_]:
        """Which places of a spectrogram are loud enough."""
        levels = np.asarray(spectra * _FREQUENCIES**self.raised, dtype=np.float32)
        loudest = levels.max(axis=1, keepdims=True)
        floor = np.maximum(
            _largest_around(loudest, _NEAR, 0) * np.float32(10 ** (-self.near / 20)),
            loudest.max() * np.float32(10 ** (-self.overall / 20)),
        )
        return np.asarray(levels > floor)


#: The loud peaks, which noise leaves alone, and the quiet ones too: a heartbeat has hardly any others.
_CHOICES = (_Choice(25.0, 30.0, 0.5), _Choice(45.0, 60.0, 1.0))


def _spectrogram(waveform: Floats) -> Floats:
    """Magnitudes [spectra, bins] of the bins that are looked at."""
    waveform = np.pad(waveform, max(_BEFORE, (_WINDOW - len(waveform) + 1) // 2))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, _WINDOW)[::HOP]
    window = np.hanning(_WINDOW).astype(np.float32)
    spectra = np.empty((len(frames), _BINS.stop - _BINS.start), dtype=np.float32)
    for first in range(0, len(frames), _BLOCK):
        block = np.fft.rfft(frames[first : first + _BLOCK] * window, axis=1)[:, _BINS]
        spectra[first : first + len(block)] = np.abs(block)
    return spectra


def _largest_around(values: Floats, radius: int, axis: int) -> Floats:
    """The largest of the values within a radius along an axis, by maxima over spans of doubled length."""
    wide = np.pad(
        values, [(radius, radius) if number == axis else (0, 0) for number in range(2)], constant_values=-1.0
    )

    def larger(array: Floats, step: int) -> Floats:
        size = array.shape[axis] - step
        ahead = array.take(range(step, step + size), axis) if axis else array[step:]
        return np.maximum(array[:, :size] if axis else array[:size], ahead)

    span, wanted = 1, 2 * radius + 1
    while 2 * span <= wanted:
        wide, span = larger(wide, span), 2 * span
    return larger(wide, wanted - span) if wanted > span else wide


def _triples(
    times: NDArray[np.uint64], bins: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Numbers of all triples of near peaks, and the spectra at which they begin."""
    numbers, begins = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for second in range(1, _FOLLOWING):
        for third in range(second + 1, min(_FOLLOWING + 1, len(times))):
            count = len(times) - third
            start = times[:count]
            to_second, to_third = times[second : second + count] - start, times[third:] - start
            near = to_third <= _WITHIN
            number = bins[:count]
            for part, bits in (
                (bins[second : second + count], 10),
                (bins[third:], 10),
                (to_second // np.uint64(_TIME_UNIT), 10),
                (to_third // np.uint64(_TIME_UNIT), 10),
            ):
                number = (number << np.uint64(bits)) | part
            numbers.append(number[near])
            begins.append(start[near])
    return np.concatenate(numbers), np.concatenate(begins)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers whose bits each depend on all bits of the ones given; different ones stay different."""
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
