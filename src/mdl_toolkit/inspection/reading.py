"""Reads the rows of a table or of a converted dataset, with what is found in each clip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_toolkit.data.audio.load import AudioLimits
from mdl_toolkit.data.conversion.pool import WorkerPool
from mdl_toolkit.data.conversion.rows import PendingRow, RowLoader, RowSource
from mdl_toolkit.data.conversion.worker import ClipJob, LoadedClip, LoadOptions
from mdl_toolkit.data.input.likely_mistakes import LikelyMistakes
from mdl_toolkit.data.input.records import Row, TableLayout, read_layout, read_records
from mdl_toolkit.data.prompt.builder import IGNORED, PromptBuilder, default_order
from mdl_toolkit.errors import MdlError, printable
from mdl_toolkit.hub import model_at_hand, resolve_model
from mdl_toolkit.inspection.collected import Collected, Prompts, SeenRow
from mdl_toolkit.inspection.sound.clip import ClipFacts, FileSounds, FolderSounds, LookAtClip
from mdl_toolkit.settings import InspectSettings
from mdl_toolkit.settings.options import given_names
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import Progress

if TYPE_CHECKING:
    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.data.dataset.manifest import ModelRecord

logger = get_logger(__name__)

#: Processes that are started before it is known how many rows there are.
_FIRST_WORKERS = 2
#: Rows of a dataset that a process takes at a time.
_CHUNK = 8


def read_set(path: Path, settings: InspectSettings) -> Collected:
    """Read a table or a dataset's folder.

    Args:
        path: The table or folder.
        settings: The settings of the command.

    Raises:
        DataError: It is neither, or can't be read as a whole.
        ModelError: ``--model-name`` was given, and there is no such model.
    """
    with WorkerPool(min(_FIRST_WORKERS, settings.num_workers)) as pool:
        return _read_folder(path, settings, pool) if path.is_dir() else _read_table(path, settings, pool)


def _read_table(path: Path, settings: InspectSettings, pool: WorkerPool) -> Collected:
    layout = read_layout(path, settings.encoding)
    builder, name, note = _builder(settings)
    total, remarks = _first_look(path, settings.encoding, layout)
    word = "line" if layout.kind in ("csv", "lines") else "row"

    def row_name(number: int, source: str) -> str:
        return f"{path.name} {word} {number}" + (f" ({printable(source)})" if source else "")

    order = settings.prompt_order or (default_order(builder.folder) if builder else "audio-first")
    limits = AudioLimits.of(settings)
    rate = builder.geometry.sample_rate if builder else 16000
    sounds = FileSounds(limits, rate)
    reader = RowLoader(
        RowSource(path, settings, layout, row_name), range(total), builder, order, LookAtClip(sounds, rate)
    )
    found = Collected(
        name=path.name,
        table=path.name,
        word=word,
        sample_rate=rate,
        sounds=sounds,
        model=name,
        model_note=note,
        has_answers="prediction" in layout.columns,
        order=order,
        remarks=remarks,
    )
    progress = Progress(f"looking at {path.name}", total)
    for pending, clip in reader.read(pool):
        found.add(_seen(pending, clip, reader))
        progress.update()
    progress.clear()
    return found


def _first_look(path: Path, encoding: str, layout: TableLayout) -> tuple[int, list[str]]:
    """The number of rows, and sentences on what is probably not meant."""
    mistakes, count = LikelyMistakes(layout.columns), 0
    for record in read_records(path, encoding, layout):
        count += 1
        if isinstance(record, Row):
            mistakes.look_at(record)
    return count, [sentence.lstrip(": ") for sentence in mistakes.sentences()]


def _builder(settings: InspectSettings) -> tuple[PromptBuilder | None, str | None, str]:
    """What makes tokens, the model's name, and why there is none where there is none."""
    name = settings.model_name
    if "model_name" in given_names(settings):
        folder: Path | None = resolve_model(
            name, revision=settings.revision, from_modelscope=settings.from_modelscope, weights=False
        )
    else:
        folder = model_at_hand(name, settings.revision)
    if folder is None:
        note = f"{name} is not on this machine; name a model with --model-name to count its tokens"
        return None, None, note
    return PromptBuilder(folder), name, ""


def _seen(pending: PendingRow, clip: LoadedClip | None, reader: RowLoader) -> SeenRow:
    """What is known of a row of a table."""
    reader.encode(pending, clip)
    record = pending.record
    if not isinstance(record, Row):
        return SeenRow(record.number, problem=pending.problem)
    loaded = clip is not None and clip.problem is None
    facts = ClipFacts.of_bytes(clip.audio) if clip is not None and loaded else None
    tokens = len(pending.tokens.answer) - 1 if pending.tokens and pending.tokens.answer else None
    return SeenRow(
        record.number,
        ClipJob(record.number, record.audio, record.start, record.end),
        pending.problem,
        record.prediction,
        tokens,
        reader.prompts_of(record),
        clip.samples if clip is not None else 0,
        bool(clip and clip.silent),
        facts,
    )


