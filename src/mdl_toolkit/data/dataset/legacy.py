"""Folders converted by the public 0.1.0: no manifest, and waveforms as lists of floats.

Their labels cover more than the answer, which is corrected here. Nothing says of such a folder that it is
whole, so all of its rows are checked when it is opened.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.compat.datasets_format import STATE_NAME, data_files
from mdl_toolkit.data.dataset.check_cache import CheckResult, check_once, known_result
from mdl_toolkit.data.dataset.manifest import DatasetManifest
from mdl_toolkit.data.dataset.table import Table
from mdl_toolkit.data.input.badrows import damage
from mdl_toolkit.data.prompt.builder import IGNORED, PromptBuilder
from mdl_toolkit.data.prompt.record import PromptRecord
from mdl_toolkit.errors import DataError
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.terminal.progress import Progress

Ints = NDArray[np.int64]
COLUMNS = ("input_ids", "attention_mask", "input_values", "audio_length", "labels")
_LISTS = ("input_ids", "attention_mask", "labels", "input_values")
_NUMBERS = re.compile(r"(large_)?list<\w+: (u?int\d+|halffloat|float|double)( not null)?>")
#: The numbers that are kept of each row.
_FACTS = ("samples", "tokens", "supervised", "highest", "corrected")
#: The number of rows by which the form of all rows is found: the longest ones, and some from everywhere.
_JUDGES = 32
#: Rows that a thread checks between two reports of progress.
_CHUNK = 64


class LegacyFolder:
    """One folder of 0.1.0.

    Args:
        folder: The folder.
        check: Whether its samples are checked too; False in a process whose parent has done so.

    Attributes:
        corrected: Whether any row's labels had to be corrected.

    Raises:
        DataError: The folder is of another kind, or rows are damaged, which the message names.
    """

    def __init__(self, folder: Path, check: bool = True) -> None:
        self.folder = folder
        names = self._data_files()
        self.table = Table([folder / name for name in names])
        missing = [name for name in COLUMNS if name not in self.table.columns]
        if missing:
            raise DataError(
                f"{folder}: not a dataset of clips (no column {', '.join(missing)}): run mdl-toolkit "
                "convert-dataset"
            )
        for name in _LISTS:
            if not _NUMBERS.fullmatch(self.table.types[name]):
                raise DataError(
                    f"{folder}: its {name} are {self.table.types[name][:40]}, where 0.1.0 wrote a list of "
                    "numbers for each row: run mdl-toolkit convert-dataset"
                )
        if not len(self.table):
            raise DataError(f"{folder}: no rows in it")
        self._geometry = AudioGeometry()
        files = [folder / name for name in (STATE_NAME, *names)]
        if check:
            found = check_once(files, self._check_rows)
        else:
            found = known_result(files) or self._check_rows(samples=False)
        if found.problem:
            raise DataError(found.problem)
        self.samples: Ints = found.facts["samples"]
        self.tokens: Ints = found.facts["tokens"]
        self.supervised: Ints = found.facts["supervised"]
        self._highest: Ints = found.facts["highest"]
        self.corrected = bool(found.facts["corrected"].any())
        self._form = _Form(tuple(found.facts["header"].tolist()), int(found.facts["audio_token_id"]))
        self.manifest = self._manifest()

    def __len__(self) -> int:
        return len(self.table)

    def name(self, row: int) -> str:
        """0.1.0 kept no names: the folder and the row, from 1."""
        return f"{self.folder.name} row {row + 1}"

    def ids(self, row: int) -> tuple[Ints, Ints]:
        """Token ids without padding, and labels after the rule."""
        try:
            text = self._text(row)
        except _DamageError as error:
            raise DataError(f"{self.name(row)}: {error}: convert the dataset again") from error
        return text.ids, text.labels

    def waveform(self, row: int) -> NDArray[np.float32]:
        """Samples without padding."""
        try:
            return self._samples(row, int(self.samples[row]))
        except _DamageError as error:
            raise DataError(f"{self.name(row)}: {error}: convert the dataset again") from error

    def check_model(self, builder: PromptBuilder) -> None:
        """Refuse a model that asks for answers, or ends them, with other tokens, or has others for clips."""
        ids, labels = self.ids(0)
        end = int(labels[labels != IGNORED][-1])
        header = list(self._form.header)
        asked = builder.encode(None, None, 1, None).input_ids[-len(header) :].tolist()
        ours, theirs = (asked, builder.end_id), (header, end)
        audio = int(np.count_nonzero(ids == builder.audio_token_id))
        expected = builder.geometry.audio_tokens(int(self.samples[0]))
        if ours != theirs or audio != expected:
            raise DataError(
                f"{self.folder}: converted for another model than {builder.folder} (tokens around the answer "
                f"{theirs} and {ours}, audio placeholders of the first row {audio} and {expected}): convert "
                "it again"
            )

    def rows_beyond(self, vocabulary: int) -> list[int]:
        """Rows with tokens that a model of so many tokens doesn't have."""
        return list(map(int, np.flatnonzero(self._highest >= vocabulary)))

    def _data_files(self) -> list[str]:
        path = self.folder / STATE_NAME
        try:
            names = data_files(self.folder)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: damaged ({error}): convert the dataset again") from error
        if any(Path(name).name != name for name in names):
            raise DataError(f"{path}: names files outside of its folder")
        return names

    def _check_rows(self, samples: bool = True) -> CheckResult:
        """Check all rows.

        Args:
            samples: Whether the samples are checked too, which are nearly all of a folder's bytes.
        """
        form = self._find_form()
        rows = len(self)
        facts = {name: np.zeros(rows, dtype=np.int64) for name in _FACTS}
        damaged: list[tuple[int, str]] = []

        def check_from(first: int) -> tuple[int, list[tuple[int, str]]]:
            wrong = []
            last = min(first + _CHUNK, rows)
            for row in range(first, last):
                try:
                    values = self._check_row(row, form, samples)
                except _DamageError as error:
                    wrong.append((row, str(error)))
                    continue
                for name, value in zip(_FACTS, values, strict=True):
                    facts[name][row] = value
            return last - first, wrong

        progress = Progress(f"checking {self.folder}", rows)
        # Reading from disk and checking samples let other threads run meanwhile.
        with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
            try:
                for count, wrong in pool.map(check_from, range(0, rows, _CHUNK)):
                    progress.update(count)
                    damaged += wrong
            except BaseException:  # most likely a signal: don't wait for the rest
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        progress.clear()
        if damaged:
            return CheckResult(self._damage(damaged))
        if form.audio_token_id < 0:
            row = int(facts["samples"].argmax())
            count = int(facts["samples"][row])
            times = self._geometry.audio_tokens(count)
            problem = f"no one token stands {times} times in its text, as its {count} samples need"
            return CheckResult(self._damage([(row, problem)]))
        header = np.array(form.header, dtype=np.int64)
        marks = {"header": header, "audio_token_id": np.array(form.audio_token_id)}
        return CheckResult(None, {**facts, **marks})

    def _check_row(self, row: int, form: _Form, samples: bool) -> tuple[int, ...]:
        """A row's :data:`_FACTS`.

        Raises:
            _DamageError: Saying what is wrong with it.
        """
        length, text = self._audio_length(row), self._text(row)
        if text.header != form.header:
            raise _DamageError(_NO_FORM)
        found = int(np.count_nonzero(text.ids == form.audio_token_id))
        expected = self._geometry.audio_tokens(length)
        if found != expected and form.audio_token_id >= 0:
            raise _DamageError(
                f"{found} audio placeholders in the text, but its clip of {length} samples makes {expected} "
                "audio tokens"
            )
        if samples:
            self._samples(row, length)
        supervised = int(np.count_nonzero(text.labels != IGNORED))
        return length, len(text.ids), supervised, int(text.ids.max()), int(text.corrected)

    def _damage(self, damaged: Sequence[tuple[int, str]]) -> str:
        return damage(self.folder, len(self), [(self.name(row), problem) for row, problem in damaged])

    def _find_form(self) -> _Form:
        """What is the same in all rows, by the votes of some: any of them may be the damaged one.

        The placeholder is the token that stands in a row's text as often as its clip has audio tokens.
        """
        lengths = [self._length_or_none(row) or 0 for row in range(len(self))]
        longest = sorted(range(len(self)), key=lambda row: -lengths[row])
        step = max(1, len(self) // _JUDGES)
        headers = Counter[tuple[int, ...]]()
        placeholders = Counter[int]()
        for row in dict.fromkeys([*longest[:_JUDGES], *range(0, len(self), step)]):
            try:
                length, text = self._audio_length(row), self._text(row)
            except _DamageError:  # reported when all rows are checked
                continue
            if len(self.table.list_values("input_values", row)) < length:
                continue
            headers[text.header] += 1
            ids, counts = np.unique(text.ids, return_counts=True)
            placeholders.update(ids[counts == self._geometry.audio_tokens(length)].tolist())
        first, second = [*placeholders.most_common(2), (-1, 0), (-1, 0)][:2]
        header = headers.most_common(1)[0][0] if headers else ()
        return _Form(header, first[0] if first[1] > second[1] else -1)

    def _text(self, row: int) -> _Text:
        """A row's ids without padding, labels after the rule, and what comes before its answer."""
        self._refuse_nulls(row, ("input_ids", "labels", "attention_mask"))
        ids, labels, mask = (
            self.table.list_values(name, row).astype(np.int64)
            for name in ("input_ids", "labels", "attention_mask")
        )
        if not len(ids) == len(labels) == len(mask):
            raise _DamageError(
                f"{len(ids)} tokens, {len(labels)} labels and {len(mask)} mask values, which must be as many"
            )
        ids, labels = ids[mask != 0], labels[mask != 0]
        if (ids < 0).any():
            raise _DamageError(f"{int(ids.min())} is no token")
        answer = _answer(ids)
        if answer is None:
            raise _DamageError(_NO_FORM)
        fixed = np.full(len(ids), IGNORED, dtype=np.int64)
        fixed[answer.start : answer.stop] = ids[answer.start : answer.stop]
        header = tuple(ids[answer.header : answer.start].tolist())
        return _Text(ids, fixed, header, not np.array_equal(fixed, labels))

    def _samples(self, row: int, count: int) -> NDArray[np.float32]:
        self._refuse_nulls(row, ("input_values",))
        values = self.table.list_values("input_values", row)[:count].astype(np.float32, copy=False)
        if len(values) < count:
            raise _DamageError(f"{len(values)} stored samples for a clip of {count}")
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise _DamageError(f"its sample {place + 1} of {count} is not a finite number")
        return values

    def _refuse_nulls(self, row: int, names: Sequence[str]) -> None:
        for name in names:
            if self.table.has_nulls(name, row):
                raise _DamageError(f"its {name} have gaps")

    def _audio_length(self, row: int) -> int:
        length = self._length_or_none(row)
        if length is None:
            raise _DamageError(f"audio_length is {self.table.value('audio_length', row)!r:.40}")
        return length

    def _length_or_none(self, row: int) -> int | None:
        length: Any = self.table.value("audio_length", row)
        length = length[0] if isinstance(length, list) and len(length) == 1 else length
        return length if isinstance(length, int) and length >= 1 else None

    def _manifest(self) -> DatasetManifest:
        digest = zlib.crc32(self.tokens.tobytes() + self.samples.tobytes() + self.supervised.tobytes())
        fingerprint = f"legacy-{len(self)}-{digest:08x}"
        return DatasetManifest(
            fingerprint=fingerprint,
            group=fingerprint,
            processing_fingerprint="legacy",
            source={"name": self.folder.name},
            prompts=PromptRecord(complete=False),
            geometry=dict(vars(self._geometry)),
            audio_token_id=self._form.audio_token_id,
            storage="float32",
            rows=len(self),
            seconds=float(self.samples.sum()) / self._geometry.sample_rate,
            tokens=int(self.tokens.sum()),
            supervised=int(self.supervised.sum()),
            files={},
        )


_NO_FORM = "its text is not of the form that 0.1.0 wrote (turns that end alike, the answer's last)"


class _DamageError(Exception):
    """What is wrong with a row."""


class _Form(NamedTuple):
    """What is the same in all rows.

    Attributes:
        header: The tokens of ``<|im_start|>assistant`` and the newline after it.
        audio_token_id: The id of an audio placeholder; −1 where no one token is it.
    """

    header: tuple[int, ...]
    audio_token_id: int


class _Text(NamedTuple):
    """A row's text: ids and labels without padding, the answer's header, whether labels were corrected."""

    ids: Ints
    labels: Ints
    header: tuple[int, ...]
    corrected: bool


class _AnswerPlace(NamedTuple):
    """Places in a row's text: the answer's header, the answer, and after the token that ends it."""

    header: int
    start: int
    stop: int


def _answer(ids: Ints) -> _AnswerPlace | None:
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
    return _AnswerPlace(begin, start, start + int(ends[0]) + 1) if len(ends) else None
