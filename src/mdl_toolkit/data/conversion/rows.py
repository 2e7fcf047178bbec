"""A table's rows with their clips, and what is wrong with each: the one place where rows are refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.data.audio.load import AudioLimits
from mdl_toolkit.data.audio.urls import is_url
from mdl_toolkit.data.conversion.pool import WorkerPool
from mdl_toolkit.data.conversion.worker import ClipJob, LoadedClip, LoadOptions
from mdl_toolkit.data.input.records import BadRow, Row, TableLayout, read_records
from mdl_toolkit.data.prompt.builder import Encoded, PromptBuilder, RowTokens
from mdl_toolkit.errors import DataError
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.settings import ConvertOptions

#: The largest number of rows of a chunk, whose results are in memory together.
_MAX_CHUNK = 256


@dataclass
class PendingRow:
    """A row whose clip is being loaded: its tokens so far, or what is wrong with it."""

    record: Row | BadRow
    tokens: RowTokens | None = None
    problem: str | None = None


@dataclass(frozen=True)
class RowSource:
    """Where rows come from.

    Attributes:
        path: The table.
        options: How it is read.
        layout: How it is written.
        name: Gives a row's name for messages, by its number and its audio cell.
    """

    path: Path
    options: ConvertOptions
    layout: TableLayout
    name: Callable[[int, str], str]


class RowLoader:
    """Reads rows with their clips.

    Args:
        source: The table.
        part: Which of its rows are read, counted from 0.
        builder: Makes tokens of texts; ``None`` where there is no model: texts and lengths aren't checked
            against it then.
        order: The order of clip and text in the user's turn.
        work: What is done with a clip in place of loading it to be stored; see :class:`LoadOptions`.
    """

    def __init__(
        self,
        source: RowSource,
        part: Collection[int],
        builder: PromptBuilder | None,
        order: str,
        work: Callable[[ClipJob], LoadedClip] | None = None,
    ) -> None:
        self._source, self._part, self._builder, self._order = source, part, builder, order
        self.geometry = builder.geometry if builder is not None else AudioGeometry()
        limits, storage = AudioLimits.of(source.options), source.options.audio_storage
        self._task = LoadOptions(limits, self.geometry.sample_rate, storage, work)

    def read(self, pool: WorkerPool) -> Iterator[tuple[PendingRow, LoadedClip | None]]:
        """All rows in order, each with its loaded clip; ``None`` for a row that is bad without it.

        Args:
            pool: The workers; more are started as the options and the number of rows ask for.
        """
        waiting: deque[list[PendingRow]] = deque()
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

        pool.grow(min(self._source.options.num_workers, -(-len(self._part) // self._chunk)))
        for results in pool.run(chunks(), self._task, lambda n: self._source.name(n, sources.get(n, ""))):
            loaded = iter(results)
            for pending in waiting.popleft():
                sources.pop(pending.record.number, None)
                yield pending, (next(loaded) if pending.problem is None else None)

    def encode(self, pending: PendingRow, result: LoadedClip | None) -> Encoded | None:
        """The row's tokens, now that its clip's length is known; ``None`` where it has a problem."""
        if pending.problem is None and result is not None:
            pending.problem = result.problem
        if pending.problem is not None or self._builder is None:
            return None
        tokens = pending.tokens
        assert tokens is not None and result is not None
        placeholders = self.geometry.audio_tokens(result.samples)
        length, most = tokens.length(placeholders), self._builder.max_tokens
        if most is not None and length > most:
            pending.problem = f"{length} tokens, {placeholders} of them audio; the model has {most} positions"
            return None
        try:
            return tokens.with_audio(placeholders)
        except DataError as error:
            pending.problem = str(error)
            return None

    def prompts_of(self, row: Row) -> tuple[str | None, str | None]:
        """The system and the user prompt of a row: its own, or that of the options."""
        o = self._source.options
        return row.system_prompt or o.system_prompt or None, row.user_prompt or o.user_prompt or None

    @property
    def _chunk(self) -> int:
        return min(self._source.options.tokenizing_batch_size, _MAX_CHUNK)

    def _groups(self) -> Iterator[list[PendingRow]]:
        group: list[PendingRow] = []
        source = self._source
        for place, record in enumerate(read_records(source.path, source.options.encoding, source.layout)):
            if place not in self._part:
                continue
            group.append(self._prepare(record))
            if len(group) >= self._chunk:
                yield group
                group = []
        if group:
            yield group

    def _prepare(self, record: Row | BadRow) -> PendingRow:
        if isinstance(record, BadRow):
            return PendingRow(record, problem=record.problem)
        # A table without answers is refused as a whole where it is to train on; see check_table.
        if record.prediction is None and "prediction" in self._source.layout.columns:
            return PendingRow(record, problem="no prediction: the cell is empty, or null without quotes")
        if self._source.options.audio_storage == "reference" and is_url(record.audio):
            return PendingRow(
                record, problem="a URL can't be kept by reference; use --audio-storage pcm16 or flac"
            )
        if self._builder is None:
            return PendingRow(record)
        try:
            system, user = self.prompts_of(record)
            return PendingRow(record, self._builder.prepare(system, user, record.prediction, self._order))
        except DataError as error:
            return PendingRow(record, problem=str(error))
