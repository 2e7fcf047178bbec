"""Pairs of clips that may be copies: their fingerprints share hashes at one distance in time.

All hashes are sorted once, so that the same ones of different clips lie together; no clip is compared with
every other one. Where very many clips share a hash, each is paired only with those next to it: clips that are
really copies share many hashes, and meet again at others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.inspection.sound.fingerprint import Fingerprint

#: Hashes that two clips have to share, at distances in time that differ by no more than :data:`_TOLERANCE`
#: spectra.
LEAST_SHARED = 3
_TOLERANCE = 4
#: How many of the following clips with the same hash a clip is paired with.
_NEXT = 16
#: Pairs of the same hash that are counted at a time.
_AT_ONCE = 1 << 22


class Candidate(NamedTuple):
    """A pair of clips that may be copies.

    Attributes:
        first: The first clip.
        second: The second one, with a higher number.
        offset: Spectra that the second one's sound comes later in its clip than the same sound in the first.
        shared: Hashes that they share at this offset.
    """

    first: int
    second: int
    offset: int
    shared: int


def candidates(fingerprints: Sequence[Fingerprint]) -> Iterator[Candidate]:
    """Find the candidates among clips, numbered as their fingerprints are.

    Yields:
        Each pair once, in order of its first clip.
    """
    index = _Index(fingerprints)
    for keys, offsets in index.pairs():
        yield from _agreeing(keys, offsets, len(fingerprints))


class _Index:
    """All hashes of all clips, sorted by hash and then by clip."""

    def __init__(self, fingerprints: Sequence[Fingerprint]) -> None:
        sizes = [len(one.hashes) for one in fingerprints]
        hashes = np.concatenate([np.zeros(0, np.uint32), *(one.hashes for one in fingerprints)])
        times = np.concatenate([np.zeros(0, np.uint16), *(one.times for one in fingerprints)])
        clips = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._times, self._clips = hashes[order], times[order], clips[order]
        #: Where the hashes of each clip lie, clip after clip.
        self._places = np.argsort(self._clips, kind="stable")
        self._ends = np.cumsum([0, *sizes])

    def pairs(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Shared hashes: the two clips as one number, and the offset; all of a first clip come together."""
        count, first = len(self._ends) - 1, 0
        step = max(1, _AT_ONCE // (_NEXT * max(1, int(np.diff(self._ends).max(initial=1)))))
        while first < count:
            last = min(count, first + step)
            places = self._places[self._ends[first] : self._ends[last]]
            keys, offsets = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
            for ahead in range(1, _NEXT + 1):
                places = places[places + ahead < len(self._hashes)]
                same = places[self._hashes[places] == self._hashes[places + ahead]]
                other = same + ahead
                apart = self._clips[same] != self._clips[other]
                same, other = same[apart], other[apart]
                keys.append(self._clips[same].astype(np.int64) * count + self._clips[other])
                # Times are modulo 65,536, and so are their differences.
                offsets.append((self._times[other] - self._times[same]).astype(np.int16).astype(np.int64))
            yield np.concatenate(keys), np.concatenate(offsets)
            first = last


def _agreeing(keys: NDArray[np.int64], offsets: NDArray[np.int64], count: int) -> Iterator[Candidate]:
    """The pairs that share enough hashes at nearly one offset; of several offsets the one with the most."""
    order = np.lexsort((offsets, keys))
    keys, offsets = keys[order], offsets[order]
    span = LEAST_SHARED - 1
    agree = (keys[span:] == keys[: len(keys) - span]) & (
        offsets[span:] - offsets[: len(offsets) - span] <= _TOLERANCE
    )
    for key in np.unique(keys[: len(keys) - span][agree]).tolist():
        begin, end = np.searchsorted(keys, [key, key + 1])
        own = offsets[begin:end]
        reached = np.searchsorted(own, own + _TOLERANCE, side="right") - np.arange(len(own))
        best = int(reached.argmax())
        offset = int(np.median(own[best : best + int(reached[best])]))
        first, second = divmod(key, count)
        yield Candidate(first, second, offset, int(reached[best]))
