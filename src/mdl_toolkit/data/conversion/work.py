"""The conversion itself: reads the rows, fills the dataset folder and lists bad rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mdl_toolkit.data.audio.load import clip_seconds
from mdl_toolkit.data.conversion.pool import WorkerPool
from mdl_toolkit.data.conversion.request import Request, Survey
from mdl_toolkit.data.conversion.rows import PendingRow, RowLoader, RowSource
from mdl_toolkit.data.conversion.worker import LoadedClip
from mdl_toolkit.data.conversion.writer import FolderWriter
from mdl_toolkit.data.dataset.manifest import DatasetManifest, versions_of
from mdl_toolkit.data.input.badrows import BadRows
from mdl_toolkit.data.input.noticed import SILENT, NoticedRows
from mdl_toolkit.data.input.records import Row
from mdl_toolkit.data.prompt.builder import Encoded, PromptBuilder
from mdl_toolkit.data.prompt.record import MAX_SEEN, PromptRecord, most_frequent
from mdl_toolkit.errors import DataError
from mdl_toolkit.files import atomic_folder, free_bytes
from mdl_toolkit.settings.options import flag
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import Progress, duration

logger = get_logger(__name__)

_COUNTED_PROMPTS = 1000
#: Kinds of lists of bad rows, written beside the output.
_LISTS = ("quarantine", "errors")
_PACKAGES = ("numpy", "soundfile", "soxr", "tokenizers", "pyarrow")


class Conversion:
    """The conversion of one table to one folder.

    Args:
        request: What is converted, and how.
        output: The folder that is made.
        pool: The workers; more are started as the options and the number of rows ask for.
    """

    def __init__(self, request: Request, output: Path, pool: WorkerPool) -> None:
        self._request, self._output, self._pool = request, output, pool
        self._builder = PromptBuilder(request.model_folder)
        self._survey = Survey.of(request)
        self._part = self._survey.part(request.shard, request.sample)
        self._rows = RowLoader(
            RowSource(request.input, request.options, self._survey.layout, request.name),
            self._part,
            self._builder,
            request.order,
        )
        self._prompts: Counter[tuple[str | None, str | None]] = Counter()
        self._every_prompt = True
        self._clipped, self._silent = NoticedRows(), NoticedRows()
        self._began = time.monotonic()

    def run(self, note: Callable[[int, int], None]) -> None:
        """Convert all rows, and write the folder.

        Args:
            note: Called after each row with the number of rows that are done and the number of all.

        Raises:
            DataError: Rows are bad and ``--on-error`` is ``fail``, or no row is good.
        """
        if not len(self._part):
            raise DataError(
                f"{self._request.input}: fewer rows than shards; shard {self._request.shard} has none"
            )
        for what in ("system_prompt", "user_prompt"):
            if text := getattr(self._request.options, what):
                self._builder.check_text(flag(what), text)
        self._announce()
        skip = self._request.options.on_error == "skip"
        beside = {kind: self._output.with_name(f"{self._output.name}.{kind}.csv") for kind in _LISTS}
        unusable: _UnusableError | None = None
        layout = self._survey.layout
        with BadRows(beside["quarantine" if skip else "errors"], layout.columns, layout.separator) as bad:
            try:
                with atomic_folder(self._output) as folder:
                    manifest = self._fill(folder, bad, note, skip)
            except _UnusableError as error:
                unusable = error  # raised below: the list of bad rows must stay though the folder must not
        for path in beside.values():
            if not bad.count or path != bad.path:
                path.unlink(missing_ok=True)
        if unusable is not None:
            raise DataError(str(unusable))
        self._say_result(manifest, bad)

    def _fill(
        self, folder: Path, bad: BadRows, note: Callable[[int, int], None], skip: bool
    ) -> DatasetManifest:
        writer = FolderWriter(folder)
        total, name = len(self._part), self._request.input.name
        progress = Progress("converting", total)
        try:
            for done, (pending, result) in enumerate(self._rows.read(self._pool), start=1):
                encoded = self._rows.encode(pending, result)
                if pending.problem is not None:
                    bad.add(pending.record.number, pending.problem, pending.record.cells)
                elif encoded is not None and result is not None and (skip or not bad.count):
                    self._write(writer, pending, encoded, result)
                progress.update()
                note(done, total)
            files = writer.finish()
        finally:
            writer.abandon()
            progress.clear()
        if bad.count and not skip:
            raise _UnusableError(
                bad.summary(total, name, "mend them, or leave them out with --on-error skip")
            )
        if not writer.rows:
            raise _UnusableError(bad.summary(total, name, "nothing is left to train on"))
        manifest = self._manifest(writer, files, bad.count)
        writer.write_manifest(manifest)
        return manifest

    def _say_result(self, manifest: DatasetManifest, bad: BadRows) -> None:
        size = sum(manifest.files.values()) / 1e6
        logger.info(
            f"{manifest.rows} rows, {duration(manifest.seconds)} of audio, {manifest.tokens} tokens, "
            f"{size:.1f} MB in {duration(time.monotonic() - self._began)}: {self._output}"
        )
        if bad.count:
            logger.warning(bad.summary(len(self._part), self._request.input.name, "the rest is converted"))
        if self._clipped.count:
            logger.warning(
                f"{self._clipped.clips} had samples beyond full scale, which were clipped: "
                f"{self._clipped.names}"
            )
        if self._silent.count:
            logger.warning(
                f"{self._silent.clips} {SILENT}: {self._silent.names}; take such rows out where that is "
                "not meant"
            )

    def _write(self, writer: FolderWriter, pending: PendingRow, encoded: Encoded, result: LoadedClip) -> None:
        row = pending.record
        assert isinstance(row, Row)
        writer.add(
            encoded,
            None if self._request.options.audio_storage == "reference" else result.audio,
            samples=result.samples,
            line=row.number,
            source=row.audio,
            start=row.start,
            end=row.end,
        )
        if result.clipped:
            self._clipped.add(self._request.name(row))
        if result.silent:
            self._silent.add(self._request.name(row))
        prompts = self._rows.prompts_of(row)
        if prompts in self._prompts or len(self._prompts) < _COUNTED_PROMPTS:
            self._prompts[prompts] += 1
        else:
            self._every_prompt = False

    def _announce(self) -> None:
        """Say how much will be converted, and how large it will be."""
        rows = len(self._part)
        text = f"{self._request.input}: {rows} rows"
        seconds = sorted(s for s in map(self._seconds_of, self._survey.sample) if s is not None)
        if seconds:
            expected = rows * sum(seconds) / len(seconds)
            rate = self._builder.geometry.sample_rate
            size = {"pcm16": 2.0, "flac": 1.3, "reference": 0.0}[self._request.options.audio_storage]
            needed = expected * rate * size + rows * 800
            text += f", about {duration(expected)} of audio; about {needed / 1e6:.1f} MB at {self._output}"
            free = free_bytes(self._output)
            if free is not None and needed > free:
                logger.warning(
                    f"{self._output}: about {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
                )
        logger.info(text)

    def _seconds_of(self, row: Row) -> float | None:
        seconds = clip_seconds(row.audio, start=row.start, end=row.end, limits=self._request.limits)
        return seconds if seconds and seconds <= self._request.options.max_audio_seconds else None

    def _manifest(self, writer: FolderWriter, files: dict[str, int], skipped: int) -> DatasetManifest:
        request, geometry = self._request, self._builder.geometry
        return DatasetManifest(
            fingerprint=request.fingerprint,
            group=request.group,
            processing_fingerprint=request.processing,
            source={"name": request.input.name, "sha256": request.sha256},
            model=request.model,
            prompts=PromptRecord(
                order=request.order,
                system_prompt=request.options.system_prompt,
                user_prompt=request.options.user_prompt,
                seen=most_frequent(self._prompts),
                complete=self._every_prompt and len(self._prompts) <= MAX_SEEN,
            ),
            geometry=dict(vars(geometry)),
            audio_token_id=self._builder.audio_token_id,
            storage=request.options.audio_storage,
            base_dir=request.root if request.options.audio_storage == "reference" else None,
            shard=request.shard,
            rows=writer.rows,
            skipped=skipped,
            seconds=writer.samples / geometry.sample_rate,
            tokens=writer.tokens,
            supervised=writer.supervised,
            files=files,
            options=request.recorded,
            versions=versions_of(_PACKAGES),
        )


class _UnusableError(Exception):
    """Too many rows are bad for a dataset to be made."""
