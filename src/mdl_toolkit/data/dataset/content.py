"""Digests of what a dataset holds, by which copies of it on several hosts are compared.

A dataset's fingerprint says what a folder was made from. It doesn't see a folder that was changed afterwards,
nor that a table named other recordings on another host. So the rows themselves go into these digests,
whatever folders, shards and pieces of files they lie in; where they lie doesn't.

Rows are taken in blocks, so that several processes can share the work, and the first row that differs is
found without comparing each. A block has a digest for each of :data:`WHAT`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from mdl_toolkit.data.audio.path_lookup import path_of
from mdl_toolkit.data.dataset.legacy import LegacyFolder
from mdl_toolkit.errors import DataError

if TYPE_CHECKING:
    from mdl_toolkit.data.dataset.dataset import ClipDataset

#: What each digest of rows is of: the text without its answer, the answer, the recording.
WHAT = ("prompt", "answer", "recording")
#: Eight bytes for each of :data:`WHAT`.
Digests = tuple[bytes, bytes, bytes]

#: Rows of a block; more in a dataset that would have more than this many blocks.
_BLOCK_ROWS, _BLOCKS = 512, 4096
#: Bytes of samples that are read in all; of a larger dataset, every n-th recording goes into the digests.
_SAMPLE_BYTES = 2**30
#: Recordings that are opened in all, where a dataset only refers to files.
_FILES = 4096
#: Bytes at the start, in the middle and at the end of such a file.
_PIECE = 4096
#: Bytes of a FLAC file that hold the digest of its samples.
_FLAC_DIGEST = slice(26, 42)
_IGNORED = -100


def block_rows(rows: int) -> int:
    """The number of rows of a block, in a dataset of so many rows."""
    size = _BLOCK_ROWS
    while size * _BLOCKS < rows:
        size *= 2
    return size


def block_digests(data: ClipDataset, share: int, shares: int) -> dict[int, Digests]:
    """Digests of every ``shares``-th block.

    Args:
        data: The dataset.
        share: The first block.
        shares: The number of processes that share the work.

    Returns:
        The digests by the block's number.
    """
    size, rows = block_rows(len(data)), len(data)
    numbers = range(share, -(-rows // size), shares)
    threads = max(1, min(8, (os.cpu_count() or 1) // shares))
    # Hashing and waiting for a disk let the other threads run.
    with ThreadPoolExecutor(threads) as pool:
        digests = pool.map(lambda i: digests_of(data, i * size, min(rows, (i + 1) * size)), numbers)
        return dict(zip(numbers, digests, strict=True))


def row_digests(data: ClipDataset, block: int) -> list[Digests]:
    """Digests of each row of a block, in their order; none of a block that the dataset doesn't have."""
    size = block_rows(len(data))
    rows = range(block * size, min(len(data), (block + 1) * size))
    return [digests_of(data, row, row + 1) for row in rows]


def digests_of(data: ClipDataset, start: int, stop: int) -> Digests:
    """Digests of a run of rows.

    Args:
        data: The dataset.
        start: The first row.
        stop: The row after the last one.
    """
    prompt, answer, recording = (hashlib.blake2b(digest_size=8) for _ in WHAT)
    recording.update(data.samples[start:stop].astype("<i8").tobytes())
    for ids, labels, begins in _texts(data, start, stop):
        learned = labels != _IGNORED
        # So that an answer of another length is no other prompt.
        prompt.update(_with_gaps(ids, learned, begins))
        answer.update(_with_gaps(labels, ~learned, begins))
    every, row = _every(data), start
    for part, first, last in data.spans(start, stop):
        chosen = [first + i for i in range(last - first) if (row + i) % every == 0]
        for piece in _recordings(part, chosen, whole=every == 1):
            recording.update(piece)
        row += last - first
    return prompt.digest(), answer.digest(), recording.digest()


