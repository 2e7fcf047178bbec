"""Whether the rows of a converted folder are whole, found out in passes over whole columns.

A folder's sizes are in its manifest, and its places within columns are checked when it is opened; this is
about what they hold. Samples of 16 bits can't be wrong by themselves; those in FLAC carry sums of their own,
which are checked when they are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.dataset.table import Table
from mdl_toolkit.data.prompt.builder import IGNORED
from mdl_toolkit.errors import DataError
from mdl_toolkit.geometry import AudioGeometry

Ints = NDArray[np.int64]
#: The bytes of a FLAC file whose last 36 bits are its number of samples.
_FLAC_LENGTH = slice(18, 26)
#: The number of threads that look for recordings, and the recordings that each looks for at a time.
_THREADS, _QUESTIONS = 16, 64


def damaged_rows(
    table: Table, storage: str, geometry: AudioGeometry, audio_token_id: int
) -> list[tuple[int, str]]:
    """Rows that can't be as they were converted, and why.

    Args:
        table: The rows of the folder.
        storage: ``pcm16``, ``flac`` or ``reference``.
        geometry: The geometry that says how many audio tokens a clip has.
        audio_token_id: The id of an audio placeholder.
    """
    samples = table.numbers("samples")
    lengths, places = np.unique(np.maximum(samples, 1), return_inverse=True)
    expected = np.array([geometry.audio_tokens(int(n)) for n in lengths], dtype=np.int64)[places]
    tokens, labels = table.lengths("input_ids"), table.lengths("labels")
    placeholders = table.counts(lambda ids: ids == audio_token_id, "input_ids")
    supervised = table.counts(lambda values: values != IGNORED, "labels")
    # A label is the token at its place, or marked as ignored.
    strange = table.counts(
        lambda ids, values: (ids < 0) | (values != IGNORED) & (values != ids), "input_ids", "labels"
    )
    said = table.numbers("supervised")
    found: dict[int, str] = {}

    def note(wrong: NDArray[np.bool_], problem: str, *numbers: Sequence[int] | Ints) -> None:
        for row in np.flatnonzero(wrong).tolist():
            found.setdefault(row, problem.format(*(values[row] for values in numbers)))

    note(samples < 1, "its clip has {} samples", samples)
    note(tokens != labels, "{} tokens and {} labels, which must be as many", tokens, labels)
    note(
        placeholders != expected,
        "{} audio placeholders in the text, but its clip of {} samples makes {} audio tokens",
        placeholders, samples, expected,
    )  # fmt: skip
    note(supervised != said, "{} supervised tokens where {} were written", supervised, said)
    note(strange > 0, "{} of its tokens or labels are none", strange)
    if storage == "pcm16":
        stored = table.lengths("audio")
        note(stored != 2 * samples, "{} bytes of audio for {} samples", stored, samples)
    elif storage == "flac":
        kept = np.array([_flac_samples(table.binary("audio", row)) for row in range(len(table))])
        note(kept != samples, "its stored audio has {} samples, {} when it was converted", kept, samples)
    return sorted(found.items())


def missing_recordings(table: Table, base_dir: str | None) -> list[tuple[int, str]]:
    """Rows of a ``reference`` folder whose recordings are not there any more, and what is wrong with each."""
    from mdl_toolkit.data.audio.load import AudioLimits, locate
    from mdl_toolkit.data.audio.path_lookup import path_of

    rows: dict[str, list[int]] = {}
    for row in range(len(table)):
        rows.setdefault(str(table.value("source", row)), []).append(row)
    sources = list(rows)

    def look_for(first: int) -> list[tuple[int, str]]:
        found = []
        for source in sources[first : first + _QUESTIONS]:
            try:
                locate(path_of(source, base_dir or "."), AudioLimits())
            except DataError as error:
                found += [(row, str(error)) for row in rows[source]]
        return found

    # Looking for a file on a network drive is waiting: many threads wait at the same time.
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(look_for, range(0, len(sources), _QUESTIONS))
        return sorted(wrong for part in parts for wrong in part)


def _flac_samples(data: Any) -> int:
    """Samples of a FLAC file, as its first block says; −1 where it is none."""
    head = b"" if data is None else bytes(memoryview(data)[: _FLAC_LENGTH.stop])
    if len(head) < _FLAC_LENGTH.stop or not head.startswith(b"fLaC"):
        return -1
    return int.from_bytes(head[_FLAC_LENGTH], "big") & (1 << 36) - 1
