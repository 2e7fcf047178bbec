"""The answers among which a row's answer is chosen: those of ``--choices``, or the row's own.

What can be wrong with them is said in a line, with the place: an empty one, one that is there twice, one that
the model can't take as an answer. They become tokens by the builder that makes training's answers.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mdl_toolkit.data.input.compressed import unpacked_name
from mdl_toolkit.data.input.csvfile import cell_text
from mdl_toolkit.data.input.records import Row
from mdl_toolkit.data.input.tables import BadRow, TableLayout, read_cells, read_table_layout
from mdl_toolkit.data.input.textfile import checked_lines, opened
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.errors import DataError, SettingsError, printable
from mdl_toolkit.generation.answer import Choices
from mdl_toolkit.settings import InferenceSettings
from mdl_toolkit.settings.commands.inference import CHOICES_COLUMN, choices_file

#: Endings of tables; any other file has one choice a line.
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".pq")
#: Columns that a table may have its choices in, the likeliest first.
_COLUMNS = ("choice", "label", "prediction", "answer", "class", "category", "text", "reference")
#: What divides the choices in a cell that is no list, as ``evaluate`` reads them.
_SEPARATORS = re.compile("[;\uff1b\n]")
#: Sets of choices whose tokens are kept; rows that have their own mostly have few different ones.
_KEPT = 256


class RowChoices:
    """The choices of rows: a row's own, else those of ``--choices``.

    Args:
        settings: The options of the command.
        builder: Makes tokens.

    Raises:
        SettingsError: Something is wrong with what ``--choices`` names.
    """

    def __init__(self, settings: InferenceSettings, builder: PromptBuilder) -> None:
        self._builder = builder
        self._made = lru_cache(maxsize=_KEPT)(self._make)
        self._source = f"--choices {printable(settings.choices)}"
        self._listed: Choices | None = None
        if texts := listed_choices(settings):
            try:
                self._listed = self._made(texts)
                self._check_length(self._listed, 0)
            except DataError as error:
                raise SettingsError([f"{self._source}: {error}"]) from None

    def of(self, row: Row) -> Choices:
        """The choices of a row.

        Raises:
            DataError: It has none, or something is wrong with them.
        """
        own = cell_text(row.extra.get(CHOICES_COLUMN, ""))
        if own is not None:
            try:
                return self._made(tuple(_parsed(own)))
            except DataError as error:
                raise DataError(f"its column {CHOICES_COLUMN}: {error}") from None
        if self._listed is None:
            raise DataError(
                f"its column {CHOICES_COLUMN} is empty: name choices for such rows (--choices), or answer "
                "all rows freely (--choices none)"
            )
        return self._listed

    def check_room(self, choices: Choices, prompt: int) -> None:
        """Refuse choices that the model can't read after a prompt of so many tokens.

        Raises:
            DataError: With the longest choice, and the numbers.
        """
        self._check_length(choices, prompt)

    def describe(self) -> str:
        """For people: what answers are chosen among."""
        if self._listed is None:
            return f"the choices of its row (column {CHOICES_COLUMN})"
        return f"{len(self._listed.texts)} choices ({self._source})"

    @property
    def digest(self) -> str:
        """What decides the answers: the listed choices, or that rows have their own."""
        if self._listed is None:
            return CHOICES_COLUMN
        texts = self._listed.texts
        plain = ", ".join(texts)
        if len(plain) <= 40:
            return plain
        return f"{len(texts)} of {hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]}"

    def _make(self, texts: tuple[str, ...]) -> Choices:
        if len(texts) < 2:
            raise DataError(
                f"one choice only, {texts[0][:60]!r}: two at least, as a JSON list or with ; between them"
            )
        tokens = []
        places: dict[tuple[int, ...], str] = {}
        for number, text in enumerate(texts, start=1):
            if not text.strip():
                raise DataError(f"choice {number} is empty")
            made = self._builder.answer_tokens(text, "choice")
            if made in places:
                raise DataError(_twice(places[made], text))
            places[made] = text
            tokens.append(made)
        return Choices(texts, tuple(tokens))

    def _check_length(self, choices: Choices, prompt: int) -> None:
        context = self._builder.max_tokens
        longest = max(range(len(choices.tokens)), key=lambda place: len(choices.tokens[place]))
        needed = len(choices.tokens[longest])
        if context is not None and prompt + needed > context:
            before = f" after a prompt of {prompt}" if prompt else ""
            raise DataError(
                f"choice {choices.texts[longest][:40]!r} has {needed} tokens{before}; the model reads "
                f"{context} at most"
            )


def _twice(one: str, other: str) -> str:
    if one == other:
        return f"choice {one[:60]!r} is there twice"
    return f"choices {one[:60]!r} and {other[:60]!r} are the same tokens to the model"


def _parsed(cell: str) -> list[str]:
    """A cell's choices: a list as JSON or Python write it, else texts between semicolons."""
    if not cell.startswith("["):
        return [part.strip() for part in _SEPARATORS.split(cell)]
    return _list_of(cell)


