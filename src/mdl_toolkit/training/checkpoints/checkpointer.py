"""What goes into a checkpoint, and how a run takes it up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.errors import UserError
from mdl_toolkit.model_folders.export import write_trained
from mdl_toolkit.model_folders.manifest import package_versions
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.model_folders.tensorfiles.writer import write_tensors
from mdl_toolkit.model_folders.trained import TrainedWeights
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import options_where
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.checkpoints.storage import OPTIMIZER, RunState, prune, writing_checkpoint
from mdl_toolkit.training.loop import RunProgress
from mdl_toolkit.training.manifest import RunManifest
from mdl_toolkit.training.optimizer import Optimizer
from mdl_toolkit.training.schedule import LearningRates
from mdl_toolkit.training.trainable.adapters import (
    load_trained,
    trained_tensors,
    trained_weights,
)
from mdl_toolkit.training.trainable.wrap import Wrapped

logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a run is made of; a checkpoint belongs to the run that has the same.

    Attributes:
        dataset: Fingerprint of the training data.
        eval_dataset: Fingerprint of the evaluation data.
        model: Fingerprint of the base model's weights.
        options: All settings.
    """

    dataset: str
    eval_dataset: str | None
    model: str
    options: Mapping[str, Any]

    def check(self, state: RunState, checkpoint: Path) -> None:
        """Refuse a checkpoint of another dataset, model or set of trained tensors; warn of changed options.

        Raises:
            UserError: Naming what differs.
        """
        if state.dataset != self.dataset:
            raise UserError(
                f"{checkpoint} is of a run on another dataset ({state.dataset}, now {self.dataset}); resume "
                "with the same data, or train anew with another --output"
            )
        if state.model != self.model:
            raise UserError(
                f"{checkpoint} is of a run from another base model (weights {state.model}, now "
                f"{self.model}); resume with the same --model-name, or train anew with another --output"
            )
        changed = [
            (name, state.options.get(name), value)
            for name, value in self.options.items()
            if name in state.options and state.options[name] != value
        ]
        deciding = options_where(TrainSettings, resume="same")
        for name, before, now in changed:
            if name in deciding:
                raise UserError(
                    f"{checkpoint} is of a run with --{name.replace('_', '-')} {_shown(before)}, now "
                    f"{_shown(now)}: other tensors are trained; resume with the old value, or train anew "
                    "with another --output"
                )
        unheeded = options_where(TrainSettings, resume=("free", "derived"))
        for name, before, now in changed:
            if name not in unheeded:
                logger.warning(
                    f"resuming with --{name.replace('_', '-')} {_shown(now)}; before, it was {_shown(before)}"
                )
        if state.eval_dataset is not None and self.eval_dataset not in (None, state.eval_dataset):
            logger.warning(
                "resuming with another --eval-dataset: eval_loss can't be compared with what it was before"
            )


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


class Checkpointer:
    """Writes a run's checkpoints.

    Args:
        settings: The settings of the run.
        ranks: The processes of the run.
        wrapped: The model.
        optimizer: The optimizer of the trained parameters.
        rates: The learning rates.
        identity: What the run is made of.
        base_folder: The folder of the base model.
        manifest: Makes the ``mdl_toolkit.json`` of a folder.
        newest: The checkpoint that the run was resumed from.

    Attributes:
        newest: The last one written, or begun from.
    """

    def __init__(  # noqa: PLR0913, PLR0917 -- all that a checkpoint is made of
        self,
        settings: TrainSettings,
        ranks: Ranks,
        wrapped: Wrapped,
        optimizer: Optimizer,
        rates: LearningRates,
        identity: Identity,
        base_folder: Path,
        manifest: RunManifest,
        newest: Path | None = None,
    ) -> None:
        self.settings, self.output, self.ranks = settings, settings.output, ranks
        self.wrapped, self.optimizer, self.rates, self.identity = wrapped, optimizer, rates, identity
        self._base_folder, self._manifest = base_folder, manifest
        self.newest = newest

    def save(self, progress: RunProgress) -> str:
        """Write ``checkpoint-N``; every process calls it, the main one writes.

        Returns:
            What was done, for a person.

        Raises:
            MdlError: It could not be written; older checkpoints are intact.
        """
        path = self.output / f"checkpoint-{progress.step}"
        if self.ranks.is_main:
            with writing_checkpoint(self.output, self._state(progress)) as folder:
                trained = trained_weights(self.wrapped.model, self.settings)
                manifest = self._manifest(trained.kind, progress)
                write_trained(folder, self._base_folder, trained, manifest)
                write_tensors(folder / OPTIMIZER, self.optimizer.layout(), self.optimizer.tensors())
            prune(self.output, self.settings.save_total_limit, path)
        else:
            # Gathering sharded tensors is everyone's work.
            for _ in trained_tensors(self.wrapped.model):
                raise AssertionError("the main process alone is given tensors")
            for _ in self.optimizer.tensors():
                raise AssertionError("the main process alone is given tensors")
        self.ranks.barrier()
        self.newest = path
        return f"saved {path}"

    def _state(self, progress: RunProgress) -> RunState:
        return RunState(
            step=progress.step,
            epoch=progress.position.epoch,
            first_sample=progress.position.first_sample,
            schedule_position=self.rates.position(progress.step),
            schedule_total=self.rates.total,
            counts=dict(progress.counts),
            seconds=progress.seconds,
            world_size=self.ranks.world_size,
            dataset=self.identity.dataset,
            eval_dataset=self.identity.eval_dataset,
            model=self.identity.model,
            options=dict(self.identity.options),
            versions=package_versions(),
        )


def restore(checkpoint: Path, wrapped: Wrapped, optimizer: Optimizer) -> None:
    """Put a checkpoint's weights and optimizer state into a run; every process reads its part of them.

    Raises:
        ModelError: Where they don't fit what the run trains.
    """
    load_trained(wrapped.model, TrainedWeights.read(checkpoint).named())
    files = WeightFiles(checkpoint, OPTIMIZER)
    optimizer.load({name: files.tensor(name) for name in files})
