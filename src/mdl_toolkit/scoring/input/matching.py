"""Rows of two tables that are the same by what they are of, wherever in their files they stand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from mdl_toolkit.errors import DataError
from mdl_toolkit.scoring.input.columns import listed, require_column
from mdl_toolkit.scoring.input.table import AnswerTable

#: Columns that say what a row is of, in the order in which they are tried: what an audio path leaves open is
#: said by the segment, then by the question that is asked of the clip.
RECORDINGS = ("audio", "audio_path", "audio_filepath", "path", "file", "filename", "file_name", "wav")
_SEGMENT = ("start", "end")
_QUESTION = ("user_prompt", "prompt", "question")
_IDS = ("id", "utt_id", "utterance_id", "uid", "uuid", "key", "index")


@dataclass(frozen=True)
class Matched:
    """Which rows of two tables belong together.

    Attributes:
        key: The columns by which they were matched.
        pairs: Places in the first and in the second table, in the order of the first.
        only_first: Places in the first table without a row in the second.
        only_second: Places in the second table without a row in the first.
        by_name: Whether paths were compared by the files' names alone, because no whole path was the same.
    """

    key: tuple[str, ...]
    pairs: list[tuple[int, int]]
    only_first: list[int]
    only_second: list[int]
    by_name: bool = False


def match(first: AnswerTable, second: AnswerTable, wanted: Sequence[str] = ()) -> Matched:
    """Match the rows of two tables.

    Args:
        first: A table.
        second: Another one.
        wanted: The columns to match by; by default those that say what a row is of.

    Raises:
        DataError: There is no such column, rows of one table can't be told apart by it, or no row matches.
    """
    candidates = [tuple(wanted)] if wanted else _candidates(first, second)
    for name in wanted:
        require_column(first, name, "--match-by")
        require_column(second, name, "--match-by")
    if not candidates:
        raise DataError(
            f"{first.path} and {second.path} have no column in common that says what a row is of (such as "
            f"audio or id); columns: {listed([*first.columns])}; {listed([*second.columns])}: name one that "
            "both have with --match-by"
        )
    unique = [key for key in candidates if not _repeated(first, key) and not _repeated(second, key)]
    if not unique:
        for table in (first, second):
            _refuse_repeated(table, candidates[0])
    tries = [_joined(key, _keys(first, key), _keys(second, key)) for key in unique]
    tries += [_by_file_name(first, second, key) for key in unique if _is_recording(key)]
    for found in tries:
        if found.pairs:
            return found
    key = unique[0]
    raise DataError(
        f"no row of {first.path} is in {second.path} by {_spelled(key)} (their first ones: "
        f"{_shown(first, key)}, {_shown(second, key)}): name the column that both share with --match-by"
    )


def _candidates(first: AnswerTable, second: AnswerTable) -> list[tuple[str, ...]]:
    common = [name for name in first.columns if name in second.columns]

    def those(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in common)

    found: list[tuple[str, ...]] = []
    for recording in those(RECORDINGS):
        segment = (recording, *those(_SEGMENT))
        found.append(segment)
        found += [(*segment, question) for question in those(_QUESTION)]
    return found + [(name,) for name in those(_IDS)]


def _is_recording(key: tuple[str, ...]) -> bool:
    return key[0] in RECORDINGS


def _keys(table: AnswerTable, key: tuple[str, ...]) -> list[tuple[str, ...]]:
    columns = [_values(table, name) for name in key]
    return list(zip(*columns, strict=True))


def _values(table: AnswerTable, name: str) -> list[str]:
    texts = table.texts(name)
    if name in RECORDINGS:
        return [text if "://" in text else os.path.normpath(text.strip()) for text in texts]
    return [_seconds(text) for text in texts] if name in _SEGMENT else [text.strip() for text in texts]


def _seconds(text: str) -> str:
    """``1.50`` and ``1.5`` are the same time."""
    try:
        return repr(float(text))
    except ValueError:
        return text.strip()


def _places(keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], list[int]]:
    found: dict[tuple[str, ...], list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return found


def _repeated(table: AnswerTable, key: tuple[str, ...]) -> list[list[int]]:
    return [places for places in _places(_keys(table, key)).values() if len(places) > 1]


def _refuse_repeated(table: AnswerTable, key: tuple[str, ...]) -> None:
    if repeated := _repeated(table, key):
        value = ", ".join(_keys(table, key)[repeated[0][0]])
        more = f" ({len(repeated) - 1} more are repeated too)" if len(repeated) > 1 else ""
        raise DataError(
            f"{table.path}: {table.named(repeated[0])} have the same {_spelled(key)} {value[:80]!r}{more}: "
            "remove the duplicates, or name columns that tell the rows apart with --match-by"
        )


def _joined(
    key: tuple[str, ...], first: Sequence[tuple[str, ...]], second: Sequence[tuple[str, ...]]
) -> Matched:
    there = {value: place for place, value in enumerate(second)}
    pairs = [(place, there[value]) for place, value in enumerate(first) if value in there]
    taken = {place for _, place in pairs}
    return Matched(
        key,
        pairs,
        [place for place, value in enumerate(first) if value not in there],
        [place for place in range(len(second)) if place not in taken],
    )


def _by_file_name(first: AnswerTable, second: AnswerTable, key: tuple[str, ...]) -> Matched:
    """Matched by the names of files, where these tell all rows of both tables apart."""

    def names(table: AnswerTable) -> list[tuple[str, ...]]:
        return [(os.path.basename(path), *rest) for path, *rest in _keys(table, key)]

    one, other = names(first), names(second)
    if len({*one}) < len(one) or len({*other}) < len(other):
        return Matched(key, [], [], [])
    found = _joined(key, one, other)
    return Matched(found.key, found.pairs, found.only_first, found.only_second, by_name=True)


def _shown(table: AnswerTable, key: tuple[str, ...]) -> str:
    return repr(", ".join(_keys(table, key)[0])[:60])


def _spelled(key: tuple[str, ...]) -> str:
    return " and ".join(key)
