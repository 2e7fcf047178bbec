"""``final/``: what a run leaves for use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mdl_toolkit.checkpoint.export import export_merged, export_trained
from mdl_toolkit.checkpoint.manifest import Kind, ModelManifest
from mdl_toolkit.console import say
from mdl_toolkit.errors import MdlError, Stopped, StorageError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.train.adapters import kind_of, trained_tensors, trained_weights
from mdl_toolkit.train.distributed import Ranks
from mdl_toolkit.train.loop import Progress
from mdl_toolkit.train.signals import StopSignals
from mdl_toolkit.train.state import FINAL, stranger_in
from mdl_toolkit.train.wrap import Wrapped


def write_final(
    settings: TrainSettings,
    ranks: Ranks,
    wrapped: Wrapped,
    base_folder: Path,
    manifest: Callable[[Kind, Progress], ModelManifest],
    progress: Progress,
    signals: StopSignals,
) -> None:
    """Write ``final/``: a stand-alone model, or the adapter (``--merge-lora false``). Every process calls it.

    Raises:
        Stopped: A signal came; the last checkpoint has everything that ``final/`` is made of.
        StorageError: It could not be written.
    """
    target = settings.output / FINAL
    message = f"stopped before {target} was written; go on with --resume-from-checkpoint true"
    stopped: Stopped | None = None
    if ranks.is_main:
        try:
            signals.stop_at_once(message)
            if (stranger := stranger_in(target)) is not None:
                raise MdlError(
                    f"{target} could not be written: {stranger} is in the way and was not written by a run; "
                    "move it elsewhere, then go on with --resume-from-checkpoint true"
                )
            say(f"writing {target}")
            _write(settings, wrapped, base_folder, manifest, progress, target)
        except Stopped as error:
            stopped = error
        except StorageError as error:
            last = settings.output / f"checkpoint-{progress.step}"
            raise StorageError(
                f"{error}; {last} has all that was learned: make room, then go on with "
                "--resume-from-checkpoint true, which writes it"
            ) from error
    else:
        for _ in trained_tensors(wrapped.model):
            raise AssertionError("the main process alone is given tensors")
    # All processes stop for a signal that the writing one got.
    number = ranks.broadcast_object(stopped.exit_code - 128 if stopped else None)
    if number is not None:
        raise Stopped(number, message)


def _write(
    settings: TrainSettings,
    wrapped: Wrapped,
    base_folder: Path,
    manifest: Callable[[Kind, Progress], ModelManifest],
    progress: Progress,
    target: Path,
) -> None:
    model = wrapped.model
    if settings.method == "full":
        export_merged(base_folder, trained_tensors(model), None, target, manifest("model", progress))
        return
    adapter = trained_weights(model, settings)
    if settings.merge_lora:
        export_merged(base_folder, (), adapter, target, manifest("model", progress))
    else:
        export_trained(target, base_folder, adapter, manifest(kind_of(adapter), progress))
