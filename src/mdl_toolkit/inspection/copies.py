"""Which clips are the same: to the sample, or copies that went through a codec, another level, a cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mdl_toolkit.data.audio.load import AudioLimits
from mdl_toolkit.data.conversion.pool import WorkerPool
from mdl_toolkit.data.conversion.worker import ClipJob, LoadOptions
from mdl_toolkit.inspection.collected import Collected
from mdl_toolkit.inspection.sound.candidates import Candidate, candidates
from mdl_toolkit.inspection.sound.clip import ClipPlace, ComparePair, likeness_of
from mdl_toolkit.inspection.sound.comparison import Likeness
from mdl_toolkit.inspection.sound.fingerprint import Fingerprint
from mdl_toolkit.terminal.progress import Progress

#: Share of the longer clip from which on two clips are copies of each other; below, one is a part of the
#: other.
_WHOLE = 0.7
#: Candidates that are compared, those that share the most: one for each clip, and so many in any case.
_AT_LEAST = 20_000
#: Pairs that a process takes at a time.
_CHUNK = 4


class RowPlace(NamedTuple):
    """A row of one of the sets.

    Attributes:
        set: 0 for the set that is inspected, 1 for the one it is held against.
        row: The row's number in it, from 0.
    """

    set: int
    row: int


@dataclass(frozen=True)
class CopyGroup:
    """Rows with the same sound.

    Attributes:
        kind: ``identical`` (to the sample), ``copy``, or ``part`` where some have a part of another's only.
        likeness: The least correlation by which one of them joined the others.
        places: The rows, those of the first set first.
    """

    kind: str
    likeness: float
    places: tuple[RowPlace, ...]

    def rows(self, number: int) -> list[int]:
        """The rows of one set."""
        return [place.row for place in self.places if place.set == number]


@dataclass(frozen=True)
class Copies:
    """All groups of rows with the same sound.

    Attributes:
        groups: The groups, in order of their first rows.
        left_out: Candidates that were not compared, because there were too many.
    """

    groups: tuple[CopyGroup, ...]
    left_out: int = 0


class _Joined:
    """Clips that were found to be the same, joined to groups."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))
        self._likeness: dict[int, float] = {}
        self._partly: set[int] = set()

    def top(self, clip: int) -> int:
        while self._above[clip] != clip:
            self._above[clip] = self._above[self._above[clip]]
            clip = self._above[clip]
        return clip

    def join(self, first: int, second: int, likeness: float, partly: bool) -> None:
        low, high = sorted((self.top(first), self.top(second)))
        least = min(self.likeness(low), self.likeness(high), likeness)
        partly = partly or low in self._partly or high in self._partly
        self._above[high] = low
        self._likeness[low] = least
        if partly:
            self._partly.add(low)

    def likeness(self, top: int) -> float:
        return self._likeness.get(top, 1.0)

    def kind(self, top: int) -> str:
        if top not in self._likeness:
            return "identical"
        return "part" if top in self._partly else "copy"


def find_copies(sets: Sequence[Collected], workers: int) -> Copies:
    """Find the rows of one or two sets that have the same sound.

    Silent clips are left out: there is nothing in them to compare.

    Args:
        sets: The sets.
        workers: Processes that compare candidates.
    """
    clips = _different_clips(sets)
    owners = list(clips)
    prints = [_fingerprint(sets, clips[digest][0]) for digest in owners]
    found = sorted(candidates(prints), key=lambda pair: -pair.shared)
    if len(sets) > 1:
        found = [pair for pair in found if _concerns_first(clips, owners, pair)]
    most = max(_AT_LEAST, len(prints))
    chosen = sorted(found[:most])
    joined = _Joined(len(owners))
    for pair, likeness in _compared(sets, clips, owners, chosen, workers):
        if likeness.is_copy(pair.shared):
            joined.join(pair.first, pair.second, likeness.score, likeness.common < _WHOLE)
    members: dict[int, list[RowPlace]] = {}
    for number, digest in enumerate(owners):
        members.setdefault(joined.top(number), []).extend(clips[digest])
    groups = [
        CopyGroup(joined.kind(top), joined.likeness(top), tuple(sorted(places)))
        for top, places in members.items()
        if len(places) > 1 and any(place.set == 0 for place in places)
    ]
    return Copies(tuple(sorted(groups, key=lambda group: group.places)), max(0, len(found) - most))


def _different_clips(sets: Sequence[Collected]) -> dict[bytes, list[RowPlace]]:
    """The rows that have each clip, by its digest."""
    clips: dict[bytes, list[RowPlace]] = {}
    for number, one in enumerate(sets):
        silent = set(one.silent())
        for row, facts in enumerate(one.facts):
            if facts is not None and row not in silent:
                clips.setdefault(facts.digest, []).append(RowPlace(number, row))
    return clips


def _fingerprint(sets: Sequence[Collected], place: RowPlace) -> Fingerprint:
    facts = sets[place.set].facts[place.row]
    assert facts is not None
    return facts.fingerprint


def _concerns_first(clips: dict[bytes, list[RowPlace]], owners: list[bytes], pair: Candidate) -> bool:
    """Whether one of a pair's clips is in the set that is inspected."""
    return any(clips[owners[number]][0].set == 0 for number in (pair.first, pair.second))


def _compared(
    sets: Sequence[Collected],
    clips: dict[bytes, list[RowPlace]],
    owners: list[bytes],
    chosen: list[Candidate],
    workers: int,
) -> Iterator[tuple[Candidate, Likeness]]:
    """The candidates with their likeness."""
    if not chosen:
        return
    needed = sorted({number for pair in chosen for number in (pair.first, pair.second)})
    places = {number: clips[owners[number]][0] for number in needed}
    jobs = {
        number: ClipPlace(place.set, job)
        for number, place in places.items()
        if (job := sets[place.set].jobs[place.row]) is not None
    }
    rate = sets[0].sample_rate
    work = ComparePair([one.sounds for one in sets], rate, jobs, chosen)
    chunks = (
        [ClipJob(number, "", None, None) for number in range(first, min(first + _CHUNK, len(chosen)))]
        for first in range(0, len(chosen), _CHUNK)
    )

    def name(number: int) -> str:
        place = places[chosen[number].first]
        return sets[place.set].row_name(place.row)

    progress = Progress("comparing clips that may be copies", len(chosen), unit="pairs")
    with WorkerPool(max(1, min(workers, -(-len(chosen) // _CHUNK)))) as pool:
        pairs = iter(chosen)
        for results in pool.run(chunks, LoadOptions(AudioLimits(), rate, "pcm16", work), name):
            for result in results:
                pair = next(pairs)
                progress.update()
                if result.problem is None:
                    yield pair, likeness_of(result.audio)
    progress.clear()