def _read_folder(path: Path, settings: InspectSettings, pool: WorkerPool) -> Collected:
    from mdl_toolkit.data.dataset.dataset import ClipDataset

    data = ClipDataset.open([path], all_shards=False)
    texts = _FolderTexts(data, settings)
    rate = data.geometry.sample_rate
    sounds = FolderSounds([Path(os.path.abspath(path))])
    found = Collected(
        name=path.name or str(path),
        table=str(data.manifest.source.get("name") or path.name),
        word="row",
        sample_rate=rate,
        sounds=sounds,
        model=texts.model,
        model_note=texts.note,
        readable=texts.readable,
        order=data.manifest.prompts.order,
    )
    if data.manifest.skipped:
        found.remarks.append(f"{data.manifest.skipped} bad rows were left out when it was converted")
    pool.grow(min(settings.num_workers, -(-len(data) // _CHUNK)))
    task = LoadOptions(AudioLimits(), rate, "pcm16", LookAtClip(sounds, rate))
    jobs = ([ClipJob(row, "", None, None) for row in group] for group in _groups(len(data)))
    progress = Progress(f"looking at {path.name}", len(data))
    row = 0
    for results in pool.run(jobs, task, data.row_name):
        for clip in results:
            found.add(texts.seen(row, clip))
            row += 1
            progress.update()
    progress.clear()
    return found


def _groups(count: int) -> Iterator[range]:
    return (range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK))


class _FolderTexts:
    """The texts of a dataset's rows, which are stored as tokens.

    Attributes:
        model: The model that reads them; ``None`` where it isn't at hand: answers are told apart then, but
            not read.
        note: Why there is none.
    """

    def __init__(self, data: ClipDataset, settings: InspectSettings) -> None:
        self._data, self.note = data, ""
        self.model: str | None = None
        self._builder: PromptBuilder | None = None
        record = data.manifest.model
        if "model_name" in given_names(settings) or record is None:
            self._builder, self.model, self.note = _builder(settings)
            if self._builder is not None:
                data.check_model(self._builder.folder)
        else:
            self._take_recorded(record)
        self._known = self._known_prompts()

    def _take_recorded(self, record: ModelRecord) -> None:
        """Read texts by the model that the dataset was converted for, if it is still there."""
        self.note = f"{record}, which it was converted for, is not on this machine: texts can't be read"
        try:
            if (folder := model_at_hand(record.name, record.revision)) is not None:
                self._data.check_model(folder)
                self._builder, self.model, self.note = PromptBuilder(folder), record.name, ""
        except MdlError as error:
            self.note = f"texts can't be read: {error}"

    def _known_prompts(self) -> dict[tuple[int, ...], Prompts]:
        """The prompts that the dataset's manifest lists, by the tokens that rows with them have."""
        record, found = self._data.manifest.prompts, {}
        if self._builder is not None:
            for use in record.seen:
                try:
                    tokens = self._builder.prepare(use.system_prompt, use.user_prompt, "x", record.order)
                except MdlError:
                    continue
                found[tokens.before + tokens.after] = (use.system_prompt, use.user_prompt)
        return found

    @property
    def readable(self) -> bool:
        """Whether answers and prompts are texts here, not numbers of tokens."""
        return self._builder is not None

    def seen(self, row: int, clip: LoadedClip) -> SeenRow:
        """What is known of a row."""
        part, first, _ = next(self._data.spans(row, row + 1))
        ids, labels = part.ids(first)
        answer = labels[labels != IGNORED][:-1]
        line, source = self._place(part, first, row)
        facts = ClipFacts.of_bytes(clip.audio) if clip.problem is None else None
        return SeenRow(
            line,
            ClipJob(row, source, None, None),
            clip.problem,
            self._text(answer),
            len(answer),
            self._prompts(ids[labels == IGNORED]),
            clip.samples,
            clip.silent,
            facts,
        )

    def _place(self, part: Any, row: int, number: int) -> tuple[int, str]:
        """The line of the table that it was converted from, and its recording there."""
        table = part.table
        if "line" not in table.columns:
            return number + 1, ""
        return int(table.value("line", row)), str(table.value("source", row))

    def _text(self, ids: Any, skip_special: bool = False) -> str:
        if self._builder is None:
            return " ".join(map(str, ids.tolist()))
        return self._builder.decode(ids.tolist(), skip_special=skip_special)

    def _prompts(self, ids: Any) -> Prompts:
        """The prompts in the tokens around an answer; where no prompts are known for them, their text."""
        around = ids[ids != self._data.manifest.audio_token_id]
        if (known := self._known.get(tuple(around.tolist()))) is not None:
            return known
        return None, self._text(around, skip_special=True).strip()
