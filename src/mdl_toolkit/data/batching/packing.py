"""Packs examples into arrays, and these into a message of few bytes for another process. Without torch.

The process that prepares batches needs neither torch (a second to import, 200 MB) nor shared memory. Audio
goes as the 16-bit samples it was stored as, ids as 32 bits; both come out as the very numbers that went in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.audio.pcm16 import PCM16_SCALE
from mdl_toolkit.data.dataset.dataset import Example
from mdl_toolkit.data.prompt.builder import IGNORED
from mdl_toolkit.errors import DataError
from mdl_toolkit.geometry import MIN_SAMPLES, AudioGeometry

Ints = NDArray[np.int64]

#: Arrays begin at a multiple of this, so that they can be used where they lie.
_ALIGNMENT = 64
#: Samples at a time that stay in a processor's cache between the operations on them.
_BLOCK = 1 << 15


@dataclass(frozen=True)
class Packed:
    """The arrays of a :class:`mdl_toolkit.data.batching.collate.PackedBatch`, which says what they are."""

    input_ids: Ints
    position_ids: Ints
    audio_positions: Ints
    target_positions: Ints
    targets: Ints
    waveform: NDArray[np.float32]
    sequence_lengths: tuple[int, ...]
    audio_samples: tuple[int, ...]
    rows: tuple[str, ...]
    indices: tuple[int, ...]


def pack(examples: Sequence[Example], audio_token_id: int, geometry: AudioGeometry | None = None) -> Packed:
    """Lay examples end to end.

    Args:
        examples: The rows, at least one.
        audio_token_id: The id of an audio placeholder.
        geometry: Where given, the number of placeholders of each row is checked against its clip's length.

    Raises:
        DataError: A row's placeholders don't match its clip; the message names the row and both numbers.
    """
    assert examples, "an empty micro-batch makes no batch"
    smallest = geometry.min_samples if geometry else MIN_SAMPLES
    lengths = [len(example.input_ids) for example in examples]
    samples = [max(len(example.waveform), smallest) for example in examples]
    ids = np.concatenate([example.input_ids for example in examples]).astype(np.int64, copy=False)
    labels = np.concatenate([example.labels for example in examples]).astype(np.int64, copy=False)
    starts = np.cumsum([0, *lengths])
    labels[starts[:-1]] = IGNORED  # nothing comes before a row's first token to predict it from
    waveform = np.zeros(sum(samples), dtype=np.float32)
    offset = 0
    for example, size in zip(examples, samples, strict=True):
        waveform[offset : offset + len(example.waveform)] = example.waveform
        offset += size
    supervised = np.flatnonzero(labels != IGNORED)
    audio = np.flatnonzero(ids == audio_token_id)
    if geometry is not None:
        _check_placeholders(examples, samples, np.searchsorted(audio, starts), geometry)
    return Packed(
        input_ids=ids,
        position_ids=np.concatenate([np.arange(n, dtype=np.int64) for n in lengths]),
        audio_positions=audio,
        target_positions=supervised - 1,
        targets=labels[supervised],
        waveform=waveform,
        sequence_lengths=tuple(lengths),
        audio_samples=tuple(samples),
        rows=tuple(example.row for example in examples),
        indices=tuple(example.index for example in examples),
    )


@dataclass(frozen=True)
class ArrayPlace:
    """Where an array lies in the bytes of a message.

    Attributes:
        start: The place of its first byte.
        size: Its size in bytes.
        sent: The type of its numbers there; 16-bit integers are samples, to be scaled.
        meant: The type that the numbers are to have.
    """

    start: int
    size: int
    sent: str
    meant: str


@dataclass(frozen=True)
class BatchHeader:
    """The header of a message: what its bytes are.

    Attributes:
        places: The place of each array, by its name.
        rest: The values that are no arrays, by their names.
    """

    places: dict[str, ArrayPlace]
    rest: dict[str, Any]


def to_message(packed: Packed) -> tuple[BatchHeader, list[memoryview]]:
    """A batch as a message to another process: its header, and the bytes of its arrays in parts."""
    places: dict[str, ArrayPlace] = {}
    rest: dict[str, Any] = {}
    parts: list[memoryview] = []
    start = 0
    for f in fields(packed):
        value = getattr(packed, f.name)
        if not isinstance(value, np.ndarray):
            rest[f.name] = value
            continue
        narrow = _narrowed(value)
        places[f.name] = ArrayPlace(start, narrow.nbytes, narrow.dtype.name, value.dtype.name)
        gap = -narrow.nbytes % _ALIGNMENT
        parts += [memoryview(narrow.data).cast("B")] if narrow.nbytes else []
        parts += [memoryview(bytes(gap))] if gap else []
        start += narrow.nbytes + gap
    return BatchHeader(places, rest), parts


def _narrowed(array: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in half as many bytes, where every bit of them can be restored."""
    if array.dtype == np.int64:
        small = array.astype(np.int32)
        return small if np.array_equal(small, array) else array
    samples = np.empty(array.size, np.int16)
    for start in range(0, array.size, _BLOCK):
        block = array[start : start + _BLOCK]
        with np.errstate(invalid="ignore"):  # a NaN becomes some number, and is seen below not to be restored
            part = (block * np.float32(1 / PCM16_SCALE)).astype(np.int16)
        back = part * np.float32(PCM16_SCALE)
        if not np.array_equal(back.view(np.int32), block.view(np.int32)):
            return array
        samples[start : start + _BLOCK] = part
    return samples


def _check_placeholders(
    examples: Sequence[Example], samples: Sequence[int], ends: Any, geometry: AudioGeometry
) -> None:
    for example, size, found in zip(examples, samples, np.diff(ends).tolist(), strict=True):
        expected = geometry.audio_tokens(size)
        if found != expected:
            raise DataError(
                f"{example.row}: {found} audio placeholders in the text, but its clip of "
                f"{len(example.waveform)} samples makes {expected} audio tokens"
            )