def place_on_disk(data: ClipDataset) -> str:
    """A digest of where a dataset's files are on this host and when they were changed.

    Processes of a host in which it is the same read the same rows.

    Raises:
        DataError: A folder can't be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    for folder in data.folders:
        try:
            states = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
        except OSError as error:
            raise DataError(f"{folder}: can't be read ({error.strerror or error})") from error
        for name, state in states:
            # The last one can't be carried over to a copy.
            facts = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            digest.update(repr((name, facts)).encode())
    return digest.hexdigest()


def _texts(data: ClipDataset, start: int, stop: int) -> Iterator[tuple[Any, Any, Any]]:
    """Tokens and labels of a run of rows, end to end, some at a time, and the places where rows begin."""
    lengths, row = data.tokens[start:stop], 0
    for part, first, last in data.spans(start, stop):
        if isinstance(part, LegacyFolder):
            pieces: Iterator[tuple[Any, ...]] = (part.ids(number) for number in range(first, last))
        else:
            columns = (part.table.contents(name, first, last) for name in ("input_ids", "labels"))
            pieces = zip(*columns, strict=True)
        for ids, labels in pieces:
            ends = np.cumsum(lengths[row:])
            count = int(np.searchsorted(ends, len(ids))) + 1
            yield ids, labels, ends[:count] - lengths[row : row + count]
            row += count


def _with_gaps(values: Any, left_out: Any, begins: Any) -> bytes:
    """Numbers without those that are left out: one mark stands for each run of them within a row."""
    first = np.ones(len(values), dtype=bool)
    first[1:] = ~left_out[:-1]
    first[begins] = True
    return bytes(np.where(left_out, _IGNORED, values)[~left_out | first].astype("<i4").tobytes())


def _every(data: ClipDataset) -> int:
    """Every which recording goes into the digests; the same for copies of a dataset."""
    rows, samples = len(data), int(data.samples.sum())
    kinds = {part.manifest.storage for part, _, _ in data.spans(0, rows)}
    if "reference" in kinds:
        return -(-rows // _FILES)
    if kinds == {"flac"}:
        return 1  # sixteen bytes of each are read
    return max(1, -(-samples * (4 if "float32" in kinds else 2) // _SAMPLE_BYTES))


def _recordings(part: Any, rows: list[int], whole: bool) -> Iterator[Any]:
    """What stands for the samples of some rows: themselves, or a digest that was made of them."""
    if isinstance(part, LegacyFolder):
        yield from (part.waveform(row) for row in rows)
    elif part.manifest.storage == "pcm16" and whole and rows:
        yield from part.table.contents("audio", rows[0], rows[-1] + 1)
    elif part.manifest.storage == "reference":
        yield from (_of_file(part, row) for row in rows)
    else:
        for row in rows:
            data = memoryview(part.table.binary("audio", row))
            digest = bytes(data[_FLAC_DIGEST])
            yield digest if part.manifest.storage == "flac" and any(digest) else data


def _of_file(part: Any, row: int) -> bytes:
    """Pieces of the recording that a row refers to, its size, and which seconds of it the row has."""
    path = path_of(str(part.table.value("source", row)), part.manifest.base_dir or ".")
    span = repr((part.table.value("start", row), part.table.value("end", row))).encode()
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            found = [span, str(size).encode()]
            for place in (0, size // 2, size - _PIECE):
                stream.seek(max(0, place))
                found.append(stream.read(_PIECE))
    except OSError:
        return span  # a URL, or a file that is gone, which is told when the row is read
    return b"".join(found)


def first_difference(ours: Iterable[Any], theirs: Iterable[Any]) -> int | None:
    """The first place where two sequences differ, or where one of them ends; ``None`` where none does."""
    mine, its = list(ours), list(theirs)
    for place, (one, other) in enumerate(zip(mine, its, strict=False)):
        if one != other:
            return place
    return None if len(mine) == len(its) else min(len(mine), len(its))
