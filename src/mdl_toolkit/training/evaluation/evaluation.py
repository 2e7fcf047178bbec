"""An evaluation of the run's model: a dictionary of numbers by the names that metrics have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mdl_toolkit.training.signals import StopSignals

if TYPE_CHECKING:
    from mdl_toolkit.training.evaluation.loss import LossOfSet
    from mdl_toolkit.training.evaluation.scores import ScoresOfSet
    from mdl_toolkit.training.trainable.wrap import Wrapped


@dataclass(frozen=True)
class SetMeasures:
    """What is measured on one set.

    Attributes:
        name: The name of the set.
        named: Whether somebody gave it that name.
        rows: The number of its rows.
        loss: Measures the loss.
        scores: Scores generated answers, if that is asked for.
    """

    name: str
    named: bool
    rows: int
    loss: LossOfSet
    scores: ScoresOfSet | None = None


class Evaluation:
    """Evaluates the model on all sets.

    Args:
        sets: The sets, one at least; the first one is the one that counts where no set is named.
    """

    def __init__(self, sets: Sequence[SetMeasures]) -> None:
        self._sets = list(sets)

    def __call__(
        self,
        wrapped: Wrapped,
        signals: StopSignals | None = None,
        where: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, float]:
        """Measure everything; every process calls this, and all get the same numbers.

        The model, its state and all random numbers are afterwards what they were.

        Args:
            wrapped: The model.
            signals: The signals that ask the run to stop. One that comes to any process ends the evaluation
                on all of them.
            where: Where the run stands (``step``, ``epoch``), for the files of generated answers.

        Returns:
            The numbers by name, as in a line of ``metrics.jsonl``: of the first set ``eval_loss`` and
            ``eval_rows``; of every named set also ``eval_loss/NAME`` and ``eval_rows/NAME``. Where answers
            are generated, the scores of the task too: ``eval_wer``, ``eval_wer/NAME``.
            ``settings/score_names.py`` says of such a name whether a lower value is better.

        Raises:
            EvaluationDropped: Such a signal came.
            NoBatch: A process has no further batch.
        """
        was_training = wrapped.model.training
        wrapped.model.eval()
        values: dict[str, float] = {}
        try:
            for number, each in enumerate(self._sets):
                found = {"eval_loss": each.loss(wrapped, signals), "eval_rows": each.rows}
                if each.scores is not None:
                    scores = each.scores(wrapped, signals, where)
                    found |= {f"eval_{name}": value for name, value in scores.items()}
                if number == 0:
                    values |= found
                if each.named:
                    values |= {f"{key}/{each.name}": value for key, value in found.items()}
        finally:
            wrapped.model.train(was_training)
        return values

    def describe(self, values: Mapping[str, float]) -> str:
        """The numbers of an evaluation in words, set by set.

        Args:
            values: As a call returned them.
        """
        return "; ".join(self._describe_set(number, values) for number in range(len(self._sets)))

    def _describe_set(self, number: int, values: Mapping[str, float]) -> str:
        each = self._sets[number]
        ending = f"/{each.name}" if each.named else ""
        found = {
            key.removesuffix(ending).removeprefix("eval_"): value
            for key, value in values.items()
            if key.partition("/")[2] == (each.name if each.named else "")
        }
        words = f"loss {found.pop('loss'):.4f} on {found.pop('rows')} rows"
        if each.scores is not None:
            scores = ", ".join(f"{key} {value:.4f}" for key, value in found.items()) or "no score"
            words += f", {scores} of {each.scores.count} answers"
        return f"{each.name}: {words}" if len(self._sets) > 1 else words
