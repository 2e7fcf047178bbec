"""A training run, top to bottom: from settings to ``final/``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mdl_toolkit.data.batching.balance import Costs
from mdl_toolkit.data.batching.plan import Plan
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.distributed.group import Ranks, joined
from mdl_toolkit.errors import MdlError
from mdl_toolkit.memory import gib, peak_bytes, reset_peak
from mdl_toolkit.model_folders.manifest import BaseRecord, Kind, ModelManifest
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import as_dict
from mdl_toolkit.terminal.live_line import status
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import duration
from mdl_toolkit.terminal.torchrun import report_failure
from mdl_toolkit.training.batches.example import describe_example
from mdl_toolkit.training.batches.loader import MicroBatches
from mdl_toolkit.training.batches.order import DataPosition, RunOrder
from mdl_toolkit.training.checkpoints.checkpointer import Checkpointer, Identity, restore
from mdl_toolkit.training.checkpoints.resume import Start, choose_start
from mdl_toolkit.training.checkpoints.storage import owning
from mdl_toolkit.training.evaluate import Evaluation
from mdl_toolkit.training.final import evaluate_final, write_final
from mdl_toolkit.training.loop import Loop, RunProgress
from mdl_toolkit.training.memory.estimate import plan_memory, try_worst
from mdl_toolkit.training.metrics.file import METRICS_FILE, MetricsLog
from mdl_toolkit.training.metrics.flops import FlopCounter
from mdl_toolkit.training.metrics.reporter import Reporter
from mdl_toolkit.training.metrics.trackers import Trackers
from mdl_toolkit.training.optimizer import Optimizer
from mdl_toolkit.training.ready import Inputs, Ready, make_ready
from mdl_toolkit.training.schedule import LearningRates
from mdl_toolkit.training.signals import StopSignals
from mdl_toolkit.training.trainable.adapters import describe_trainable
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
    train_ready(make_ready(settings))


def train_ready(ready: Ready) -> None:
    """Fine-tune with what :func:`make_ready` found; raises as :func:`train` does."""
    late: MdlError | None = None
    prepared: Prepared | None = None
    try:
        prepared = Prepared.of(ready)
    except MdlError as error:
        if ready.launch.rank == 0:
            report_failure(str(error))
            raise
        late = error
    with joined(ready.launch) as ranks:
        if prepared is None:
            raise late or AssertionError
        with owning(ready.settings.output) if ranks.is_main else nullcontext():
            _train(ready.settings, ranks, prepared)


@dataclass(frozen=True)
class Prepared(Inputs):
    """What a run needs before its processes talk to each other.

    Attributes:
        base: What is trained, for the record.
    """

    base: BaseRecord

    @classmethod
    def of(cls, ready: Ready) -> Prepared:
        """Look at the weights too.

        Raises:
            MdlError: What is wrong with them, or what was wrong before.
        """
        settings, inputs = ready.settings, ready.inputs
        if isinstance(inputs, MdlError):
            raise inputs
        base = BaseRecord.of(settings.model_name, inputs.model_folder, settings.revision)
        return cls(**vars(inputs), base=base)


def _train(settings: TrainSettings, ranks: Ranks, prepared: Prepared) -> None:
    identity = Identity(
        dataset=prepared.data.fingerprint,
        eval_dataset=prepared.evaluation.fingerprint if prepared.evaluation else None,
        model=prepared.base.fingerprint or "",
        options=as_dict(settings),
    )
    start = choose_start(settings, ranks)
    if start is not None:
        identity.check(start.state, start.checkpoint)

    load = _loader(prepared.data, prepared.data_folders, ranks, settings.data_workers)
    evaluation_load = None
    if prepared.evaluation is not None:
        evaluation_load = _loader(
            prepared.evaluation, prepared.evaluation_folders, ranks, settings.data_workers
        )
    with load, evaluation_load or nullcontext():
        load.start()  # they get ready while the model is loaded
        _train_on(load, evaluation_load, settings, ranks, prepared, identity, start)


def _train_on(
    load: MicroBatches,
    evaluation_load: MicroBatches | None,
    settings: TrainSettings,
    ranks: Ranks,
    prepared: Prepared,
    identity: Identity,
    start: Start | None,
) -> None:
    reset_peak(ranks.device)
    began = time.monotonic()
    with status(f"loading {settings.model_name}…"):
        wrapped = prepare(prepared.model_folder, settings, ranks)
    loading = int(ranks.max([float(peak_bytes(ranks.device))])[0])
    logger.info(
        f"loaded {settings.model_name} in {duration(time.monotonic() - began)}, peak memory {gib(loading)}"
    )
    logger.info(describe_trainable(wrapped.model))
    _say_example(prepared)

    plan = _plan(settings, ranks, prepared.data, wrapped)
    _check_memory(settings, ranks, plan, wrapped, prepared)
    optimizer = Optimizer(wrapped.trainable, settings.weight_decay)
    order, progress, rates = _order(settings, plan, start)
    if start is not None:
        restore(start.checkpoint, wrapped, optimizer)
        logger.info(f"going on from {start.checkpoint}: step {progress.step} of {order.total_steps}")

    def manifest(kind: Kind, at: RunProgress) -> ModelManifest:
        return _manifest(kind, settings, prepared, at, wrapped)

    checkpointer = Checkpointer(
        settings.output,
        ranks,
        wrapped,
        optimizer,
        rates,
        settings,
        identity,
        prepared.model_folder,
        manifest,
        newest=start.checkpoint if start is not None else None,
    )
    evaluation = _evaluation(settings, ranks, prepared, evaluation_load)
    reporter = _reporter(settings, ranks, prepared, progress)
    loop = Loop(
        settings=settings,
        ranks=ranks,
        wrapped=wrapped,
        optimizer=optimizer,
        dataset=prepared.data,
        order=order,
        rates=rates,
        load=load,
        reporter=reporter,
        save=checkpointer.save,
        evaluation=evaluation,
        flops=FlopCounter(wrapped.model.config, wrapped.trainable, wrapped.model.geometry),
        progress=progress,
    )
    reset_peak(ranks.device)
    before, began = RunProgress(progress.step, progress.position, dict(progress.counts)), time.monotonic()
    try:
        with StopSignals() as signals:
            loop.run(signals)
            summary = _summary(ranks, before, progress, time.monotonic() - began, loading)
            assert checkpointer.newest is not None, "a run saves after its last step"
            try:
                differs = write_final(
                    settings,
                    ranks,
                    wrapped,
                    prepared.model_folder,
                    checkpointer.newest,
                    manifest,
                    progress,
                    signals,
                )
                if differs and evaluation is not None:
                    optimizer.release()
                    summary |= evaluate_final(
                        settings, ranks, wrapped, evaluation, reporter.validated, signals
                    )
            except BaseException:
                with suppress(MdlError):  # the first error is the one to tell
                    reporter.end(summary, progress.step)
                raise
            reporter.end(summary, progress.step)
    finally:
        reporter.close()
    _say_goodbye(settings, summary)


def _say_example(prepared: Prepared) -> None:
    """Show what is asked and what is learned, for a person to check."""
    builder = PromptBuilder(prepared.model_folder)
    logger.info(describe_example(prepared.data[0], builder.decode, builder.audio_token_id))


def _plan(settings: TrainSettings, ranks: Ranks, data: ClipDataset, wrapped: Wrapped) -> Plan:
    return Plan(
        data.tokens,
        data.samples,
        data.supervised,
        seed=settings.seed,
        micro_batches=ranks.world_size * settings.gradient_accumulation_steps,
        batch_size=None if settings.max_tokens else settings.batch_size,
        max_tokens=settings.max_tokens,
        geometry=data.geometry,
        costs=Costs.from_config(wrapped.model.config.to_dict()),
    )


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
            state.step, DataPosition(state.epoch, state.first_sample), dict(state.counts), state.seconds
        )
    order = RunOrder(plan, settings.num_epochs, settings.max_steps, progress.position, progress.step)
    rates = LearningRates(
        settings.lr_scheduler,
        settings.lr,
        settings.warmup_steps,
        order.total_steps,
        warmup_ratio=settings.warmup_ratio,
    )
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


def _loader(data: ClipDataset, folders: Sequence[Path], ranks: Ranks, workers: int) -> MicroBatches:
    return MicroBatches(folders, data.manifest.audio_token_id, ranks.device, workers)


def _evaluation(
    settings: TrainSettings, ranks: Ranks, prepared: Prepared, load: MicroBatches | None
) -> Evaluation | None:
    if prepared.evaluation is None or load is None:
        return None
    return Evaluation(
        prepared.evaluation,
        load,
        ranks,
        settings.eval_batch_size or settings.batch_size,
        None if settings.eval_batch_size else settings.max_tokens,
    )


def _reporter(settings: TrainSettings, ranks: Ranks, prepared: Prepared, progress: RunProgress) -> Reporter:
    if not ranks.is_main:
        return Reporter(None, None)
    log = MetricsLog(settings.output / METRICS_FILE, progress.step)
    cpu = ranks.device.type == "cpu"
    trackers = Trackers(prepared.trackers, settings.output, as_dict(settings), cpu)
    return Reporter(log, trackers, settings.logging_steps, progress.step)


def _manifest(
    kind: Kind, settings: TrainSettings, prepared: Prepared, at: RunProgress, wrapped: Wrapped
) -> ModelManifest:
    """What a folder that this run writes says about itself."""
    described = prepared.data.manifest
    return ModelManifest(
        kind=kind,
        base=prepared.base,
        prompts=described.prompts,
        audio=asdict(prepared.data.geometry),
        dataset={
            "fingerprint": prepared.data.fingerprint,
            "source": dict(described.source),
            "rows": len(prepared.data),
            "tokens": int(prepared.data.tokens.sum()),
            "supervised_tokens": int(prepared.data.supervised.sum()),
            "longest_answer_tokens": int(prepared.data.supervised.max()),
        },
        options=as_dict(settings),
        training={
            "step": at.step,
            "epoch": round(at.position.epoch + at.position.first_sample / len(prepared.data), 6),
            "trained_parameters": sum(parameter.numel() for parameter in wrapped.trainable.values()),
        },
    )


def _summary(
    ranks: Ranks, before: RunProgress, after: RunProgress, seconds: float, loading: int
) -> dict[str, float]:
    """The numbers of the whole run; rates are of what this process saw, not of a run before a resume."""
    training = int(ranks.max([float(peak_bytes(ranks.device))])[0])
    steps = after.step - before.step
    seconds = max(seconds, 1e-9)

    def made(key: str) -> float:
        return after.counts[key] - before.counts[key]

    finite = after.step - after.counts["skipped"]
    return {
        "train_runtime": round(seconds, 6),
        "train_samples_per_second": made("clips") / seconds,
        "train_steps_per_second": steps / seconds,
        "train_tokens_per_second": made("tokens") / seconds,
        "train_loss": after.counts["loss"] / finite if finite else float("nan"),
        "total_flos": after.counts["flops"],
        "flops_per_second": made("flops") / seconds,
        "skipped_steps": int(after.counts["skipped"]),
        "total_clips": int(after.counts["clips"]),
        "total_tokens": int(after.counts["tokens"]),
        "peak_memory_loading": loading,
        "peak_memory_training": training,
    }


def _say_goodbye(settings: TrainSettings, summary: dict[str, float]) -> None:
    skipped = summary["skipped_steps"]
    logger.info(
        f"trained in {duration(summary['train_runtime'])}: "
        f"{summary['train_samples_per_second']:.1f} clips/s, mean loss {summary['train_loss']:.4f}"
        + (f", {skipped} updates skipped for not being finite" if skipped else "")
    )
    loading, training = int(summary["peak_memory_loading"]), int(summary["peak_memory_training"])
    logger.info(f"peak memory: {gib(loading)} in loading, {gib(training)} in training")
    final = settings.output / "final"
    logger.info(f"{final} is ready: mdl-toolkit inference INPUT.csv --output OUTPUT.csv --model-name {final}")
