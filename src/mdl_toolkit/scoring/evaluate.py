"""``evaluate``: reads predictions, has them judged, prints the scores and writes the evaluation's folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdl_toolkit.scoring import printed, printed_details
from mdl_toolkit.scoring.api import Scored, write_evaluation
from mdl_toolkit.scoring.input.answered import AnsweredRows, Truth, other_answers, read_answered, tell_failed
from mdl_toolkit.scoring.input.slices import slice_names
from mdl_toolkit.scoring.input.table import read_table
from mdl_toolkit.scoring.input.told import read_labels
from mdl_toolkit.scoring.judging import calibrated, judge_answered
from mdl_toolkit.scoring.known import NO_REFERENCE, only
from mdl_toolkit.scoring.summary import SMALL_SLICE, against
from mdl_toolkit.settings.commands.evaluate import EvaluateSettings
from mdl_toolkit.terminal.console import print_result
from mdl_toolkit.terminal.live_line import status
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)


def evaluate(settings: EvaluateSettings) -> None:
    """Score a file of predictions.

    Args:
        settings: The settings of the command.

    Raises:
        UserError: A file can't be used, or there is nothing to score.
        StorageError: The evaluation's files can't be written.
    """
    truth = Truth(settings.truth, settings.reference, settings.match_by, settings.slice_by)
    answered = read_answered(settings.input, settings.encoding, settings.prediction, truth)
    tell_failed(answered)
    # What can't be used is told before the work.
    for column in settings.slice_by:
        slice_names(column, answered.table.columns[column])
    other = _other(settings, answered)
    with status("scoring…"):
        scored = _judged(settings, answered)
    more: dict[str, Any] = dict(answered.said)
    more["no_answer"] = {"rows": len(answered.failed), answered.table.unit: _numbers(answered)}
    more |= calibrated(answered, scored)
    if other is not None:
        more["against"] = _compared(settings, scored, *other)
    with status("drawing rows for the intervals…"):
        summary = write_evaluation(
            settings.output,
            scored,
            answered.table.columns,
            source=str(settings.input),
            reference=answered.reference,
            prediction=answered.prediction,
            slice_by=settings.slice_by,
            resamples=settings.resamples,
            seed=settings.seed,
            more=more,
            numbers=answered.table.numbers,
        )
    _tell(settings, answered, scored, summary)


def _tell(
    settings: EvaluateSettings, answered: AnsweredRows, scored: Scored, summary: dict[str, Any]
) -> None:
    """Print what was found, after all that is to be known about it."""
    _tell_left_out(answered, scored)
    table = answered.table
    for line in printed_details.unread_lines(
        scored.judged.unread, answered.predictions, table.numbers, table.unit
    ):
        logger.warning(line)
    for remark in scored.judged.remarks:
        logger.info(remark)
    _warn_of_small_slices(summary)
    print_result(printed.scores(summary, settings.resamples), in_file=True)
    if details := printed_details.tables(summary):
        print_result(details, in_file=True)
    if worst := printed.worst(scored, answered.table):
        print_result(worst, in_file=True)
    files = ", ".join(printed.written(scored))
    print_result(f"\nwritten to {settings.output}: {files}", in_file=True)


def _judged(settings: EvaluateSettings, answered: AnsweredRows) -> Scored:
    labels = read_labels(settings.labels, settings.encoding)
    normalizer = None if settings.normalizer == "auto" else settings.normalizer
    return judge_answered(settings.task, answered, labels=labels, normalizer=normalizer)


def _numbers(answered: AnsweredRows) -> list[int]:
    return [answered.table.numbers[place] for place in answered.failed]


def _other(settings: EvaluateSettings, answered: AnsweredRows) -> tuple[AnsweredRows, list[int]] | None:
    """The same rows with the answers of ``--against``, and the places of those that both files have."""
    if settings.against is None:
        return None
    other = read_table(settings.against, settings.encoding)
    return other_answers(answered, other, settings.prediction, settings.match_by)


def _compared(
    settings: EvaluateSettings, scored: Scored, other: AnsweredRows, both: Sequence[int]
) -> dict[str, Any]:
    """How the scores differ from those of another file of predictions, over the rows that both have."""
    with status("comparing…"):
        places = np.array(both, dtype=np.int64)
        ours, theirs = only(scored.judged, places), only(_judged(settings, other).judged, places)
        return against(ours, theirs, str(settings.against), settings.resamples, settings.seed)


def _tell_left_out(answered: AnsweredRows, scored: Scored) -> None:
    for reason, places in scored.judged.left_out.items():
        told = reason == NO_REFERENCE and len(places) == len(answered.said.get("extra", ()))
        if places and not told:
            rows = "row is" if len(places) == 1 else "rows are"
            logger.warning(
                f"{len(places)} {rows} left out of the scores ({reason}): {answered.table.named(places)}"
            )


def _warn_of_small_slices(summary: dict[str, Any]) -> None:
    for column, values in summary["slices"].items():
        if small := [value for value, found in values.items() if found.get("small")]:
            shown = ", ".join(repr(value[:40]) for value in small[:5])
            more = f" and {len(small) - 5} more" if len(small) > 5 else ""
            logger.warning(
                f"slices of {column} with fewer than {SMALL_SLICE} rows, too few to conclude anything from: "
                f"{shown}{more}"
            )
