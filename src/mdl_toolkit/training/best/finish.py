"""At the end of a run ``best/`` takes the form of ``final/``: whatever loads one loads the other."""

from __future__ import annotations

import filecmp
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mdl_toolkit.errors import MdlError, Stopped, StorageError
from mdl_toolkit.files import atomic_folder, storage_cause
from mdl_toolkit.model_folders.export import export_merged
from mdl_toolkit.model_folders.folder import ADAPTER_WEIGHTS, OVERLAY_WEIGHTS
from mdl_toolkit.model_folders.manifest import MANIFEST_NAME, ModelManifest
from mdl_toolkit.model_folders.trained import TrainedWeights
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.best.record import BestRecord
from mdl_toolkit.training.checkpoints.output import foreign_file_in
from mdl_toolkit.training.checkpoints.state import BEST, FINAL
from mdl_toolkit.training.final import merge_form, print_rounding

if TYPE_CHECKING:
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.model_folders.merge import MergeForm
    from mdl_toolkit.settings import TrainSettings
    from mdl_toolkit.training.signals import StopSignals
    from mdl_toolkit.training.trainable.wrap import Wrapped

logger = get_logger(__name__)


def finish_best(
    settings: TrainSettings,
    ranks: Ranks,
    wrapped: Wrapped,
    base_folder: Path,
    checkpoint: Path,
    signals: StopSignals,
) -> BestRecord | None:
    """Write ``best/`` in the form of ``final/``, which is there already; every process calls it.

    Where both are the same model, the files of ``final/`` are linked, not written again.

    Args:
        settings: The settings of the run.
        ranks: The processes of the run; the main one writes.
        wrapped: The trained model; its precision decides how a merged model is rounded.
        base_folder: The folder of the base model.
        checkpoint: The last checkpoint, of which ``final/`` was made.
        signals: The signals that ask the run to stop.

    Returns:
        The evaluation that ``best/`` was kept for; ``None`` where there is no ``best/``.

    Raises:
        Stopped: A signal came. ``best/`` is there, in the form that it had during training.
        StorageError: It could not be written; ``best/`` is there in the form that it had.
    """
    target = settings.output / BEST
    message = (
        f"all steps are saved, {settings.output / FINAL} is ready, {target} is as it was kept in training; "
        "resume with --resume-from-checkpoint true"
    )
    form = merge_form(settings, ranks, wrapped)
    stopped: Stopped | None = None
    record: BestRecord | None = None
    if ranks.is_main:
        try:
            with signals.stop_at_once(message):
                record = _finish(target, base_folder, checkpoint, form)
        except Stopped as error:
            stopped = error
    number, record = ranks.broadcast_object((stopped.exit_code - 128 if stopped else None, record))
    if number is not None:
        raise Stopped(number, message)
    return record


def _finish(target: Path, base_folder: Path, checkpoint: Path, form: MergeForm | None) -> BestRecord | None:
    record, manifest = BestRecord.read(target), None
    if record is not None:
        manifest = ModelManifest.read(target)
    if record is None or manifest is None:
        return None
    final = target.with_name(FINAL)
    same = _same_weights(target, checkpoint)
    if same:
        logger.info(f"{target} is the same model as {final}: the last evaluation was the best")
    if form is None or manifest.kind == "model":
        return record
    if (foreign := foreign_file_in(target)) is not None:
        raise MdlError(
            f"{target} could not be written: {foreign} is in the way and was not written by a run; move it "
            "elsewhere, then resume with --resume-from-checkpoint true"
        )
    manifest = replace(manifest, kind="model")
    try:
        if same:
            _link(final, target, manifest)
        else:
            logger.info(f"writing {target}, of step {record.step}")
            report = export_merged(base_folder, TrainedWeights.read(target), target, manifest, form)
            print_rounding(target, report, form)
    except (StorageError, OSError) as error:
        raise StorageError(
            f"{target} could not be written: {storage_cause(error) or error}; {final} is ready, and {target} "
            "is as it was kept in training: make room, then resume with --resume-from-checkpoint true"
        ) from error
    return record


def _same_weights(best: Path, checkpoint: Path) -> bool:
    """Whether ``best/``, as it was kept in training, holds what a checkpoint holds, byte for byte."""
    return any(
        (best / name).is_file()
        and (checkpoint / name).is_file()
        and filecmp.cmp(best / name, checkpoint / name, shallow=False)
        for name in (ADAPTER_WEIGHTS, OVERLAY_WEIGHTS)
    )


def _link(final: Path, target: Path, manifest: ModelManifest) -> None:
    """Make a folder of the files of another one, with a manifest of its own; where links can't be, copies."""
    with atomic_folder(target) as partial:
        for path in sorted(final.rglob("*")):
            copy = partial / path.relative_to(final)
            if path.is_dir():
                copy.mkdir(exist_ok=True)
            elif path.name != MANIFEST_NAME:
                try:
                    os.link(path, copy)
                except OSError:
                    shutil.copyfile(path, copy)
        manifest.write(partial)
