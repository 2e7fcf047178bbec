"""Judges the rows of a table as it stands: with the options, languages and numbers that its columns hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mdl_toolkit.errors import DataError
from mdl_toolkit.scoring.api import Scored, score
from mdl_toolkit.scoring.input.answered import AnsweredRows
from mdl_toolkit.scoring.input.columns import find_language
from mdl_toolkit.scoring.input.told import PROBABILITY, read_choices
from mdl_toolkit.scoring.measures.calibration import calibration
from mdl_toolkit.scoring.task import UnfitRowError


def judge_answered(
    task: str,
    answered: AnsweredRows,
    *,
    labels: Sequence[str] | None = None,
    normalizer: str | None = None,
) -> Scored:
    """Judge rows.

    Args:
        task: The task's name.
        answered: The rows.
        labels: All labels that there are; by default those of the references.
        normalizer: How texts are brought to a common form; by default the task's own choice.

    Raises:
        UserError: The task's libraries are missing, or it can't judge these rows.
    """
    language = find_language(answered.table)
    try:
        return score(
            task,
            answered.references,
            answered.predictions,
            labels=labels,
            choices=read_choices(answered.table) if task == "choice" else None,
            tag_scores=answered.tag_scores if task == "tagging" else None,
            normalizer=normalizer,
            language=answered.table.texts(language) if language else None,
        )
    except UnfitRowError as error:
        raise DataError(f"{answered.table.at(error.place)}: {error.problem}") from None


def calibrated(answered: AnsweredRows, scored: Scored) -> dict[str, Any]:
    """Whether answers are right as often as their probabilities say, where both are known.

    Raises:
        DataError: A probability is none; the message names the row.
    """
    correct, table = scored.judged.correct, answered.table
    if correct is None or PROBABILITY not in table.columns:
        return {}
    places = [place for place, own in enumerate(scored.judged.score) if own is not None]
    cells = table.columns[PROBABILITY]
    try:
        found = calibration([cells[place] for place in places], [bool(correct[place]) for place in places])
    except UnfitRowError as error:
        raise DataError(f"{table.at(places[error.place])}: {error.problem}") from None
    return {} if found is None else {"calibration": found}
