"""Pairs of clips that may be copies: their fingerprints share hashes at one distance in time.

All hashes are sorted once, so that the same ones of different clips lie together; no clip is compared with
every other one. Where very many clips share a hash, each is paired only with those next to it: clips that are
really copies share many hashes, and meet again at others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.inspection.sound.fingerprint import Fingerprint

#: Hashes that two clips have to share, at distances in time that differ by no more than :data:`_TOLERANCE`
#: spectra.
LEAST_SHARED = 3
_TOLERANCE = 4
#: How many of the following clips with the same hash a clip is paired with; fewer where many have it.
_NEXT, _NEXT_OF_MANY, _MANY = 16, 4, 64
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
        # One column after the other: of 100,000 clips each is large.
        column: NDArray[Any] = np.concatenate([np.zeros(0, np.uint32), *(one.hashes for one in fingerprints)])
        order = np.argsort(column, kind="stable").astype(np.int32)
        self._hashes: NDArray[np.uint32] = column[order]
        column = np.concatenate([np.zeros(0, np.uint16), *(one.times for one in fingerprints)])
        self._times: NDArray[np.uint16] = column[order]
        column = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        self._clips: NDArray[np.int32] = column[order]
        #: Where the hashes of each clip lie, clip after clip.
        self._places = np.empty_like(order)
        self._places[order] = np.arange(len(order), dtype=np.int32)
        self._ends = np.cumsum([0, *sizes])
        begins = np.flatnonzero(np.diff(self._hashes, prepend=0))
        count = np.diff(np.concatenate([[0], begins, [len(order)]]))
        #: Whether very many clips have a hash.
        self._is_common = np.repeat(count > _MANY, count)

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
                if ahead == _NEXT_OF_MANY + 1:
                    places = places[~self._is_common[places]]
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