def _list_of(text: str) -> list[str]:
    value: Any
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)  # as pandas writes a list
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
    plain = isinstance(value, list) and all(type(item) in (str, int, float) for item in value)
    if not plain or not value:
        raise DataError(f"choices {text[:60]!r}: a JSON list of texts expected, or texts with ; between them")
    return [str(item) for item in value]


def has_choices(settings: InferenceSettings, columns: Sequence[str]) -> bool:
    """Whether answers are chosen: by ``--choices``, or because the input has a column of this name.

    Args:
        settings: The options of the command.
        columns: The columns of the input.

    Raises:
        SettingsError: It has one, and options were given that have no effect then.
    """
    if settings.choices != CHOICES_COLUMN:
        return settings.choices != "none"
    if CHOICES_COLUMN not in columns:
        return False
    if idle := settings.idle_flags:
        raise SettingsError([
            f"{name} has no effect where answers are chosen, and {printable(settings.input)} has a column "
            f"{CHOICES_COLUMN}: leave it out, or add --choices none to answer freely"
            for name in idle
        ])  # fmt: skip
    return True


def listed_choices(settings: InferenceSettings) -> tuple[str, ...]:
    """The choices that ``--choices`` names; none where it leaves them to the rows.

    Raises:
        SettingsError: The file can't be read, or something is wrong with a choice in it.
    """
    given = settings.choices
    if given in (CHOICES_COLUMN, "none"):
        return ()
    try:
        found = choices_file(given)
        if found is None:
            return _typed(given)
        path, column = found
        if column is None and unpacked_name(path).suffix.lower() not in _TABLES:
            return tuple(_lines(path, settings.encoding))
        return tuple(_cells(path, settings.encoding, column))
    except DataError as error:
        raise SettingsError([f"--choices: {error}"]) from None


def _typed(given: str) -> tuple[str, ...]:
    """The choices of a command line: a JSON list, else texts between commas."""
    texts = _list_of(given) if given.startswith("[") else [part.strip() for part in given.split(",")]
    _check_each([(f"choice {number}", text) for number, text in enumerate(texts, start=1)])
    return tuple(texts)


def _check_each(choices: Sequence[tuple[str, str]]) -> None:
    """Refuse an empty choice, and one that is there twice, by its place."""
    seen: dict[str, str] = {}
    for place, text in choices:
        if not text:
            raise DataError(f"{place} is empty")
        if text in seen:
            raise DataError(f"{place}: {text[:60]!r} is there twice, before it as {seen[text]}")
        seen[text] = place


def _lines(path: Path, encoding: str) -> list[str]:
    with opened(path, encoding) as stream:
        lines = [line.strip() for line in checked_lines(stream, path)]
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) < 2:
        raise DataError(f"{path}: two choices at least, each on a line of its own")
    _check_each([(f"{path} line {number}", line) for number, line in enumerate(lines, start=1)])
    return lines


def _cells(path: Path, encoding: str, column: str | None) -> list[str]:
    """The different values of a table's column, in order of appearance."""
    layout = read_table_layout(path, encoding)
    named = column if column is not None else next((c for c in _COLUMNS if c in layout.columns), None)
    if named not in layout.columns:
        problem = f"it has no column {named!r}." if named else "which of its columns has the choices?"
        columns = ", ".join(map(repr, layout.columns[:12]))
        raise DataError(
            f"{path}: {problem} They are {columns}: name one ({path}:COLUMN). A file with one choice a line "
            "ends in .txt"
        )
    found: dict[str, None] = {}
    for number, text in _column(path, encoding, layout, named):
        if text is None:
            raise DataError(f"{path} line {number}: column {named} is empty")
        found[text] = None
    if len(found) < 2:
        raise DataError(f"{path}: column {named} has one value only; two choices at least")
    return list(found)


def _column(path: Path, encoding: str, layout: TableLayout, column: str) -> Iterator[tuple[int, str | None]]:
    """The lines of a table and their values in a column; ``None`` where there is none."""
    place = layout.columns.index(column)
    for record in read_cells(path, encoding, layout):
        if isinstance(record, BadRow):
            raise DataError(f"{path} line {record.number}: {record.problem}")
        if record.typed is None:
            yield record.number, cell_text(record.cells[place])
            continue
        value = record.typed.get(column)
        if isinstance(value, (list, dict, bool, bytes)):
            raise DataError(f"{path} line {record.number}: column {column} is no text")
        yield record.number, None if value is None else str(value) or None
