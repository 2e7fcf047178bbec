"""``final/``: what a run leaves for use, in the form that is closest to what was validated."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.errors import MdlError, OutOfMemoryError, Stopped, StorageError
from mdl_toolkit.memory import available_bytes, gib, is_out_of_memory
from mdl_toolkit.model_folders.export import ExportReport, export_merged, export_trained
from mdl_toolkit.model_folders.merge import MergeForm
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.model_folders.trained import TrainedWeights
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import duration
from mdl_toolkit.training.batches.synchronized import NoBatch
from mdl_toolkit.training.checkpoints.output import foreign_file_in
from mdl_toolkit.training.checkpoints.state import FINAL
from mdl_toolkit.training.evaluation.evaluation import Evaluation
from mdl_toolkit.training.evaluation.together import EvaluationDropped
from mdl_toolkit.training.manifest import RunManifest
from mdl_toolkit.training.signals import StopSignals
from mdl_toolkit.training.steps.progress import RunProgress
from mdl_toolkit.training.trainable.prepare import open_for_evaluation
from mdl_toolkit.training.trainable.wrap import Wrapped

logger = get_logger(__name__)


def write_final(
    settings: TrainSettings,
    ranks: Ranks,
    wrapped: Wrapped,
    base_folder: Path,
    checkpoint: Path,
    manifest: RunManifest,
    progress: RunProgress,
    signals: StopSignals,
) -> bool:
    """Write ``final/``: a stand-alone model, or the adapter (``--merge-lora false``). Every process calls it.

    It is made of the last checkpoint's files, tensor by tensor, so a sharded model isn't gathered again.

    Args:
        settings: The settings of the run.
        ranks: The processes of the run; the main one writes.
        wrapped: The trained model; its precision decides how ``final/`` is rounded.
        base_folder: The folder of the base model.
        checkpoint: The last checkpoint, which has everything that was trained.
        manifest: Makes the ``mdl_toolkit.json`` of the folder.
        progress: Where the run stands.
        signals: The signals that ask the run to stop.

    Returns:
        Whether the model in ``final/`` differs from the one that was validated in training, by more than the
        order of sums.

    Raises:
        Stopped: A signal came; the last checkpoint has everything that ``final/`` is made of.
        StorageError: It could not be written.
    """
    target = settings.output / FINAL
    message = f"all steps are saved, {target} isn't written; resume with --resume-from-checkpoint true"
    form = merge_form(settings, ranks, wrapped)
    stopped: Stopped | None = None
    rounds = False
    if ranks.is_main:
        try:
            with signals.stop_at_once(message):
                rounds = _write(target, base_folder, checkpoint, manifest, progress, form)
        except Stopped as error:
            stopped = error
    # All processes stop for a signal that the writing one got.
    number, rounds = ranks.broadcast_object((stopped.exit_code - 128 if stopped else None, rounds))
    if number is not None:
        raise Stopped(number, message)
    return form is not None and (rounds or settings.quantization is not None)


def _write(
    target: Path,
    base_folder: Path,
    checkpoint: Path,
    manifest: RunManifest,
    progress: RunProgress,
    form: MergeForm | None,
) -> bool:
    """Write ``final/`` on the main process: merged in a form, or as an adapter where ``form`` is ``None``.

    Returns:
        Whether the written weights are rounded.
    """
    if (foreign := foreign_file_in(target)) is not None:
        raise MdlError(
            f"{target} could not be written: {foreign} is in the way and was not written by a run; move it "
            "elsewhere, then resume with --resume-from-checkpoint true"
        )
    logger.info(f"writing {target}")
    trained = TrainedWeights.read(checkpoint)
    try:
        if form is None:
            export_trained(target, base_folder, trained, manifest(trained.kind, progress))
            return False
        report = export_merged(base_folder, trained, target, manifest("model", progress), form)
    except StorageError as error:
        raise StorageError(
            f"{error}; {checkpoint} has all that was learned: make room, then resume with "
            "--resume-from-checkpoint true, which writes it"
        ) from error
    print_rounding(target, report, form)
    return report.rounds


def merge_form(settings: TrainSettings, ranks: Ranks, wrapped: Wrapped) -> MergeForm | None:
    """The form of a run's stand-alone models; ``None`` where it leaves adapters (``--merge-lora false``)."""
    if settings.method != "full" and not settings.merge_lora:
        return None
    quantization: Any = settings.quantization if settings.merge_onto != "original" else None
    dtype: Any = settings.final_dtype
    return MergeForm(
        dtype=dtype,
        quantization=quantization,
        device=ranks.device,
        # Adapters are added to what they adapt after both were rounded.
        rounded_to=wrapped.dtype if settings.method == "full" and wrapped.dtype != torch.float32 else None,
    )


