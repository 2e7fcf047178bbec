"""A training run, top to bottom: from settings to ``final/``.

:func:`make_ready` (``ready.py``) checks the settings and converts datasets before torch is imported. Then the
processes join, and ``_train`` does the rest on each of them: choose where to begin, load the model and make
what trains it (``_assemble``), make all steps and write ``final/`` (``_train_and_write``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mdl_toolkit.data.batching.plan import Plan
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.dataset.some_rows import SomeRows, spread
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.distributed.group import Ranks, joined
from mdl_toolkit.distributed.joining.early import told_to_others
from mdl_toolkit.errors import MdlError
from mdl_toolkit.files import ending_with
from mdl_toolkit.memory import gib, peak_bytes, reset_peak
from mdl_toolkit.model_folders.manifest import BaseRecord
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import as_dict
from mdl_toolkit.terminal.live_line import status
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import duration
from mdl_toolkit.terminal.torchrun import report_failure
from mdl_toolkit.training.agreement import require_agreement
from mdl_toolkit.training.batches.example import describe_example
from mdl_toolkit.training.batches.loader import MicroBatches
from mdl_toolkit.training.batches.order import DataPosition, RunOrder, plan_steps
from mdl_toolkit.training.best.finish import finish_best
from mdl_toolkit.training.best.keeper import make_judge
from mdl_toolkit.training.best.yardstick import Yardstick
from mdl_toolkit.training.checkpoints.checkpointer import Checkpointer, restore
from mdl_toolkit.training.checkpoints.identity import Identity
from mdl_toolkit.training.checkpoints.output import EVALUATION, output_lock
from mdl_toolkit.training.checkpoints.resume import Claim, Start, choose_start
from mdl_toolkit.training.evaluation.evaluation import Evaluation
from mdl_toolkit.training.evaluation.making import make_answering, make_evaluation
from mdl_toolkit.training.evaluation.sets import fingerprint_of
from mdl_toolkit.training.final import evaluate_final, write_final
from mdl_toolkit.training.last_lines import print_last_lines
from mdl_toolkit.training.manifest import RunManifest
from mdl_toolkit.training.metrics.file import METRICS_FILE, MetricsLog
from mdl_toolkit.training.metrics.flops import FlopCounter
from mdl_toolkit.training.metrics.reporter import Reporter
from mdl_toolkit.training.metrics.trackers import Trackers
from mdl_toolkit.training.overfit.run import overfit
from mdl_toolkit.training.ready import Inputs, Ready, make_ready
from mdl_toolkit.training.signals import StopSignals, nothing_unsaved
from mdl_toolkit.training.steps.loop import Loop
from mdl_toolkit.training.steps.optimizer import Optimizer
from mdl_toolkit.training.steps.progress import RunProgress
from mdl_toolkit.training.steps.schedule import LearningRates
from mdl_toolkit.training.summary import print_summary, run_summary, said_on_every_host
from mdl_toolkit.training.trainable.adapters import describe_trainable
from mdl_toolkit.training.trainable.memory import plan_memory, try_worst
from mdl_toolkit.training.trainable.prepare import prepare
from mdl_toolkit.training.trainable.wrap import Wrapped

logger = get_logger(__name__)


def train(settings: TrainSettings) -> None:
    """Fine-tune a model as the settings say.

    Works alone and as one of many processes that a launcher started. Files given as datasets are converted
    before the processes join, so that none waits in a collective meanwhile.

    Raises:
        UserError: Wrong settings, data, model or checkpoint.
        Stopped: Ended by a signal, with everything saved.
        MdlError: Anything else that went wrong, in a line that says what to do.
    """
    with told_to_others():
        train_ready(make_ready(settings))


def train_ready(ready: Ready) -> None:
    """Fine-tune with what :func:`make_ready` found; raises as :func:`train` does."""
    problem: MdlError | None = None
    prepared: Prepared | None = None
    try:
        prepared = Prepared.of(ready)
    except MdlError as error:
        if ready.launch.rank == 0:
            report_failure(str(error), error.exit_code)
            raise
        problem = error  # raised when the main process can hear of it
    with joined(ready.launch, problem, ready.settings.peer_timeout) as ranks:
        assert prepared is not None, "the problem was raised"
        prepared.require_agreement(ready.settings, ranks)
        if ready.settings.overfit:
            _overfit(ready.settings, ranks, prepared)
            return
        lock = output_lock(ready.settings.output) if ranks.is_main else nullcontext()
        with said_on_every_host(ready.settings.output, ranks), lock:
            _train(ready.settings, ranks, prepared)


@dataclass(frozen=True)
class Prepared(Inputs):
    """The inputs of a run and the fingerprint of the base model's weights.

    Attributes:
        base: The record of the base model that goes into the run's manifests.
    """

    base: BaseRecord

    @classmethod
    def of(cls, ready: Ready) -> Prepared:
        """Read the weights' fingerprint.

        Raises:
            MdlError: The weights can't be used, or :func:`make_ready` found an error on this process.
        """
        settings, inputs = ready.settings, ready.inputs
        if isinstance(inputs, MdlError):
            raise inputs
        base = BaseRecord.of(settings.model_name, inputs.model_folder, settings.revision)
        return cls(**vars(inputs), base=base)

    def require_agreement(self, settings: TrainSettings, ranks: Ranks) -> None:
        """Compare with the other processes what decides the result.

        Raises:
            HostsDisagreeError: Hosts differ.
        """
        data = {"training": self.data, **{each.title: each.data for each in self.evaluation}}
        require_agreement(settings, ranks, self.model_folder, self.base.fingerprint or "", data)


def _train(settings: TrainSettings, ranks: Ranks, prepared: Prepared) -> None:
    """Do all of the run: every process makes the same calls in the same order."""
    identity = _identity(settings, ranks, prepared)
    claim = choose_start(settings, ranks, identity)
    if claim.start is not None:
        nothing_unsaved()
    batches = _loader(prepared.data, prepared.data_folders, ranks, settings.data_workers)
    evaluation_batches = None
    if prepared.evaluation:
        first, *others = prepared.evaluation
        further = [each.folders for each in others]
        evaluation_batches = _loader(first.data, first.folders, ranks, settings.data_workers, further)
    with batches, evaluation_batches or nullcontext():
        batches.start()  # the data workers get ready while the model is loaded
        run = _assemble(settings, ranks, prepared, identity, claim, batches, evaluation_batches)
        with ending_with(run.reporter.close), StopSignals() as signals:
            summary = _train_and_write(settings, ranks, prepared, run, signals)
        print_summary(summary)
        if ranks.is_main:
            print_last_lines(settings, run.loop.progress.step)


def _overfit(settings: TrainSettings, ranks: Ranks, prepared: Prepared) -> None:
    """Find out whether a few rows can be learned; nothing is written to the output."""
    data = prepared.data
    rows = SomeRows(data, spread(settings.overfit or 0, np.flatnonzero(data.supervised).tolist()))
    with _loader(data, prepared.data_folders, ranks, settings.data_workers) as batches:
        batches.start()
        wrapped, _ = _load_model(settings, ranks, replace(prepared, data=rows))
        # Answers are made while micro-batches are awaited, so they have a loader of their own.
        answering = _loader(data, prepared.data_folders, ranks, workers=0)
        overfit(settings, ranks, prepared.model_folder, rows, (batches, answering), wrapped)


@dataclass(frozen=True)
class _Run:
    """The parts of a run that is ready to begin."""

    wrapped: Wrapped
    optimizer: Optimizer
    checkpointer: Checkpointer
    evaluation: Evaluation | None
    reporter: Reporter
    loop: Loop
    loading_peak: int


def _assemble(
    settings: TrainSettings,
    ranks: Ranks,
    prepared: Prepared,
    identity: Identity,
    claim: Claim,
    batches: MicroBatches,
    evaluation_batches: MicroBatches | None,
) -> _Run:
    """Load the model and make everything that trains it, in the state of the checkpoint to resume from."""
    start = claim.start
    wrapped, loading_peak = _load_model(settings, ranks, prepared)
    plan = plan_steps(settings, ranks, prepared.data, wrapped.model.config.to_dict())
    _check_memory(settings, ranks, plan, wrapped, prepared)
    optimizer = Optimizer(wrapped.trainable, settings.weight_decay)
    order, progress, rates = _order(settings, plan, start)
    if start is not None:
        restore(start.checkpoint, wrapped, optimizer, ranks)
        logger.info(f"resuming from {start.checkpoint}: step {progress.step} of {order.total_steps}")
    checkpointer = Checkpointer(
        settings,
        ranks,
        wrapped,
        optimizer,
        rates,
        identity,
        prepared.model_folder,
        RunManifest(settings, prepared.base, prepared.data, wrapped.trainable),
        claim.run,
        newest=start.checkpoint if start is not None else None,
    )
    evaluation = _evaluation(settings, ranks, prepared, evaluation_batches)
    loop = Loop(
        settings=settings,
        ranks=ranks,
        wrapped=wrapped,
        optimizer=optimizer,
        dataset=prepared.data,
        order=order,
        rates=rates,
        load=batches,
        reporter=_reporter(settings, ranks, prepared, progress, _evaluates_as_before(identity, start)),
        save=checkpointer.save,
        save_alone=checkpointer.save_alone,
        judge=make_judge(checkpointer, start, progress),
        evaluation=evaluation,
        progress=progress,
        flops=FlopCounter(wrapped.model.config, wrapped.trainable, wrapped.model.geometry),
    )
    return _Run(wrapped, optimizer, checkpointer, evaluation, loop.reporter, loop, loading_peak)


def _train_and_write(
    settings: TrainSettings, ranks: Ranks, prepared: Prepared, run: _Run, signals: StopSignals
) -> dict[str, float]:
    """Make all steps, write ``final/`` and ``best/``, and evaluate ``final/`` where it is another model.

    Returns:
        The numbers of the whole run, which are also the last line of its metrics.
    """
    reset_peak(ranks.device)
    progress = run.loop.progress
    before, began = replace(progress, counts=dict(progress.counts)), time.monotonic()
    run.loop.run(signals)
    summary = run_summary(ranks, before, progress, time.monotonic() - began, run.loading_peak)
    if progress.step < run.loop.order.total_steps:
        summary["stopped_early"] = True
    checkpoint = run.checkpointer.newest
    assert checkpoint is not None, "a run saves after its last step"
    try:
        differs = write_final(
            settings,
            ranks,
            run.wrapped,
            prepared.model_folder,
            checkpoint,
            run.checkpointer.manifest,
            progress,
            signals,
        )
        best = finish_best(settings, ranks, run.wrapped, prepared.model_folder, checkpoint, signals)
        if best is not None:
            summary |= {"best_step": best.step, f"best_{best.metric}": best.value}
        if differs and run.evaluation is not None:
            run.optimizer.release()
            summary |= evaluate_final(
                settings, ranks, run.wrapped, run.evaluation, run.reporter.validated, progress.step, signals
            )
    except BaseException:
        with suppress(MdlError):  # the first error is the one to report
            run.reporter.end(summary, progress.step)
        raise
    run.reporter.end(summary, progress.step)
    return summary


def _identity(settings: TrainSettings, ranks: Ranks, prepared: Prepared) -> Identity:
    return Identity(
        dataset=prepared.data.fingerprint,
        eval_dataset=fingerprint_of(prepared.evaluation),
        model=prepared.base.fingerprint or "",
        options=as_dict(settings),
        on_hosts=ranks.gather_objects(prepared.data.fingerprint),
    )


def _loader(
    data: ClipDataset,
    folders: Sequence[Path],
    ranks: Ranks,
    workers: int,
    further: Sequence[Sequence[Path]] = (),
) -> MicroBatches:
    return MicroBatches(folders, data.manifest.audio_token_id, ranks.device, workers, further)


def _load_model(settings: TrainSettings, ranks: Ranks, prepared: Prepared) -> tuple[Wrapped, int]:
    """Load the model, make it trainable, and show what is trained and on what.

    Returns:
        The model, and the peak memory of loading it on the process that needed most, in bytes.
    """
    reset_peak(ranks.device)
    began = time.monotonic()
    with status(f"loading {settings.model_name}…"):
        wrapped = prepare(prepared.model_folder, settings, ranks)
    peak = int(ranks.max([float(peak_bytes(ranks.device))])[0])
    logger.info(
        f"loaded {settings.model_name} in {duration(time.monotonic() - began)}, peak memory {gib(peak)}"
    )
    logger.info(describe_trainable(wrapped.model))
    builder = PromptBuilder(prepared.model_folder)
    logger.info(describe_example(prepared.data[0], builder.decode, builder.audio_token_id))
    return wrapped, peak


def _check_memory(
    settings: TrainSettings, ranks: Ranks, plan: Plan, wrapped: Wrapped, prepared: Prepared
) -> None:
    """Say what will be needed, decide on gradient checkpointing, and try the largest micro-batch first.

    Where the host's memory is plenty the trial would only cost the time of a step.
    """
    memory = plan_memory(wrapped, plan, settings, ranks)
    needed = memory.state + memory.activations
    tight = ranks.device.type == "cuda" or not memory.fits or 2 * needed > memory.available
    if ranks.any(tight):
        load = _loader(prepared.data, prepared.data_folders, ranks, workers=0)
        try_worst(wrapped, next(load([memory.worst])), ranks)


def _order(
    settings: TrainSettings, plan: Plan, start: Start | None
) -> tuple[RunOrder, RunProgress, LearningRates]:
    """The steps to make, where the run stands, and the learning rates."""
    progress = RunProgress()
    if start is not None:
        state = start.state
        progress = RunProgress(
            state.step,
            DataPosition(state.epoch, state.first_sample),
            dict(state.counts),
            state.seconds,
            state.standing,
        )
    order = RunOrder(plan, settings.num_epochs, settings.max_steps, progress.position, progress.step)
    rates = LearningRates.of(settings, order.total_steps)
    if start is not None:
        length = ("num_epochs", "max_steps")
        rates = rates.resumed(
            state.step,
            state.schedule_position,
            state.schedule_total,
            order.total_steps,
            stretch=all(state.options.get(name) == getattr(settings, name) for name in length),
        )
    highest = rates.highest_in_warmup(order.total_steps)
    if highest is not None:
        logger.warning(
            f"the warm-up takes {rates.warmup} steps and the run has no more than {order.total_steps}: its "
            f"learning rate rises to {highest:.3g} at the end and never gets to --lr {settings.lr:g}; give "
            "fewer --warmup-steps, or a share such as --warmup-ratio 0.1"
        )
    return order, progress, rates


def _evaluation(
    settings: TrainSettings, ranks: Ranks, prepared: Prepared, batches: MicroBatches | None
) -> Evaluation | None:
    if batches is None:
        return None
    how = None
    if settings.eval_generate is not None:
        how = make_answering(settings, prepared.model_folder, prepared.data)
    folder = settings.output / EVALUATION
    return make_evaluation(settings, ranks, prepared.evaluation, batches, how, folder)


def _evaluates_as_before(identity: Identity, start: Start | None) -> bool:
    """Whether a resumed run measures on what it was measured on before."""
    if start is None:
        return True
    before = Yardstick.of(start.state.eval_dataset, start.state.options)
    return before == Yardstick.of(identity.eval_dataset, identity.options)


def _reporter(
    settings: TrainSettings, ranks: Ranks, prepared: Prepared, progress: RunProgress, same_evaluation: bool
) -> Reporter:
    if not ranks.is_main:
        return Reporter(None, None)
    log = MetricsLog(settings.output / METRICS_FILE, progress.step)
    cpu = ranks.device.type == "cpu"
    trackers = Trackers(prepared.trackers, settings.output, as_dict(settings), cpu)
    return Reporter(log, trackers, settings.logging_steps, progress.step, same_evaluation=same_evaluation)
