"""What worker processes find in one clip, and how two clips that may be copies compare."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.audio.load import AudioLimits, Recording, load_recording
from mdl_toolkit.data.audio.pcm16 import is_silent, to_pcm16
from mdl_toolkit.data.conversion.worker import ClipJob, LoadedClip
from mdl_toolkit.inspection.sound.candidates import Candidate
from mdl_toolkit.inspection.sound.comparison import Likeness, compare, for_comparison
from mdl_toolkit.inspection.sound.fingerprint import Fingerprint, fingerprint, small
from mdl_toolkit.inspection.sound.levels import Levels, levels

_HEAD = struct.Struct("<16sIHdddII32s")
_LIKENESS = struct.Struct("<dd")
_OPENING = threading.Lock()
#: Clips that a worker keeps, because the next pair is likely to have one of them again.
_KEPT = 32


class ClipFacts(NamedTuple):
    """What is known of a clip.

    Attributes:
        digest: Of its samples in 16 bits at the model's rate: the same for the same sound.
        rate: Samples a second of its recording.
        channels: Channels of its recording.
        kind: Container and coding of its recording.
        levels: How loud it is, and so on.
        fingerprint: What copies are found by.
    """

    digest: bytes
    rate: int
    channels: int
    kind: str
    levels: Levels
    fingerprint: Fingerprint

    def to_bytes(self) -> bytes:
        """As :meth:`of_bytes` takes it."""
        kind = self.kind.encode()[:32]
        head = _HEAD.pack(self.digest, self.rate, self.channels, *self.levels, kind)
        return head + self.fingerprint.to_bytes()

    @classmethod
    def of_bytes(cls, data: Any) -> ClipFacts:
        """The facts that :meth:`to_bytes` was of."""
        digest, rate, channels, *numbers, kind = _HEAD.unpack_from(data)
        print_ = Fingerprint.of_bytes(bytes(data[_HEAD.size :]))
        return cls(digest, rate, channels, kind.rstrip(b"\0").decode(), Levels(*numbers), print_)


@dataclass(frozen=True)
class FileSounds:
    """Recordings as a table names them.

    Attributes:
        limits: What a row may name.
        sample_rate: The model's rate in Hz.
    """

    limits: AudioLimits
    sample_rate: int

    def __call__(self, job: ClipJob) -> Recording:
        """Load the recording of a job."""
        return load_recording(
            job.source, start=job.start, end=job.end, limits=self.limits, sample_rate=self.sample_rate
        )


@dataclass
class FolderSounds:
    """Clips as converted folders hold them; a job's number is that of the row.

    Attributes:
        folders: The folders, which have been checked.
    """

    folders: Sequence[Path]
    _opened: Any = field(default=None, repr=False)

    def __call__(self, job: ClipJob) -> Recording:
        """Read the clip of a job."""
        data = self._dataset()
        rate = data.geometry.sample_rate
        waveform = data[job.number].waveform
        return Recording(waveform, waveform, rate, 1, f"dataset {data.manifest.storage}")

    def _dataset(self) -> Any:
        from mdl_toolkit.data.dataset.dataset import ClipDataset

        with _OPENING:
            if self._opened is None:
                self._opened = ClipDataset.open(self.folders, all_shards=False, check=False)
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {"folders": self.folders, "_opened": None}


#: Where a clip comes from.
Sounds = Callable[[ClipJob], Recording]


@dataclass(frozen=True)
class LookAtClip:
    """The work of finding out :class:`ClipFacts`.

    Attributes:
        sounds: Where recordings come from.
        sample_rate: The model's rate in Hz.
    """

    sounds: Sounds
    sample_rate: int

    def __call__(self, job: ClipJob) -> LoadedClip:
        """Look at one clip; the facts are in the place of its samples."""
        recording = self.sounds(job)
        measured = levels(recording.native, recording.rate)
        pcm, clipped = to_pcm16(recording.waveform)
        silent = is_silent(pcm)
        print_ = fingerprint(small(recording.waveform, self.sample_rate)) if not silent else _NO_FINGERPRINT
        digest = hashlib.blake2b(pcm.tobytes(), digest_size=16).digest()
        facts = ClipFacts(digest, recording.rate, recording.channels, recording.kind, measured, print_)
        return LoadedClip(None, len(pcm), clipped, silent, facts.to_bytes())


_NO_FINGERPRINT = Fingerprint(np.zeros(0, np.uint32), np.zeros(0, np.uint16))


class ClipPlace(NamedTuple):
    """Where a clip is found again.

    Attributes:
        sounds: The number of the set's sounds.
        job: What loads it from there.
    """

    sounds: int
    job: ClipJob


@dataclass
class ComparePair:
    """The work of comparing two clips; a job's number is that of a pair.

    Attributes:
        sounds: Where recordings come from, for each set.
        sample_rate: The model's rate in Hz.
        places: Where each clip is, by its number.
        pairs: The pairs.
    """

    sounds: Sequence[Sounds]
    sample_rate: int
    places: Mapping[int, ClipPlace]
    pairs: Sequence[Candidate]
    _kept: OrderedDict[int, NDArray[np.int16]] = field(default_factory=OrderedDict, repr=False)

    def __call__(self, job: ClipJob) -> LoadedClip:
        """Compare a pair; its likeness is in the place of samples."""
        pair = self.pairs[job.number]
        found = compare(self._clip(pair.first), self._clip(pair.second), pair.offset)
        return LoadedClip(None, audio=_LIKENESS.pack(*found))

    def _clip(self, number: int) -> NDArray[np.int16]:
        if (kept := self._kept.get(number)) is not None:
            return kept
        place = self.places[number]
        waveform = self.sounds[place.sounds](place.job).waveform
        samples = self._kept[number] = for_comparison(waveform, self.sample_rate)
        # Two threads may do this at once: each takes out what it finds to be too many.
        while len(self._kept) > _KEPT:
            try:
                self._kept.popitem(last=False)
            except KeyError:
                break
        return samples


def likeness_of(data: Any) -> Likeness:
    """The likeness that :class:`ComparePair` has sent."""
    return Likeness(*_LIKENESS.unpack_from(data))
