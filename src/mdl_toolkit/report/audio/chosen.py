"""Which recordings a page gets: of each set the worst rows and the least certain ones, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mdl_toolkit.report.audio.clips import AudioFolder, WantedClip
from mdl_toolkit.report.data import ReportClip
from mdl_toolkit.report.evaluations import ScoredSet
from mdl_toolkit.report.runs import CollectedRun
from mdl_toolkit.scoring.input.matching import RECORDINGS
from mdl_toolkit.settings.score_names import is_lower_better

#: How sure the model was of an answer: the first of these columns that is there.
_SURENESS = ("probability", "mean_logprob", "min_logprob")

#: A recording as rows name it: the folder that was said for it, its path, start and end. Where several runs
#: have the same name, it is the same recording.
ClipName = tuple[str | None, str, Any, Any]


@dataclass(frozen=True)
class ChosenClips:
    """The recordings of a page.

    Attributes:
        wanted: Each once.
        of_rows: By run and set, for each row the place in ``wanted``, or ``None``.
    """

    wanted: list[WantedClip]
    of_rows: list[list[list[int | None]]]


def choose_clips(
    runs: Sequence[CollectedRun], base_dir: Path | None, outside: bool, most: int
) -> ChosenClips:
    """Choose recordings.

    Args:
        runs: All runs of the page.
        base_dir: Where relative paths start from, if that was said.
        outside: Whether paths may lead out of it.
        most: How many recordings at most; 0: all.
    """
    places = [[_Places(run, one, base_dir, outside) for one in run.evaluations] for run in runs]
    names = [
        [_names(one, place.said) for one, place in zip(run.evaluations, of_run, strict=True)]
        for run, of_run in zip(runs, places, strict=True)
    ]
    orders = [
        [rows[place] for place in _worst_first(one) if rows[place] is not None]
        for run, sets in zip(runs, names, strict=True)
        for one, rows in zip(run.evaluations, sets, strict=True)
    ]
    folders: dict[str | None, dict[AudioFolder, None]] = {}
    for of_run in places:
        for place in of_run:
            folders.setdefault(place.said, {}).update(dict.fromkeys(place.folders))
    chosen: dict[ClipName, int] = {}
    for name in _in_turn(orders):
        if most and len(chosen) >= most:
            break
        if name is not None:
            chosen.setdefault(name, len(chosen))
    wanted = [
        WantedClip(path, _seconds(start), _seconds(end), tuple(folders[said]))
        for said, path, start, end in chosen
    ]
    return ChosenClips(
        wanted, [[[chosen.get(name) if name else None for name in rows] for rows in sets] for sets in names]
    )


class _Places:
    """Where the recordings of a set may lie.

    Attributes:
        said: The folder that was said: with the command, when the set was evaluated, or when the run was
            started; ``None``: none was.
        folders: In which they are looked for.
    """

    def __init__(self, run: CollectedRun, one: ScoredSet, base_dir: Path | None, outside: bool) -> None:
        recorded = one.summary.get("base_dir") or run.options.get("base_dir")
        said = str(base_dir) if base_dir is not None else recorded
        self.said: str | None = said if isinstance(said, str) and said else None
        allowed = outside or (base_dir is None and bool(run.options.get("allow_outside_base_dir")))
        self.folders = [AudioFolder(self.said, allowed)] if self.said else []
        if base_dir is None:
            if self.said:  # a relative one is from where the run was started
                self.folders += [AudioFolder(str(folder / self.said), allowed) for folder in run.folders]
            self.folders += [AudioFolder(""), *(AudioFolder(str(folder)) for folder in run.folders)]


def _names(one: ScoredSet, said: str | None) -> list[ClipName | None]:
    audio = next((name for name in RECORDINGS if name in one.table.columns), None)
    columns = (one.cells(name) for name in (audio, "start", "end"))
    return [
        (said, str(path), start, end) if path else None for path, start, end in zip(*columns, strict=True)
    ]


def _worst_first(one: ScoredSet) -> list[int]:
    """The places of all rows: by turns the worst and the least sure of those that are left."""
    rows = range(len(one.table.rows))
    scores = [_number(cell) for cell in one.cells("score")]
    sign = -1 if is_lower_better(one.main_score or "") else 1
    # A row without a score was left out of the scores, and comes last.
    worst = sorted(rows, key=lambda place: _last_where_none(scores[place], sign))
    column = next((name for name in _SURENESS if name in one.table.columns), None)
    sure = [_number(cell) for cell in one.cells(column)]
    unsure = sorted(rows, key=lambda place: _last_where_none(sure[place], 1)) if column else []
    return list(dict.fromkeys(place for place in _in_turn([worst, unsure]) if place is not None))


def _last_where_none(value: float | None, sign: int) -> tuple[bool, float]:
    return (value is None, 0.0 if value is None else sign * value)


def _in_turn(lists: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """The first of each list, the second of each, and so on; ``None`` where one has ended."""
    return (one for together in zip_longest(*lists) for one in together)


def _number(cell: Any) -> float | None:
    return float(cell) if isinstance(cell, (int, float)) else None


def _seconds(cell: Any) -> float | None:
    """A time in a cell; spreadsheets with semicolons write a decimal comma."""
    if isinstance(cell, str):
        try:
            return float(cell.replace(",", "."))
        except ValueError:
            return None
    return _number(cell)


def audio_note(rows: Sequence[int | None], clips: Sequence[ReportClip]) -> str | None:
    """What is said once of a set whose recordings aren't all in the page; ``None``: all are.

    Args:
        rows: For each row its place in ``clips``.
        clips: The recordings of the page.
    """
    parts = []
    there = sum(place is not None for place in rows)
    if 0 < there < len(rows):
        which = "the worst and the least certain ones (--max-clips 0 takes all)"
        parts.append(f"{there:,} of {len(rows):,} rows have their recording here: {which}")
    gone = [clips[place] for place in dict.fromkeys(rows) if place is not None and clips[place].missing]
    if gone:
        what = "1 recording" if len(gone) == 1 else f"{len(gone):,} recordings"
        parts.append(f"{what} can't be played; the first: {gone[0].path}: {gone[0].missing}")
    return "; ".join(parts) or None
