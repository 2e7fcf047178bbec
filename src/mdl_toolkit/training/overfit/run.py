"""Learns a few rows by heart, generates their answers, and says whether the set-up can learn at all.

The steps are those of a run (``steps/loop.py``), with its batches, gradients and learning rates. What is
looked at every few steps takes the place of an evaluation: once the loss is near zero the rows are answered,
and when the answers are right the run ends. Nothing is saved.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mdl_toolkit.data.dataset.some_rows import SomeRows
from mdl_toolkit.errors import MdlError, Stopped
from mdl_toolkit.settings.options import with_defaults
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import duration
from mdl_toolkit.training.batches.loader import MicroBatches
from mdl_toolkit.training.batches.order import RunOrder, plan_steps
from mdl_toolkit.training.batches.synchronized import NoBatch
from mdl_toolkit.training.evaluation.answers import AnsweredRow, AnswersOfSet
from mdl_toolkit.training.evaluation.evaluation import Evaluation
from mdl_toolkit.training.evaluation.making import make_answering
from mdl_toolkit.training.evaluation.sets import Load
from mdl_toolkit.training.evaluation.together import EvaluationDropped
from mdl_toolkit.training.metrics.flops import FlopCounter
from mdl_toolkit.training.metrics.reporter import Reporter
from mdl_toolkit.training.overfit.options import usual_rate
from mdl_toolkit.training.overfit.verdict import NEAR_ZERO, LearnedAnswer, Verdict, likely_causes
from mdl_toolkit.training.signals import StopSignals
from mdl_toolkit.training.steps.loop import Loop
from mdl_toolkit.training.steps.optimizer import Optimizer
from mdl_toolkit.training.steps.progress import RunProgress
from mdl_toolkit.training.steps.schedule import LearningRates
from mdl_toolkit.training.trainable.memory import plan_memory, try_worst

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.settings import TrainSettings
    from mdl_toolkit.training.trainable.wrap import Wrapped

logger = get_logger(__name__)

#: Steps from one look at the loss to the next.
_LOOK = 10
#: The largest sample of a clip in which nothing is to be heard.
_SILENT = 1e-4


class CannotLearnError(MdlError):
    """A set-up has not learned the rows of ``--overfit``."""


def overfit(
    settings: TrainSettings,
    ranks: Ranks,
    model_folder: Path,
    rows: SomeRows,
    loaders: tuple[MicroBatches, MicroBatches],
    wrapped: Wrapped,
) -> None:
    """Train on a few rows until they are known by heart, and say whether that worked.

    Args:
        settings: The settings of the run.
        ranks: The processes of the run.
        model_folder: The folder of the base model.
        rows: The rows.
        loaders: Load rows of the dataset that these are from: one for the steps, and one for the answers.
        wrapped: The model, ready to be trained.

    Raises:
        CannotLearnError: The rows were not learned; the likely causes are printed.
        Stopped: A signal came.
        MdlError: Something else went wrong, as in a run.
    """
    began = time.monotonic()
    batches, answering = loaders
    check = _Check(settings, ranks, model_folder, rows, answering)
    with StopSignals() as signals:
        try:
            answers = _learned_answers(_loop(settings, ranks, rows, batches, wrapped, check), check, signals)
        except (Stopped, EvaluationDropped) as stopped:
            message = f"stopped before it was known whether {len(rows)} rows can be learned; nothing is kept"
            raise Stopped(stopped.number, message) from None
        except NoBatch as missing:
            raise missing.cause or MdlError("another process has no further batch") from None
    failure = ""
    if ranks.is_main:
        verdict = _verdict(check, rows, answers, time.monotonic() - began)
        failure = _tell(verdict, settings, usual_rate(settings, model_folder))
    if failure := ranks.broadcast_object(failure):
        raise CannotLearnError(failure)


def _learned_answers(loop: Loop, check: _Check, signals: StopSignals) -> list[AnsweredRow]:
    """Make the steps, as many as it takes, and answer the rows."""
    try:
        loop.run(signals)
    except _Learned:
        return check.answers
    return check.answer(loop.wrapped, signals)


def _loop(
    settings: TrainSettings,
    ranks: Ranks,
    rows: SomeRows,
    batches: MicroBatches,
    wrapped: Wrapped,
    check: _Check,
) -> Loop:
    plan = plan_steps(settings, ranks, rows, wrapped.model.config.to_dict())
    check.watch.pass_steps = len(plan.epoch(0))
    memory = plan_memory(wrapped, plan, settings, ranks)
    load = _loading(rows, batches)
    if ranks.device.type == "cuda":
        try_worst(wrapped, next(load([memory.worst], lambda: False)), ranks)
    order = RunOrder(plan, math.inf, settings.max_steps)
    return Loop(
        settings=with_defaults(settings, eval_steps=_LOOK, save_steps=order.total_steps, eval_on_start=False),
        ranks=ranks,
        wrapped=wrapped,
        optimizer=Optimizer(wrapped.trainable, settings.weight_decay),
        dataset=rows,
        order=order,
        rates=LearningRates.of(settings, order.total_steps),
        load=load,
        reporter=check.watch,
        save=lambda progress: f"all {progress.step} steps are made",
        evaluation=check,
        progress=RunProgress(),
        flops=FlopCounter(wrapped.model.config, wrapped.trainable, wrapped.model.geometry),
    )


def _loading(rows: SomeRows, batches: MicroBatches) -> Load:
    """What loads some rows by their numbers among these.

    Args:
        rows: The rows.
        batches: Loads rows of the whole dataset.
    """
    number = {int(place): number for number, place in enumerate(rows.places)}

    def load(
        tasks: Iterable[tuple[int, ...]], interrupted: Callable[[], bool]
    ) -> Generator[PackedBatch, None, None]:
        whole = (tuple(int(rows.places[row]) for row in task) for task in tasks)
        with closing(batches(whole, interrupted)) as loading:
            for batch in loading:
                yield replace(batch, indices=tuple(number[index] for index in batch.indices))

    return load


class _Learned(Exception):  # noqa: N818 -- what the run is for
    """The rows are known by heart; all processes raise this at the same point."""


class _Watch(Reporter):
    """Keeps the numbers of the steps, on the main process; prints them as a run does.

    Attributes:
        losses: The loss of each step.
        norms: The gradient norm of each step.
        pass_steps: The number of steps in which all rows come once.
    """

    def __init__(self, every: int | None) -> None:
        super().__init__(None, None, every)
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.pass_steps = 1

    @property
    def loss(self) -> float:
        """The mean over the last pass."""
        last = self.losses[-self.pass_steps :]
        return math.fsum(last) / len(last) if last else math.inf

    def step(self, values: Mapping[str, Any], total_steps: int) -> None:
        self.losses.append(values["loss"])
        self.norms.append(values["grad_norm"])
        super().step(values, total_steps)

    def evaluation(self, values: Mapping[str, Any], words: str) -> None:
        """Nothing was evaluated that anybody wants to read."""


class _Check(Evaluation):
    """Takes the place of an evaluation: ends the run when the answers of all rows come back.

    Attributes:
        watch: Has the numbers of the steps.
        answers: The answers, once all of them came back.
    """

    def __init__(
        self, settings: TrainSettings, ranks: Ranks, model_folder: Path, rows: SomeRows, batches: MicroBatches
    ) -> None:
        super().__init__([])
        self._ranks = ranks
        how = make_answering(settings, model_folder, rows)
        self._answers = AnswersOfSet(rows, _loading(rows, batches), ranks, range(len(rows)), how)
        self.watch = _Watch(settings.logging_steps)
        self.answers: list[AnsweredRow] = []

    def __call__(
        self,
        wrapped: Wrapped,
        signals: StopSignals | None = None,
        _where: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, float]:
        if self._ranks.broadcast_object(self.watch.loss) <= NEAR_ZERO:
            answers = self.answer(wrapped, signals)
            if all(row.prediction == row.reference for row in answers):
                self.answers = answers
                raise _Learned
        return {}

    def answer(self, wrapped: Wrapped, signals: StopSignals | None) -> list[AnsweredRow]:
        """The answers to all rows; every process calls this."""
        was_training = wrapped.model.training
        wrapped.model.eval()
        try:
            return self._answers(wrapped, signals)
        finally:
            wrapped.model.train(was_training)

    def describe(self, _values: Mapping[str, float]) -> str:
        return ""


def _verdict(check: _Check, rows: SomeRows, answers: Sequence[AnsweredRow], seconds: float) -> Verdict:
    contradicting, silent = _faults(rows)
    return Verdict(
        losses=check.watch.losses,
        norms=check.watch.norms,
        pass_steps=check.watch.pass_steps,
        answers=[
            LearnedAnswer(rows.row_name(row.index), row.reference, row.prediction, row.error, row.cut)
            for row in answers
        ],
        seconds=seconds,
        contradicting=contradicting,
        silent=silent,
    )


def _faults(rows: ClipDataset) -> tuple[list[list[str]], list[str]]:
    """Names of rows that can't be learned: groups that differ in the answer alone, and silent ones."""
    asked: dict[bytes, dict[bytes, list[str]]] = {}
    silent = []
    for number in range(len(rows)):
        row = rows[number]
        learned = row.labels >= 0
        question = hashlib.sha256(row.waveform.tobytes() + row.input_ids[~learned].tobytes()).digest()
        asked.setdefault(question, {}).setdefault(row.labels[learned].tobytes(), []).append(row.row)
        if not len(row.waveform) or float(np.abs(row.waveform).max()) < _SILENT:
            silent.append(row.row)
    several = [by_answer for by_answer in asked.values() if len(by_answer) > 1]
    return [[names[0] for names in by_answer.values()] for by_answer in several], silent


def _tell(verdict: Verdict, settings: TrainSettings, usual: float) -> str:
    """Print the verdict.

    Returns:
        The message to fail with; empty where the rows were learned.
    """
    lost = verdict.lost()
    if lost:
        logger.info("\n".join(["answers that don't come back (right answer -> the model's):", *lost]))
    if verdict.same_answer():
        logger.warning(
            f"all {len(verdict.answers)} rows have the same answer, which says little; take more rows, of "
            "different answers"
        )
    if verdict.learned:
        logger.info(
            f"this set-up can learn: {verdict.summary()} ({duration(verdict.seconds)}). Nothing was saved; "
            "the same command without --overfit trains"
        )
        return ""
    for cause in likely_causes(verdict, settings, usual):
        logger.warning(f"likely cause: {cause}")
    return f"this set-up does not learn {len(verdict.answers)} rows by heart: {verdict.summary()}"
