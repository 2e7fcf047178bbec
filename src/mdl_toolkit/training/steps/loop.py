"""The training loop: one optimizer step after the other, and what is due between them.

The loss of a step is the mean over the supervised tokens of all its micro-batches on all processes. Their
number is known before the step begins, so each micro-batch's summed loss is scaled by its inverse and
gradients are summed: how a step is cut into processes and micro-batches doesn't change it.

The host doesn't wait for the results of a GPU. The loss and gradient norm of a step are read while the next
step runs. The device itself holds back an update with a gradient that isn't finite, and all updates after it
until the host knows.

On the CPU nothing is exchanged between a step's update and its record. So whenever another process is lost
there, weights and record are of the same step, and the main process can save them alone.
"""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from mdl_toolkit.errors import MdlError, NonFiniteError, NotSavedError, Stopped
from mdl_toolkit.memory import peak_bytes
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.batches.loader import WaitEnded
from mdl_toolkit.training.batches.nonfinite import find_nonfinite_rows
from mdl_toolkit.training.batches.order import RunOrder, Scheduled
from mdl_toolkit.training.batches.synchronized import NoBatch, SynchronizedBatches
from mdl_toolkit.training.evaluation.evaluation import Evaluation
from mdl_toolkit.training.evaluation.sets import Load
from mdl_toolkit.training.evaluation.together import EvaluationDropped
from mdl_toolkit.training.metrics.flops import FlopCounter
from mdl_toolkit.training.metrics.reporter import Reporter
from mdl_toolkit.training.signals import UNSAVED_AT_FIRST, StopSignals, agreed_signal
from mdl_toolkit.training.steps.judge import Judge, NoJudge
from mdl_toolkit.training.steps.optimizer import Optimizer
from mdl_toolkit.training.steps.pending import PendingStep, Readback, seed_dropout
from mdl_toolkit.training.steps.progress import RunProgress
from mdl_toolkit.training.steps.schedule import LearningRates, interval
from mdl_toolkit.training.trainable.split import shown_rows

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.training.trainable.wrap import Wrapped

logger = get_logger(__name__)


