"""Folders converted by the public 0.1.0: no manifest, waveforms as lists of floats, labels that reach far."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.folder import DatasetManifest, PromptRecord
from mdl_toolkit.data.prompt import IGNORED, PromptBuilder
from mdl_toolkit.data.table import Table
from mdl_toolkit.errors import DataError
from mdl_toolkit.geometry import AudioGeometry

Ints = NDArray[np.int64]
COLUMNS = ("input_ids", "attention_mask", "input_values", "audio_length", "labels")


def is_legacy(folder: Path) -> bool:
    """Whether a folder looks like one that the datasets library saved."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


class LegacyPart:
    """One folder of 0.1.0.

    Attributes:
        corrected: Whether any row's labels had to be corrected.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            names = [str(item["filename"]) for item in state["_data_files"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{folder / 'state.json'}: damaged ({error}): convert the dataset again"
            ) from error
        if any(Path(name).name != name for name in names):
            raise DataError(f"{folder / 'state.json'}: names files outside of its folder")
        self.table = Table([folder / name for name in names])
        missing = [name for name in COLUMNS if name not in self.table.columns]
        if missing:
            raise DataError(
                f"{folder}: not a dataset of clips (no column {', '.join(missing)}): run mdl-toolkit "
                "convert-dataset"
            )
        if not len(self.table):
            raise DataError(f"{folder}: no rows in it")
        self.corrected = False
        #: Tokens of ``<|im_start|>assistant`` and the newline after it, the same in every row.
        self._header: list[int] = []
        rows = range(len(self.table))
        self.samples: Ints = np.array([self._samples(row) for row in rows], dtype=np.int64)
        counts = [(len(ids), np.count_nonzero(labels != IGNORED)) for ids, labels in map(self.ids, rows)]
        self.tokens: Ints = np.array([count[0] for count in counts], dtype=np.int64)
        self.supervised: Ints = np.array([count[1] for count in counts], dtype=np.int64)
        self.manifest = self._manifest()

    def __len__(self) -> int:
        return len(self.table)

    def name(self, row: int) -> str:
        """0.1.0 kept no names: the folder and the row, from 1."""
        return f"{self.folder.name} row {row + 1}"

    def ids(self, row: int) -> tuple[Ints, Ints]:
        """Token ids without padding, and labels after the rule."""
        ids, labels, mask = (
            self.table.list_values(name, row).astype(np.int64)
            for name in ("input_ids", "labels", "attention_mask")
        )
        if not len(ids) == len(labels) == len(mask):
            raise DataError(
                f"{self.name(row)}: {len(ids)} tokens, {len(labels)} labels and {len(mask)} mask values, "
                "which must be as many: convert the dataset again"
            )
        ids, labels = ids[mask != 0], labels[mask != 0]
        answer = _answer(ids)
        header = ids[answer.header : answer.start].tolist() if answer else []
        self._header = self._header or header
        if answer is None or header != self._header:
            raise DataError(
                f"{self.name(row)}: its text is not of the form that 0.1.0 wrote (turns that end alike, the "
                "answer's last): convert the dataset again"
            )
        fixed = np.full(len(ids), IGNORED, dtype=np.int64)
        fixed[answer.start : answer.stop] = ids[answer.start : answer.stop]
        self.corrected = self.corrected or not np.array_equal(fixed, labels)
        return ids, fixed

    def waveform(self, row: int) -> NDArray[np.float32]:
        """Samples without padding."""
        values = self.table.list_values("input_values", row).astype(np.float32)
        count = self._samples(row)
        if values.ndim != 1 or len(values) < count or not np.isfinite(values[:count]).all():
            raise DataError(
                f"{self.name(row)}: {values.size} stored samples for a clip of {count}, or some that are not "
                "finite: convert the dataset again"
            )
        return values[:count]

    def check_model(self, builder: PromptBuilder) -> None:
        """Refuse a model that asks for answers, or ends them, with other tokens, or has others for clips."""
        ids, labels = self.ids(0)
        end = int(labels[labels != IGNORED][-1])
        asked = builder.encode(None, None, 1, None).input_ids[-len(self._header) :].tolist()
        ours, theirs = (asked, builder.end_id), (self._header, end)
        audio = int(np.count_nonzero(ids == builder.audio_token_id))
        expected = builder.geometry.audio_tokens(int(self.samples[0]))
        if ours != theirs or audio != expected:
            raise DataError(
                f"{self.folder}: converted for another model than {builder.folder} (tokens around the answer "
                f"{theirs} and {ours}, audio placeholders of the first row {audio} and {expected}): convert "
                "it again"
            )

    def _samples(self, row: int) -> int:
        length = self.table.value("audio_length", row)
        length = length[0] if isinstance(length, list) and len(length) == 1 else length
        if not isinstance(length, int) or length < 1:
            raise DataError(f"{self.name(row)}: audio_length is {length!r}: convert the dataset again")
        return length

    def _manifest(self) -> DatasetManifest:
        geometry = AudioGeometry()
        digest = zlib.crc32(self.tokens.tobytes() + self.samples.tobytes() + self.supervised.tobytes())
        fingerprint = f"legacy-{len(self)}-{digest:08x}"
        return DatasetManifest(
            fingerprint=fingerprint,
            group=fingerprint,
            processing_fingerprint="legacy",
            source={"name": self.folder.name},
            prompts=PromptRecord(complete=False),
            geometry=dict(vars(geometry)),
            audio_token_id=self._audio_token_id(geometry),
            storage="float32",
            rows=len(self),
            seconds=float(self.samples.sum()) / geometry.sample_rate,
            tokens=int(self.tokens.sum()),
            supervised=int(self.supervised.sum()),
            files={},
        )

    def _audio_token_id(self, geometry: AudioGeometry) -> int:
        """The token that every row has as often as its clip has audio tokens.

        Candidates come from the longest clip; as many other rows as it takes decide between them.
        """
        longest = int(self.samples.argmax())
        wanted = geometry.audio_tokens(int(self.samples[longest]))
        ids, counts = np.unique(self.ids(longest)[0], return_counts=True)
        found = ids[counts == wanted]
        for row in range(len(self)):
            if len(found) <= 1:
                break
            expected = geometry.audio_tokens(int(self.samples[row]))
            there = self.ids(row)[0]
            found = np.array([i for i in found if np.count_nonzero(there == i) == expected])
        if len(found) != 1:
            raise DataError(
                f"{self.name(longest)}: no one token stands {wanted} times in its text, as placeholders "
                f"of a clip of {int(self.samples[longest])} samples must: convert the dataset again"
            )
        return int(found[0])


class _Answer(NamedTuple):
    """Places in a row's text: the answer's header, the answer, and after the token that ends it."""

    header: int
    start: int
    stop: int


def _answer(ids: Ints) -> _Answer | None:
    r"""Where the answer is, by the turns' own structure.

    A text is ``S role N … E N S role N … E N S role N answer E N``: every turn begins with S
    (``<|im_start|>``), its header ends with the first N (a newline), and it ends with E (``<|im_end|>``) and
    N. S is the first token, and E and N stand before the last S.
    """
    starts = np.flatnonzero(ids == ids[0]) if len(ids) else np.zeros(0, dtype=np.int64)
    if len(starts) < 2 or starts[-1] < 3:
        return None
    begin = int(starts[-1])
    end_of_turn, newline = int(ids[begin - 2]), int(ids[begin - 1])
    newlines = np.flatnonzero(ids[begin:] == newline)
    if not len(newlines):
        return None
    start = begin + int(newlines[0]) + 1
    ends = np.flatnonzero(ids[start:] == end_of_turn)
    return _Answer(begin, start, start + int(ends[0]) + 1) if len(ends) else None
