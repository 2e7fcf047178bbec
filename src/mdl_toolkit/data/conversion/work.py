"""The conversion itself: reads the rows, fills the dataset folder and lists bad rows."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.data.audio.load import clip_seconds
from mdl_toolkit.data.audio.urls import is_url
from mdl_toolkit.data.conversion.pool import WorkerPool
from mdl_toolkit.data.conversion.request import Request, Survey
from mdl_toolkit.data.conversion.worker import ClipJob, LoadedClip, LoadOptions
from mdl_toolkit.data.conversion.writer import FolderWriter
from mdl_toolkit.data.dataset.manifest import DatasetManifest, versions_of
from mdl_toolkit.data.input.badrows import BadRows
from mdl_toolkit.data.input.noticed import SILENT, NoticedRows
from mdl_toolkit.data.input.records import BadRow, Row, read_records
from mdl_toolkit.data.prompt.builder import Encoded, PromptBuilder, RowTokens
from mdl_toolkit.data.prompt.record import MAX_SEEN, PromptRecord, most_frequent
from mdl_toolkit.errors import DataError
from mdl_toolkit.files import atomic_folder, free_bytes
from mdl_toolkit.settings.options import flag
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import Progress, duration

logger = get_logger(__name__)

#: The largest number of rows of a chunk, whose results are in memory together.
_MAX_CHUNK = 256
_COUNTED_PROMPTS = 1000
#: Kinds of lists of bad rows, written beside the output.
_LISTS = ("quarantine", "errors")
_PACKAGES = ("numpy", "soundfile", "soxr", "tokenizers", "pyarrow")


@dataclass
class _Pending:
    """A row whose clip is being loaded: its tokens so far, or what is wrong with it."""

    record: Row | BadRow
    tokens: RowTokens | None = None
    problem: str | None = None


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
        self._part = self._survey.part(request.shard)
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
            for done, (pending, result) in enumerate(self._loaded(), start=1):
                encoded = self._encode(pending, result)
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

    def _loaded(self) -> Iterator[tuple[_Pending, LoadedClip | None]]:
        """All rows in order, each with its loaded clip; ``None`` for a row that is bad without it."""
        request = self._request
        waiting: deque[list[_Pending]] = deque()
        sources: dict[int, str] = {}

        def chunks() -> Iterator[list[ClipJob]]:
            for group in self._groups():
                jobs = [
                    ClipJob(p.record.number, p.record.audio, p.record.start, p.record.end)
                    for p in group
                    if isinstance(p.record, Row) and p.problem is None
                ]
                sources.update((job.number, job.source) for job in jobs)
                waiting.append(group)
                yield jobs

        task = LoadOptions(request.limits, self._builder.geometry.sample_rate, request.options.audio_storage)
        self._pool.grow(min(request.options.num_workers, -(-len(self._part) // self._chunk)))
        for results in self._pool.run(chunks(), task, lambda n: request.name(n, sources.get(n, ""))):
            loaded = iter(results)
            for pending in waiting.popleft():
                sources.pop(pending.record.number, None)
                yield pending, (next(loaded) if pending.problem is None else None)

    @property
    def _chunk(self) -> int:
        return min(self._request.options.tokenizing_batch_size, _MAX_CHUNK)

    def _groups(self) -> Iterator[list[_Pending]]:
        group: list[_Pending] = []
        path, encoding = self._request.input, self._request.options.encoding
        for place, record in enumerate(read_records(path, encoding, self._survey.layout)):
            if place not in self._part:
                continue
            group.append(self._prepare(record))
            if len(group) >= self._chunk:
                yield group
                group = []
        if group:
            yield group

    def _prepare(self, record: Row | BadRow) -> _Pending:
        if isinstance(record, BadRow):
            return _Pending(record, problem=record.problem)
        if record.prediction is None:
            return _Pending(record, problem="no prediction: the cell is empty, or null without quotes")
        if self._request.options.audio_storage == "reference" and is_url(record.audio):
            return _Pending(
                record, problem="a URL can't be kept by reference; use --audio-storage pcm16 or flac"
            )
        try:
            system, user = self._prompts_of(record)
            return _Pending(
                record, self._builder.prepare(system, user, record.prediction, self._request.order)
            )
        except DataError as error:
            return _Pending(record, problem=str(error))

    def _prompts_of(self, row: Row) -> tuple[str | None, str | None]:
        o = self._request.options
        return row.system_prompt or o.system_prompt or None, row.user_prompt or o.user_prompt or None

    def _encode(self, pending: _Pending, result: LoadedClip | None) -> Encoded | None:
        """The row's tokens, now that its clip's length is known; ``None`` where it has a problem."""
        if pending.problem is None and result is not None:
            pending.problem = result.problem
        if pending.problem is not None:
            return None
        tokens = pending.tokens
        assert tokens is not None and result is not None
        placeholders = self._builder.geometry.audio_tokens(result.samples)
        length, most = tokens.length(placeholders), self._builder.max_tokens
        if most is not None and length > most:
            pending.problem = f"{length} tokens, {placeholders} of them audio; the model has {most} positions"
            return None
        try:
            return tokens.with_audio(placeholders)
        except DataError as error:
            pending.problem = str(error)
            return None

    def _write(self, writer: FolderWriter, pending: _Pending, encoded: Encoded, result: LoadedClip) -> None:
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
        prompts = self._prompts_of(row)
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