def print_rounding(target: Path, report: ExportReport, form: MergeForm) -> None:
    """Print how much of what was learned a smaller dtype has lost, or would have lost.

    Args:
        target: The folder that was written.
        report: What was written.
        form: How it was to be written.
    """
    total = report.rounding.total
    if not total.rounded:
        return
    parts = ", ".join(f"{name} {_percent(kept.share)}" for name, kept in report.rounding.parts.items())
    survived = _percent(total.survived / max(1, total.changed))
    left = (
        f"{_percent(total.share)} of what was learned ({parts}); {survived} of the changed weights still "
        "differ from the base's"
    )
    name = str(report.stored).removeprefix("torch.")
    if form.dtype == "auto" and report.dtype == "float32":
        part, worst = min(report.rounding.parts.items(), key=lambda item: item[1].share)
        logger.info(
            f"{target} is float32: rounding to the dtype of the base would leave {_percent(worst.share)} of "
            f"what {part} learned ({parts}), and {survived} of the changed weights would still differ from "
            "the base's (--final-dtype base: half the size)"
        )
    elif form.rounded_to == report.stored:
        logger.info(f"{target} is {name}, rounded as during training; that leaves {left}")
    elif report.rounding.is_harmless:
        logger.info(f"{target} is {name}: rounding leaves {left}")
    else:
        logger.warning(f"{target} is {name}: rounding leaves {left}; --final-dtype float32 keeps all of it")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.9995 else "100 %"


def evaluate_final(
    settings: TrainSettings,
    ranks: Ranks,
    wrapped: Wrapped,
    evaluation: Evaluation,
    validated: float | None,
    step: int,
    signals: StopSignals,
) -> dict[str, float]:
    """Evaluate ``final/`` as it is on disk, and print its loss beside the last one in training.

    The memory of the trained model is freed first. ``final/`` is complete, whatever happens here.

    Args:
        settings: The settings of the run.
        ranks: The processes of the run.
        wrapped: The trained model, which can't be used any more afterwards.
        evaluation: The evaluation on the run's evaluation data.
        validated: The loss of the last evaluation in training.
        step: The number of steps made.
        signals: The signals that ask the run to stop.

    Returns:
        Losses and scores for the run's metrics; nothing where there is no memory for the evaluation, or not
        all processes can see the folder.

    Raises:
        Stopped: A signal came.
        OutOfMemoryError: One of several processes ran out of memory, while the others were at work.
    """
    target = settings.output / FINAL
    message = f"all is saved; {target} is ready, its evaluation was left out"
    # All begin, or none.
    number = max(ranks.gather_objects(int(signals.received or 0)))
    if number:
        raise Stopped(number, message)
    try:
        # Several processes stop together, before their next batch; one does so at whatever it is doing.
        with signals.stop_at_once(message) if ranks.world_size == 1 else nullcontext():
            return _evaluate_final(target, settings, ranks, wrapped, evaluation, validated, step, signals)
    except EvaluationDropped as dropped:
        raise Stopped(dropped.number, message) from None


def _evaluate_final(
    target: Path,
    settings: TrainSettings,
    ranks: Ranks,
    wrapped: Wrapped,
    evaluation: Evaluation,
    validated: float | None,
    step: int,
    signals: StopSignals,
) -> dict[str, float]:
    if not all(ranks.gather_objects(target.is_dir())):
        logger.warning(f"{target} can't be seen from every machine: it isn't evaluated again")
        return {}
    wrapped.release()
    # Of a run on quantised weights there may be no room for the whole model.
    weights = sum(math.prod(info.shape) for info in WeightFiles(target).values()) * wrapped.dtype.itemsize
    needed = weights if settings.sharding == "none" else weights // ranks.local_world_size
    free = available_bytes(ranks.device, ranks.local_world_size)
    if ranks.any(needed > free):
        logger.warning(
            f"{target} isn't evaluated again: its weights take {gib(needed)}, and {gib(free)} are free"
        )
        return {}
    began = time.monotonic()
    try:
        where = {"step": step, "model": FINAL}
        found = evaluation(open_for_evaluation(target, settings, ranks), signals, where)
    except NoBatch as missing:
        logger.warning(f"{target} isn't evaluated again: {missing.cause or 'another process got no batch'}")
        return {}
    except EvaluationDropped:
        raise
    except Exception as error:
        if not isinstance(error, OutOfMemoryError) and not is_out_of_memory(error):
            raise
        if ranks.world_size > 1:  # the others wait for this process in a collective
            raise OutOfMemoryError(
                f"{target} is ready, but there was no memory to evaluate it: {error}"
            ) from error
        logger.warning(f"{target} isn't evaluated again: {error}")
        return {}
    seconds = time.monotonic() - began
    if ranks.is_main:
        logger.info(
            f"evaluation of {target} as it is: {evaluation.describe(found)} in {duration(seconds)}"
            + ("" if validated is None else f"; in training it was {validated:.4f}")
        )
    numbers = {f"final_{name}": value for name, value in found.items() if "rows" not in name}
    numbers["final_eval_seconds"] = seconds
    return numbers if validated is None else {**numbers, "validated_eval_loss": validated}