class Loop:
    """Makes the steps of ``order``, and saves and evaluates between them.

    Args:
        settings: The settings of the run.
        ranks: The processes of the run.
        wrapped: The model.
        optimizer: The optimizer of the trained parameters.
        dataset: The training data.
        order: The steps to make.
        rates: The learning rates of the steps.
        load: Turns tuples of rows into micro-batches, in order.
        reporter: Reports the numbers.
        save: Writes a checkpoint, and returns a message that says what it wrote; every process calls it.
        save_alone: Called when another process is lost; saves what can be saved without the others, and
            returns a message that says what is left of the run.
        evaluation: The evaluation, if there is evaluation data.
        flops: Counts the operations of a step.
        progress: Where the run stands; the loop keeps it up to date.
        judge: Judges the evaluations, and may end the run before its last step.
    """

    def __init__(  # noqa: PLR0913 -- the parts of a run, by name
        self,
        *,
        settings: TrainSettings,
        ranks: Ranks,
        wrapped: Wrapped,
        optimizer: Optimizer,
        dataset: ClipDataset,
        order: RunOrder,
        rates: LearningRates,
        load: Load,
        reporter: Reporter,
        save: Callable[[RunProgress], str],
        evaluation: Evaluation | None,
        flops: FlopCounter,
        progress: RunProgress,
        save_alone: Callable[[RunProgress], str] = lambda _: "",
        judge: Judge | None = None,
    ) -> None:
        self.settings, self.ranks, self.wrapped, self.optimizer = settings, ranks, wrapped, optimizer
        self.dataset, self.order, self.rates = dataset, order, rates
        self.reporter, self.evaluation, self.progress = reporter, evaluation, progress
        self._load, self._save, self._save_alone, self._flops = load, save, save_alone, flops
        self._judge = judge or NoJudge()
        self._accumulation = settings.gradient_accumulation_steps
        self._save_every = interval(settings.save_steps, order.total_steps)
        self._eval_every = interval(settings.eval_steps, order.total_steps)
        # On a GPU a step's numbers are read one step later.
        self._lag = 1 if ranks.device.type == "cuda" else 0
        self._pending: deque[PendingStep] = deque()
        self._held_back = torch.zeros((), device=ranks.device)
        self._saved_at = self._resumed_at = progress.step
        self._saved = ""
        self._clock = 0.0

    def run(self, signals: StopSignals) -> None:
        """Make all steps, with evaluations and checkpoints when they are due.

        Raises:
            Stopped: A signal asked for it; every step that was made is saved.
            NotSavedError: A signal asked for it, and the steps could not be saved.
            NonFiniteError: A loss or gradient is not finite; the weights are those before that step.
            RuntimeError: Another process is lost; what could be saved without it is saved.
        """
        try:
            self._run(signals)
        except RuntimeError as error:
            if self.ranks.is_loss(error):
                with self.ranks.saving_alone():
                    self.ranks.tell_after_loss(self._save_alone(self.progress))
                signals.note_unsaved("")  # what is left is said with the loss
            raise

    def _run(self, signals: StopSignals) -> None:
        self.wrapped.model.train()
        if self.progress.step == 0:
            signals.note_unsaved(UNSAVED_AT_FIRST)
        try:
            self._evaluate_base(signals)
            self._make_up_evaluation(signals)
            if (over := self._judge.why_over(self.progress)) and len(self.order):
                logger.info(f"{over}; a larger one, or none, goes on")
                return
            self._clock = time.perf_counter()  # after the evaluations: they are no part of the first step
            with closing(self._load(self._tasks(), lambda: self._is_interrupted(signals))) as loading:
                if len(self.order):
                    self._make_steps(SynchronizedBatches(loading, self.ranks), signals)
        except NoBatch as missing:
            self._end_early(missing.cause, signals)

    def _is_interrupted(self, signals: StopSignals) -> bool:
        """Whether to wait no longer for a batch: the next exchange between the processes ends the run."""
        return signals.received is not None or self.ranks.peer_is_lost

    def _make_steps(self, batches: SynchronizedBatches, signals: StopSignals) -> None:
        for scheduled in self.order:
            self._pending.append(self._step(scheduled, batches, signals))
            stop = self._read_results(signals, self._lag)
            number = scheduled.number
            evaluates = self._evaluates_after(number)
            saves = number == self.order.total_steps or number % self._save_every == 0
            if stop is not None or evaluates or saves:
                stop = self._read_results(signals, 0) or stop
            if stop is not None:
                self._stop(stop, signals)
            over = None
            if evaluates:
                stop = self._evaluate(number, scheduled.epoch, signals)
                over = self._judge.why_over(self.progress) if stop is None else None
            if (saves or over) and stop is None:
                logger.info(self._save_steps(signals))
            if evaluates or saves:
                # They take long, so a signal may have come: then there is no further step to wait for.
                stop = stop if stop is not None else agreed_signal(self.ranks.sum(signals.flags()))
                if stop is not None:
                    self._stop(stop, signals)
                self._clock = time.perf_counter()  # no part of a step
            if over and number < self.order.total_steps:
                logger.info(over)
                return

    def _evaluates_after(self, step: int) -> bool:
        due = step == self.order.total_steps or step % self._eval_every == 0
        return self.evaluation is not None and due

    def _evaluate_base(self, signals: StopSignals) -> None:
        """Evaluate what the run begins with, if that is asked for; a resumed run has done so."""
        if self.settings.eval_on_start and self.evaluation is not None and self.progress.step == 0:
            stop = self._evaluate(0, 0.0, signals)
            if stop is not None:
                self._stop(stop, signals)

    def _make_up_evaluation(self, signals: StopSignals) -> None:
        """Evaluate after the step at which the run was resumed, if that was due and a signal prevented it."""
        step, position = self.progress.step, self.progress.position
        if not step or not self._evaluates_after(step):
            return
        known = self.reporter.evaluation_at(step)
        if self.ranks.any(known is not None):
            # It may have been made after the checkpoint was saved, which doesn't know of it then.
            self._judge.judge(self.progress, known or {})
            return
        epoch = position.epoch + position.first_sample / len(self.dataset.tokens)
        stop = self._evaluate(step, epoch, signals)
        if stop is not None:
            self._stop(stop, signals)

    def _tasks(self) -> Iterator[tuple[int, ...]]:
        """The rows of this process's micro-batches, in the order of the run."""
        for scheduled in self.order:
            for indices in self._own_micro_batches(scheduled):
                yield tuple(indices) or (self._filler(scheduled),)

    def _own_micro_batches(self, scheduled: Scheduled) -> list[list[int]]:
        """The rows of this rank's micro-batches of a step: its slice of ``step.micro``."""
        first = self.ranks.rank * self._accumulation
        return [list(indices) for indices in scheduled.step.micro[first : first + self._accumulation]]

    def _filler(self, scheduled: Scheduled) -> int:
        """A row for a rank that has none in this micro-batch: it makes the pass, and the loss counts 0."""
        rows = (index for indices in scheduled.step.micro for index in indices)
        return min(rows, key=lambda index: int(self.dataset.tokens[index]))

    def _step(self, scheduled: Scheduled, batches: SynchronizedBatches, signals: StopSignals) -> PendingStep:
        counted = dict(self.wrapped.model.counted)
        own, number = self._own_micro_batches(scheduled), scheduled.number
        scale = 1.0 / max(1, scheduled.step.supervised)
        losses: list[Tensor] = []
        kept: list[PackedBatch | None] = []
        for i, indices in enumerate(own):
            batch = batches.take()
            if batches.cause is not None:
                scale = math.nan  # no process makes an update from a gradient with this in it
            seed_dropout(self.settings.seed, number, self.ranks.rank * self._accumulation + i)
            last = i + 1 == len(own)
            counts = bool(indices) or batches.cause is not None
            loss = self.wrapped.micro_batch(batch, scale if counts else 0.0, last)
            losses.append(loss.double() if indices else torch.zeros_like(loss, dtype=torch.float64))
            kept.append(batch if indices else None)
        norm = self.wrapped.clip_grad_norm(self.settings.max_grad_norm)
        learning_rate = self.rates.rate(number - 1)
        after = self.wrapped.model.counted
        padding = (after["computed"] - counted["computed"], after["real"] - counted["real"])
        numbers = Readback(torch.stack([norm.double(), *losses]))
        pending = PendingStep(scheduled, learning_rate, kept, numbers, padding, batches.cause)
        if not self._lag:
            pending.sums = self._sums(pending, signals)
        self.optimizer.step(learning_rate, self._hold_back(norm, losses))
        self.wrapped.zero_grad()
        return pending

    def _sums(self, pending: PendingStep, signals: StopSignals) -> list[float]:
        """Sum up over the processes what a step is recorded by: loss, padding, and who asks to end."""
        missing = float(pending.missing is not None)
        return self.ranks.sum([pending.loss_sum(), *pending.padding, missing, *signals.flags()])

    def _hold_back(self, norm: Tensor, losses: list[Tensor]) -> Tensor:
        """A flag, not 0 where this update must not be made; the same on all processes, as the norm is."""
        bad = ~torch.isfinite(norm)
        if self.ranks.world_size == 1:
            for loss in losses:
                bad = bad | ~torch.isfinite(loss)
        flag = bad.to(torch.float32)
        if self.settings.on_nonfinite == "stop":
            # Steps that were launched before the host knew must not update either.
            flag = self._held_back = torch.maximum(self._held_back, flag)
        return flag

    def _read_results(self, signals: StopSignals, lag: int) -> int | None:
        """Read and report the numbers of all steps but the last ``lag`` ones.

        Returns:
            The signal to stop for, if a process has received one.

        Raises:
            NoBatch: A process had no micro-batch for a step; that step and those after it are dropped.
        """
        stop = None
        while len(self._pending) > lag:
            pending = self._pending.popleft()
            norm, *losses = pending.numbers.read()
            total, computed, real, spoiled, *flags = pending.sums or self._sums(pending, signals)
            if spoiled:
                self._pending.clear()
                raise NoBatch(pending.missing)
            loss = total / max(1, pending.scheduled.step.supervised)
            finite = math.isfinite(loss) and math.isfinite(norm)
            if not finite:
                self._not_finite(pending, loss, norm, losses, signals)
            self._record(pending, loss, norm, 1 - real / computed if computed else 0.0, finite)
            signals.note_unsaved(self._unsaved())
            stop = stop if stop is not None else agreed_signal(flags)
        if self.ranks.world_size == 1 and stop is None:
            stop = signals.received  # no one to agree with: no further step
        return stop

    def _record(self, pending: PendingStep, loss: float, norm: float, padding: float, finite: bool) -> None:
        scheduled, progress = pending.scheduled, self.progress
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        progress.step, progress.position = scheduled.number, scheduled.after
        progress.seconds += seconds
        if not self.ranks.is_main:
            return
        rows = [index for indices in scheduled.step.micro for index in indices]
        tokens, samples = self.dataset.tokens[rows], self.dataset.samples[rows]
        sums: dict[str, float] = {
            "tokens": int(tokens.sum()),
            "supervised_tokens": scheduled.step.supervised,
            "audio_tokens": sum(self.dataset.geometry.audio_tokens(int(count)) for count in samples),
            "clips": len(rows),
        }
        for key, value in sums.items():
            progress.counts[key] += value
        progress.counts["flops"] += self._flops.step(tokens, samples, scheduled.step.supervised)
        progress.counts["loss"] += loss if finite else 0.0
        progress.counts["skipped"] += not finite
        values: dict[str, Any] = {
            "step": scheduled.number,
            "epoch": round(scheduled.epoch, 6),
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": pending.learning_rate,
            **sums,
            "padding_share": padding,
            "memory": peak_bytes(self.ranks.device),
            "seconds": round(seconds, 6),
        }
        if not finite:
            values["skipped"] = True
        self.reporter.step(values, self.order.total_steps)

    def _not_finite(
        self, pending: PendingStep, loss: float, norm: float, losses: list[float], signals: StopSignals
    ) -> None:
        """Name the rows whose loss is not finite; stop, or continue without this update."""
        suspects = [
            index
            for batch, value in zip(pending.batches, losses, strict=True)
            if batch is not None and not math.isfinite(value)
            for index in find_nonfinite_rows(batch, self.wrapped, lambda: signals.received is not None)
        ]
        everyones: list[list[int]] = self.ranks.gather_objects(suspects)
        rows = [index for indices in everyones for index in indices]
        if not rows:
            rows = [index for indices in pending.scheduled.step.micro for index in indices]
        names = shown_rows([self.dataset.row_name(index) for index in rows], limit=16)
        what = f"loss {loss}" if not math.isfinite(loss) else f"loss {loss:.4f}, but gradient norm {norm}"
        which = "because of" if len(rows) == 1 else "one of these rows:"
        found = f"step {pending.scheduled.number}: {what}; {which} {names}"
        if self.settings.on_nonfinite == "skip":
            logger.warning(f"{found}; this update is skipped")
            return
        self._pending.clear()  # they were held back as well
        saved = self._save_before_failing(signals)
        kept = f"; {saved} has them as they were before this step" if saved else ""
        raise NonFiniteError(
            f"{found}. The weights were not updated{kept}. Look at these rows, lower --lr, or skip "
            "such updates: --on-nonfinite skip --resume-from-checkpoint true"
        )

    def _unsaved(self) -> str:
        """The steps that are not saved yet, for a message; empty where all are."""
        first, last = self._saved_at + 1, self.progress.step
        if first > last:
            return ""
        return f"with step {last} unsaved" if first == last else f"with steps {first} to {last} unsaved"

    def _save_steps(self, signals: StopSignals) -> str:
        """Save all steps that were made.

        Returns:
            A message that says what was saved.
        """
        self._saved = self._save(self.progress)
        self._saved_at = self.progress.step
        signals.note_unsaved("")
        return self._saved

    def _save_before_failing(self, signals: StopSignals) -> str:
        """Save the last finished step if it is not saved yet.

        Returns:
            A message that says what was saved, or an empty one.
        """
        return self._save_steps(signals) if self._unsaved() else ""

    def _stop(self, number: int, signals: StopSignals) -> NoReturn:
        """Save what isn't saved yet, and end for a signal; all processes call it at the same point."""
        step, name = self.progress.step, signal.Signals(number).name
        if step == 0:
            message = f"stopped by {name} {UNSAVED_AT_FIRST}; nothing is saved"
            raise Stopped(number, message, unsaved=True)
        way_on = "resume with --resume-from-checkpoint true"
        if step == self._resumed_at:
            message = f"stopped at step {step}, which was saved already (checkpoint-{step})"
            raise Stopped(number, f"{message}; the same command resumes it again")
        try:
            saved = self._save_steps(signals) if self._unsaved() else self._saved
        except MdlError as error:
            raise NotSavedError(number, f"stopped at step {step} by {name}, but {error}") from error
        seconds = self.ranks.max([signals.seconds])[0]
        raise Stopped(number, f"stopped at step {step}; {saved}, {seconds:.1f} s after {name}; {way_on}")

    def _end_early(self, cause: MdlError | None, signals: StopSignals) -> NoReturn:
        """Save the last finished step and end, because a process has no further micro-batch.

        Raises:
            Stopped: A signal asked to stop while a process waited for a micro-batch.
            MdlError: ``cause``, with what was saved.
        """
        self._read_results(signals, 0)
        failed = cause is not None and not isinstance(cause, WaitEnded)
        failures, *flags = self.ranks.sum([float(failed), *signals.flags()])
        stop = agreed_signal(flags)
        if not failures and stop is not None:
            self._stop(stop, signals)
        try:
            saved = self._save_before_failing(signals)
            saved = f"; {saved}; resume with --resume-from-checkpoint true" if saved else ""
        except MdlError as error:
            saved = f"; and {error}"
        if cause is None or not failed:
            self.ranks.barrier()  # ends with the process that has the cause, which tells it to all
            cause = MdlError("another process has no further batch")
        cause.args = (f"{cause}{saved}",)
        raise cause from None

    def _evaluate(self, step: int, epoch: float, signals: StopSignals) -> int | None:
        """Evaluate after a step, and report it.

        Returns:
            The signal for which the evaluation was dropped, if so.
        """
        assert self.evaluation is not None
        started = time.perf_counter()
        try:
            where = {"step": step, "epoch": round(epoch, 6)}
            found = self.evaluation(self.wrapped, signals, where)
        except EvaluationDropped as dropped:
            return dropped.number
        values = {**where, **found, "eval_seconds": round(time.perf_counter() - started, 6)}
        if self.ranks.is_main:
            self.reporter.evaluation(values, self.evaluation.describe(found))
        self._judge.judge(self.progress, values)
        return None
