"""What is written at a checkpoint, and how a run is restored from it.

``OUTPUT/checkpoint-N/`` is made beside, flushed and renamed whole (``storage.py``). Into it are written, in
this order:

1. the trained tensors: ``adapter_model.safetensors`` and ``adapter_config.json`` (PEFT's format), or
   ``overlay.safetensors`` with the tensors that replace the base's (``model_folders/export.py``);
2. the small files that describe the base: configuration, tokenizer, chat template;
3. ``mdl_toolkit.json``: the base, the data, the options and the step (``training/manifest.py``);
4. ``optimizer.safetensors``: AdamW's two moments and the step count of each trained tensor, by name;
5. ``run_state.json``: where the run stands, and what it is made of (``state.py``);
6. ``complete.json``: the size and SHA-256 digest of every file above; without it the folder isn't read.

There is no pickle, and nothing depends on the number of processes: any number can resume.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.errors import MdlError, ModelError
from mdl_toolkit.model_folders.export import write_trained
from mdl_toolkit.model_folders.manifest import package_versions
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.model_folders.tensorfiles.writer import write_tensors
from mdl_toolkit.model_folders.trained import TrainedWeights
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.checkpoints.identity import Identity
from mdl_toolkit.training.checkpoints.state import OPTIMIZER, RunState
from mdl_toolkit.training.checkpoints.storage import new_checkpoint, prune
from mdl_toolkit.training.manifest import RunManifest
from mdl_toolkit.training.steps.optimizer import Optimizer
from mdl_toolkit.training.steps.progress import RunProgress
from mdl_toolkit.training.steps.schedule import LearningRates
from mdl_toolkit.training.trainable.adapters import (
    load_trained,
    trained_tensors,
    trained_weights,
)
from mdl_toolkit.training.trainable.replicas import find_drift, refuse_drift, shown_drift
from mdl_toolkit.training.trainable.wrap import Wrapped


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
        run: The id of the run.
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
        run: str,
        newest: Path | None = None,
    ) -> None:
        self.settings, self.output, self.ranks = settings, settings.output, ranks
        self.wrapped, self.optimizer, self.rates, self.identity = wrapped, optimizer, rates, identity
        self.base_folder, self.manifest, self._run = base_folder, manifest, run
        self.newest = newest

    def save(self, progress: RunProgress) -> str:
        """Write ``checkpoint-N`` as this module lists it; every process calls it, the main one writes.

        Args:
            progress: Where the run stands.

        Returns:
            A message that says what was saved.

        Raises:
            ReplicasDifferError: The processes no longer hold the same weights, so there is nothing to write.
            MdlError: It could not be written; older checkpoints are intact.
        """
        self.refuse_drift(f"step {progress.step}")
        path = self._path(progress)
        if self.ranks.is_main:
            # A sharded model is gathered meanwhile, which would wait for a lost process for ever.
            alone = self.settings.sharding == "none"
            with self.ranks.saving_alone() if alone else nullcontext():
                self._write(progress)
        else:
            # The other processes take part in gathering sharded tensors, in the same order.
            for _ in trained_tensors(self.wrapped.model):
                raise AssertionError("the main process alone is given tensors")
            for _ in self.optimizer.tensors():
                raise AssertionError("the main process alone is given tensors")
        self.ranks.barrier()
        self.newest = path
        return f"saved {path}"

    def refuse_drift(self, when: str) -> None:
        """Refuse to go on with replicas that differ; every process makes this call.

        Args:
            when: When it is, for the message.

        Raises:
            ReplicasDifferError: They differ, in weights or in the optimizer's state.
        """
        intact = "there is no checkpoint before it: start anew"
        if self.newest is not None:
            intact = f"{self.newest} is intact: resume from it (--resume-from-checkpoint true)"
        refuse_drift(self.optimizer.held(), self.ranks, when, intact)

    def save_alone(self, progress: RunProgress) -> str:
        """Save what the main process has, after another one was lost; nothing is exchanged.

        On a GPU the last updates wait in its queue for sums that will never come, and of a sharded model the
        lost process had a part: there the newest checkpoint counts.

        Args:
            progress: Where the run stands.

        Returns:
            The end of a message: what is left of the run, and how to go on.
        """
        if not self.ranks.is_main:
            return ""
        how = "resume with --resume-from-checkpoint true"
        path = self._path(progress)
        whole = self.ranks.device.type == "cpu" and self.settings.sharding == "none"
        if self.newest != path and progress.step and whole:
            try:
                self._write(progress)
            except MdlError as error:
                return f"; {error}"
            return f"; saved {path}; {how}"
        if self.newest is None:
            return "; there is no checkpoint yet"
        return f"; its newest checkpoint is {self.newest}; {how}"

    def _path(self, progress: RunProgress) -> Path:
        return self.output / f"checkpoint-{progress.step}"

    def _write(self, progress: RunProgress) -> None:
        """Write a checkpoint, as the main process; where it was whole, it is the newest from then on."""
        with new_checkpoint(self.output, progress.step) as folder:
            trained = trained_weights(self.wrapped.model, self.settings)
            manifest = self.manifest(trained.kind, progress)
            write_trained(folder, self.base_folder, trained, manifest)
            write_tensors(folder / OPTIMIZER, self.optimizer.layout(), self.optimizer.tensors())
            self._state(progress).write(folder)
        self.newest = self._path(progress)
        prune(self.output, self.settings.save_total_limit, self.newest)

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
            run=self._run,
            standing=progress.standing,
        )


def restore(checkpoint: Path, wrapped: Wrapped, optimizer: Optimizer, ranks: Ranks) -> None:
    """Put a checkpoint's weights and optimizer state into a run; every process reads its part of them.

    Raises:
        ModelError: They don't fit what the run trains, or hosts have different copies of the checkpoint.
    """
    load_trained(wrapped.model, TrainedWeights.read(checkpoint).named())
    files = WeightFiles(checkpoint, OPTIMIZER)
    optimizer.load({name: files.tensor(name) for name in files})
    drift = find_drift(optimizer.held(), ranks)
    if drift is not None:
        raise ModelError(
            f"{checkpoint}: the hosts' copies of it differ: {shown_drift(drift, ranks)}; let all hosts read "
            "one --output, or copy the checkpoint from one host to the others"
        )
