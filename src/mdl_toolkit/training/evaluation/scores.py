"""Scores of the answers to a set of evaluation data: computed, written down and shown by the main process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_toolkit.errors import StorageError, UserError, printable
from mdl_toolkit.scoring.api import Scored, score, write_evaluation
from mdl_toolkit.scoring.files import worst_first
from mdl_toolkit.scoring.reading.options import options_of_rows
from mdl_toolkit.settings.score_names import MAIN_SCORE, is_lower_better
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.evaluation.answers import AnsweredRow, AnswersOfSet
from mdl_toolkit.training.evaluation.sets import EvaluationSet
from mdl_toolkit.training.signals import StopSignals

if TYPE_CHECKING:
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.training.trainable.wrap import Wrapped

logger = get_logger(__name__)

#: Answers that are shown at each evaluation, the same rows each time; one that is wrong comes with them.
SHOWN = 3
#: Characters that are shown of a text.
_CHARACTERS = 60


class ScoresOfSet:
    """Has the rows of a set answered, and scores the answers.

    Args:
        of: The set.
        ranks: The processes of the run; the main one computes and writes.
        answers: Makes the answers.
        task: What the answers are scored as.
        folder: The folder for the evaluation's files; made when there are answers.
    """

    def __init__(
        self, of: EvaluationSet, ranks: Ranks, answers: AnswersOfSet, task: str, folder: Path
    ) -> None:
        self._set, self._ranks, self._answers = of, ranks, answers
        self._task, self._folder = task, folder
        self._known_labels: list[str] | None = None

    @property
    def count(self) -> int:
        """The number of rows that are answered."""
        return self._answers.count

    def __call__(
        self, wrapped: Wrapped, signals: StopSignals | None, where: Mapping[str, Any]
    ) -> dict[str, float]:
        """The scores by name, the task's main one first; every process calls this and gets the same.

        Answers that the task can't judge have none, with a warning. So have files that can't be written: what
        the model learned is worth more than what is written about it.

        Args:
            wrapped: The model, in evaluation mode.
            signals: The signals that ask the run to stop.
            where: Where the run stands, for ``scores.json``.

        Raises:
            EvaluationDropped: A signal came.
            NoBatch: A process has no further batch.
        """
        rows = self._answers(wrapped, signals)
        return self._ranks.broadcast_object(self._score(rows, where) if self._ranks.is_main else {})

    def _score(self, rows: Sequence[AnsweredRow], where: Mapping[str, Any]) -> dict[str, float]:
        try:
            scored = score(
                self._task,
                [row.reference for row in rows],
                [row.prediction for row in rows],
                labels=self._labels() if self._task == "classification" else None,
                choices=options_of_rows(None, [row.prompt for row in rows])
                if self._task == "choice"
                else None,
            )
        except UserError as error:
            logger.warning(f"the answers to {self._title} can't be scored as {self._task}: {error}")
            return {}
        logger.info("\n".join(self._shown(rows, scored)))
        try:
            self._write(rows, scored, where)
        except StorageError as error:
            logger.warning(str(error))
        return scored.values

    def _labels(self) -> list[str]:
        """The labels of all rows of the set, also of those that aren't answered."""
        if self._known_labels is None:
            data = self._set.data
            answers = {tuple(data.answer_ids(row).tolist()) for row in range(len(data))}
            self._known_labels = sorted({self._answers.decode(list(ids)) for ids in answers if ids})
        return self._known_labels

    @property
    def _title(self) -> str:
        return f"the set {self._set.name}" if self._set.named else "the evaluation data"

    def _write(self, rows: Sequence[AnsweredRow], scored: Scored, where: Mapping[str, Any]) -> None:
        data = self._set.data
        origins = [data.origin(row.index) for row in rows]
        columns: dict[str, list[Any]] = {"audio": [origin.audio for origin in origins]}
        if len({origin.file for origin in origins}) > 1:
            columns["file"] = [origin.file for origin in origins]
        if any(origin.start is not None or origin.end is not None for origin in origins):
            columns["start"] = [origin.start for origin in origins]
            columns["end"] = [origin.end for origin in origins]
        columns["reference"] = [row.reference for row in rows]
        columns["prediction"] = [row.prediction for row in rows]
        if any(row.error for row in rows):
            columns["error"] = [row.error for row in rows]
        if any(row.cut for row in rows):
            ended = ["length" if row.cut else "stop" for row in rows]
            columns["finish_reason"] = [
                "" if row.error else how for row, how in zip(rows, ended, strict=True)
            ]
        root = data.manifest.options.get("base_dir")
        write_evaluation(
            self._folder,
            scored,
            columns,
            source=data.manifest.source.get("name", ""),
            more={**where, **({"base_dir": str(root)} if root else {})},
            numbers=[origin.line for origin in origins],
        )

    def _shown(self, rows: Sequence[AnsweredRow], scored: Scored) -> list[str]:
        """Lines with a few answers: the same rows each time, and the first or worst of the wrong ones."""
        judged = scored.judged
        shown = sorted({place * len(rows) // SHOWN for place in range(min(SHOWN, len(rows)))})
        if judged.correct is not None:
            wrong = [place for place, right in enumerate(judged.correct) if right is False]
        else:
            lower = is_lower_better(MAIN_SCORE[self._task])
            best = 0.0 if lower else 1.0
            wrong = [place for place in worst_first(judged, lower) if judged.score[place] != best]
        more = next((place for place in wrong if place not in shown), None)
        lines = [f"answers to {self._title} (right answer -> the model's):"]
        for place in [*shown, *([] if more is None else [more])]:
            row = rows[place]
            name = self._set.data.origin(row.index).audio or self._set.data.row_name(row.index)
            given = f"none ({row.error})" if row.prediction is None else _short(row.prediction)
            mark = "wrong" if judged.correct is not None and judged.correct[place] is False else ""
            lines.append(f"  {mark:5} {_short(name, from_end=True)}: {_short(row.reference)} -> {given}")
        return lines


def _short(text: str, from_end: bool = False) -> str:
    """A text for one line, cut where it is long; quoted where it would not be seen as it is."""
    if len(text) > _CHARACTERS:
        text = f"…{text[-_CHARACTERS:]}" if from_end else f"{text[:_CHARACTERS]}…"
    return printable(text) if text and text == text.strip() else repr(text)
