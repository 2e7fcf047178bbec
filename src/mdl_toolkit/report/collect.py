"""All that was read of runs, as the object that the page is given."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mdl_toolkit import __version__
from mdl_toolkit.report.audio.chosen import audio_note
from mdl_toolkit.report.comparing import Pairing
from mdl_toolkit.report.data import ReportClip, ReportPage, ReportRun, ReportSet
from mdl_toolkit.report.evaluations import ScoredSet
from mdl_toolkit.report.runs import CollectedRun, short_names
from mdl_toolkit.settings.score_names import is_lower_better


def make_page(
    runs: Sequence[CollectedRun],
    pairing: Pairing,
    clips: Sequence[ReportClip],
    of_rows: Sequence[Sequence[Sequence[int | None]]],
) -> ReportPage:
    """Put everything together.

    Args:
        runs: The runs.
        pairing: Which of their rows are the same, and how their scores differ.
        clips: The recordings.
        of_rows: By run and set, for each row its recording, or ``None``.
    """
    names = short_names([run.path for run in runs])
    made = [
        ReportRun(
            name=names[number],
            headline=run.headline,
            facts=list(run.facts),
            series=run.curves.series,
            evaluations=run.curves.evaluations,
            sets=[
                _set(one, of_rows[number][place], clips, pairing.keys.get((number, place)))
                for place, one in enumerate(run.evaluations)
            ],
        )
        for number, run in enumerate(runs)
    ]
    used = dict.fromkeys(
        name for run in made for part in (run.evaluations, *(one.scores for one in run.sets)) for name in part
    )
    return ReportPage(
        title=_title(made),
        version=__version__,
        generated=time.strftime("%Y-%m-%d %H:%M"),
        runs=made,
        comparisons=list(pairing.comparisons),
        audio=clips,
        lower_is_better=[name for name in used if is_lower_better(name)],
        notes=list(pairing.notes),
    )


def _title(runs: Sequence[ReportRun]) -> str:
    if len(runs) == 1:
        return f"{runs[0].name}: {runs[0].headline}"
    more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    return f"{', '.join(run.name for run in runs[:3])}{more} compared"


def _set(
    one: ScoredSet, audio: Sequence[int | None], clips: Sequence[ReportClip], keys: Sequence[int] | None
) -> ReportSet:
    summary = one.summary
    return ReportSet(
        name=one.name,
        task=one.task,
        main_score=one.main_score,
        rows=one.rows,
        scores=summary["scores"],
        slices=_slices(summary.get("slices") or {}),
        per_class=summary.get("per_class"),
        per_label=summary.get("per_label"),
        confusion=summary.get("confusion"),
        calibration=summary.get("calibration"),
        left_out=summary.get("left_out") or {},
        against=_without_folder(summary.get("against")),
        table=one.table,
        reference=one.reference,
        prediction=one.prediction,
        audio=audio,
        audio_note=audio_note(audio, clips),
        keys=keys,
        input_columns=one.input_columns,
        source=_file_name(summary.get("source")),
        normalizer=summary.get("normalizer"),
    )


def _slices(slices: Mapping[str, Any]) -> dict[str, Any]:
    """Slices that all say whether they are small."""
    return {
        column: {value: {**found, "small": bool(found.get("small"))} for value, found in values.items()}
        for column, values in slices.items()
    }


def _without_folder(against: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if against is None else {**against, "file": _file_name(against.get("file"))}


def _file_name(path: object) -> str | None:
    """A path as it was given; of one from the root the last part alone: the others are of one machine."""
    text = str(path) if path else ""
    return (text.replace("\\", "/").rpartition("/")[2] if text.startswith("/") else text) or None
