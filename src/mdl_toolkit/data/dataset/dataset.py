"""Converted folders as one dataset of examples, memory-mapped; folders of the public 0.1.0 too."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.audio.pcm16 import from_pcm16
from mdl_toolkit.data.dataset import legacy
from mdl_toolkit.data.dataset.manifest import MANIFEST_NAME, DatasetManifest, arrow_types
from mdl_toolkit.data.dataset.rowcheck import damaged_rows, missing_recordings
from mdl_toolkit.data.dataset.table import Table
from mdl_toolkit.data.input.badrows import damage
from mdl_toolkit.data.input.kinds import check_dataset
from mdl_toolkit.data.prompt.builder import IGNORED, PromptBuilder, processing_fingerprint, vocabulary
from mdl_toolkit.data.prompt.record import PromptRecord
from mdl_toolkit.errors import DataError, printable
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """A row, ready to be collated.

    Attributes:
        input_ids: int64 [T].
        labels: int64 [T]; −100 where nothing is learned.
        waveform: float32 [L] in [-1, 1], at the model's rate.
        index: Its place in the dataset.
        row: Its name for people: ``train.csv row 17 (clips/a.wav)``.
    """

    input_ids: Ints
    labels: Ints
    waveform: NDArray[np.float32]
    index: int
    row: str


@dataclass(frozen=True)
class RowOrigin:
    """Where a row came from.

    Attributes:
        audio: Its recording, as the table named it; empty where that isn't known.
        file: The name of the table.
        line: The row's number in the table.
        start: Where in the recording its clip begins, in seconds; ``None``: all of it.
        end: Where it ends.
    """

    audio: str
    file: str
    line: int
    start: float | None = None
    end: float | None = None


class _ConvertedFolder:
    """A folder that this version has converted."""

    def __init__(self, folder: Path, check: bool = True) -> None:
        self.folder = folder
        self.manifest = DatasetManifest.read(folder)
        self.table = Table([folder / name for name in self.manifest.files], sizes=self.manifest.files)
        for name, kind in arrow_types().items():
            if self.table.types.get(name) != kind:
                there = self.table.types.get(name, "missing")
                raise DataError(
                    f"{folder}: damaged, its column {name} is {there[:40]}, not {kind}: convert the dataset "
                    "again"
                )
        if len(self.table) != self.manifest.rows:
            raise DataError(
                f"{folder}: damaged, {len(self.table)} rows where its manifest has {self.manifest.rows}: "
                "convert the dataset again"
            )
        self.tokens = self.table.lengths("input_ids")
        self.samples = self.table.numbers("samples")
        self.supervised = self.table.numbers("supervised")
        if check:
            self._check_rows()

    def _check_rows(self) -> None:
        manifest = self.manifest
        geometry = AudioGeometry(**manifest.geometry)
        found = damaged_rows(self.table, manifest.storage, geometry, manifest.audio_token_id)
        advice = "convert the dataset again"
        # All processes of a machine see the same recordings: one of them checks that they are there.
        if not found and manifest.storage == "reference" and os.environ.get("LOCAL_RANK", "0") == "0":
            found = missing_recordings(self.table, manifest.base_dir)
            advice = "put the recordings back, or convert the dataset again"
        if found:
            rows = [(self.name(row), problem) for row, problem in found]
            raise DataError(damage(self.folder, len(self), rows, advice))

    def rows_beyond(self, vocabulary: int) -> list[int]:
        """The rows with tokens beyond a vocabulary of this size."""
        return list(map(int, np.flatnonzero(self.table.counts(lambda ids: ids >= vocabulary, "input_ids"))))

    def __len__(self) -> int:
        return len(self.table)

    def name(self, row: int) -> str:
        source = printable(self.table.value("source", row))
        return f"{self.manifest.source.get('name', 'row')} row {self.table.value('line', row)} ({source})"

    def origin(self, row: int) -> RowOrigin:
        value = self.table.value
        name = self.manifest.source.get("name", "")
        return RowOrigin(
            value("source", row), name, value("line", row), value("start", row), value("end", row)
        )

    def ids(self, row: int) -> tuple[Ints, Ints]:
        return (
            self.table.list_values("input_ids", row).astype(np.int64),
            self.table.list_values("labels", row).astype(np.int64),
        )

    def waveform(self, row: int) -> NDArray[np.float32]:
        if self.manifest.storage == "pcm16":
            return from_pcm16(self.table.binary("audio", row))
        if self.manifest.storage == "flac":
            import soundfile

            try:
                sound = soundfile.read(io.BytesIO(self.table.binary("audio", row)), dtype="float32")[0]
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise DataError(f"{self.name(row)}: stored audio is damaged: convert again") from error
            return np.asarray(sound, dtype=np.float32)
        return self._referenced(row)

    def _referenced(self, row: int) -> NDArray[np.float32]:
        from mdl_toolkit.data.audio.load import AudioLimits, load_waveform
        from mdl_toolkit.data.audio.path_lookup import path_of

        source = path_of(str(self.table.value("source", row)), self.manifest.base_dir or ".")
        limits = AudioLimits(max_seconds=float("inf"))
        start, end = self.table.value("start", row), self.table.value("end", row)
        rate = self.manifest.geometry["sample_rate"]
        try:
            return load_waveform(source, start=start, end=end, limits=limits, sample_rate=rate)
        except DataError as error:
            raise DataError(f"{self.name(row)}: {error}") from error


class ClipDataset:
    """Rows of one or several folders. Made by :meth:`open`.

    Attributes:
        manifest: The manifest of all folders together.
        fingerprint: The same for the same rows converted the same way, in one folder or in shards.
        tokens: The number of decoder tokens of each row, int64 [rows].
        supervised: The number of supervised tokens of each row, int64 [rows].
        samples: The number of samples of each clip, int64 [rows].
    """

    def __init__(self, parts: Sequence[_ConvertedFolder | legacy.LegacyFolder]) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.manifest = _joined(parts)
        self.fingerprint = self.manifest.fingerprint
        self.tokens: Ints = np.concatenate([part.tokens for part in parts])
        self.supervised: Ints = np.concatenate([part.supervised for part in parts])
        self.samples: Ints = np.concatenate([part.samples for part in parts])
        self.geometry = AudioGeometry(**self.manifest.geometry)

    @classmethod
    def open(cls, paths: Sequence[Path], *, all_shards: bool = True, check: bool = True) -> ClipDataset:
        """Open folders as one dataset.

        Args:
            paths: Folders of ours (shards of one conversion come in their order, whatever the order here) or
                of the public 0.1.0.
            all_shards: Whether all shards of a conversion must be there.
            check: Whether all rows are checked for damage; False in a process whose parent has done so.

        Raises:
            DataError: A folder is no dataset, damaged or incomplete, or the folders don't go together.
        """
        if isinstance(paths, (str, Path)):
            paths = [Path(paths)]
        if not paths:
            raise DataError("no dataset folder named")
        return cls(_in_order([_open_folder(Path(path), check) for path in paths], all_shards))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        part, row = self._locate(index)
        ids, labels = part.ids(row)
        waveform = part.waveform(row)
        self._check(part, row, ids, waveform)
        return Example(ids, labels, waveform, index, part.name(row))

    def row_name(self, index: int) -> str:
        """A row's name for people: ``train.csv row 17 (clips/a.wav)``."""
        part, row = self._locate(index)
        return part.name(row)

    def origin(self, index: int) -> RowOrigin:
        """Where a row came from; 0.1.0 kept no more than its number in the folder."""
        part, row = self._locate(index)
        if isinstance(part, legacy.LegacyFolder):
            return RowOrigin("", part.folder.name, row + 1)
        return part.origin(row)

    def answer_ids(self, index: int) -> Ints:
        """The supervised tokens of a row, which are read without its clip."""
        part, row = self._locate(index)
        ids, labels = part.ids(row)
        return np.asarray(ids[labels != IGNORED], dtype=np.int64)

    @property
    def folders(self) -> list[Path]:
        """The folders, in the order of their rows."""
        return [part.folder for part in self._parts]

    def spans(
        self, start: int, stop: int
    ) -> Iterator[tuple[_ConvertedFolder | legacy.LegacyFolder, int, int]]:
        """The folders that hold a run of rows: each, its first row of them, and the one after the last."""
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            first, last = max(start - end + len(part), 0), min(stop - end + len(part), len(part))
            if first < last:
                yield part, first, last

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": [part.folder for part in self._parts]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__([_open_folder(path, check=False) for path in state["paths"]])  # type: ignore[misc]

    def check_model(self, model_folder: Path) -> None:
        """Refuse a model that reads text or audio in another way than the one the rows were converted for.

        Warns once where labels of 0.1.0 had to be corrected.

        Raises:
            DataError: The model is another one; the message says what to do.
        """
        builder: PromptBuilder | None = None
        if any(isinstance(part, legacy.LegacyFolder) and part.corrected for part in self._parts):
            logger.warning(
                "labels of folders converted by 0.1.0 took in the answer's header and what follows its end; "
                "they are corrected here: the answer and its <|im_end|> alone are learned"
            )
        tokens = vocabulary(model_folder)
        found = ""
        for part in self._parts:
            if isinstance(part, legacy.LegacyFolder):
                builder = builder or PromptBuilder(model_folder)
                part.check_model(builder)
            elif part.manifest.processing_fingerprint != (
                found := found or processing_fingerprint(model_folder)
            ):
                raise DataError(
                    f"{part.folder}: converted for another tokenizer, chat template or front end than that "
                    f"of {model_folder} (fingerprints {part.manifest.processing_fingerprint[:8]} and "
                    f"{found[:8]}): convert it again with --model-name naming this model"
                )
            if tokens is not None and (rows := part.rows_beyond(tokens)):
                problem = f"it has tokens beyond the {tokens} of {model_folder}"
                raise DataError(damage(part.folder, len(part), [(part.name(row), problem) for row in rows]))

    def _locate(self, index: int) -> tuple[_ConvertedFolder | legacy.LegacyFolder, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[number], index - int(self._ends[number - 1] if number else 0)

    def _check(self, part: Any, row: int, ids: Ints, waveform: NDArray[np.float32]) -> None:
        if len(waveform) != part.samples[row]:
            raise DataError(
                f"{part.name(row)}: its clip has {len(waveform)} samples, {part.samples[row]} when it was "
                "converted: convert the dataset again"
            )
        audio_token_id = part.manifest.audio_token_id
        found = int(np.count_nonzero(ids == audio_token_id))
        expected = self.geometry.audio_tokens(len(waveform))
        if found != expected:
            raise DataError(
                f"{part.name(row)}: {found} audio placeholders in the text, but its clip of {len(waveform)} "
                f"samples makes {expected} audio tokens: convert the dataset again"
            )


def _open_folder(path: Path, check: bool) -> _ConvertedFolder | legacy.LegacyFolder:
    check_dataset(path)
    return (
        _ConvertedFolder(path, check)
        if (path / MANIFEST_NAME).is_file()
        else legacy.LegacyFolder(path, check)
    )


def _in_order(parts: list[Any], all_shards: bool) -> list[Any]:
    """Shards of one conversion together and in order; all of them must be there, once."""
    groups: dict[str, list[Any]] = {}
    for number, part in enumerate(parts):
        key = part.manifest.group if part.manifest.shard else f"whole {number}"
        groups.setdefault(key, []).append(part)
    for group in groups.values():
        if group[0].manifest.shard and all_shards:
            _check_shards(group[0].folder, [part.manifest.shard for part in group])
        group.sort(key=lambda part: part.manifest.shard or (0, 0))
    return [part for group in groups.values() for part in group]


def _check_shards(folder: Path, shards: Sequence[tuple[int, int]]) -> None:
    count = shards[0][1]
    found = [i for i, _ in shards]
    for what, wrong in (
        ("without shard", [i for i in range(1, count + 1) if i not in found]),
        ("given twice: shard", sorted({i for i in found if found.count(i) > 1})),
    ):
        if wrong:
            listed = ", ".join(f"{i}/{count}" for i in wrong[:8])
            raise DataError(f"{folder}: {what} {listed}; name the folders of all {count} shards, each once")


def _joined(parts: Sequence[_ConvertedFolder | legacy.LegacyFolder]) -> DatasetManifest:
    """One manifest for all parts, which must have been made for the same model."""
    manifests = [part.manifest for part in parts]
    first = manifests[0]
    for part in parts[1:]:
        other = part.manifest
        same = (other.processing_fingerprint, other.audio_token_id, dict(other.geometry))
        if same != (first.processing_fingerprint, first.audio_token_id, dict(first.geometry)):
            raise DataError(
                f"{part.folder}: converted for another model than {parts[0].folder}; convert both with the "
                "same --model-name"
            )
    if len(manifests) == 1:
        return first
    groups = list(dict.fromkeys(m.group if m.shard else m.fingerprint for m in manifests))
    joined = groups[0] if len(groups) == 1 else hashlib.sha256("\n".join(groups).encode()).hexdigest()[:32]
    names = list(dict.fromkeys(m.source.get("name", "") for m in manifests))
    return replace(
        first,
        fingerprint=joined,
        group=joined,
        source={
            "name": ", ".join(names),
            "sha256": first.source.get("sha256", "") if len(names) == 1 else "",
        },
        prompts=PromptRecord.joined([m.prompts for m in manifests]),
        shard=None,
        rows=sum(m.rows for m in manifests),
        skipped=sum(m.skipped for m in manifests),
        seconds=sum(m.seconds for m in manifests),
        tokens=sum(m.tokens for m in manifests),
        supervised=sum(m.supervised for m in manifests),
        files={},
    )
