"""The model as the training loop uses it: replicated on every process, or sharded over them (FSDP2)."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method

from mdl_toolkit.distributed.gradients import GradientReducer, as_on_rank_0
from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.sharding import local_bytes
from mdl_toolkit.errors import OutOfMemoryError
from mdl_toolkit.memory import is_out_of_memory
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.trainable.adapters import trainable_parameters
from mdl_toolkit.training.trainable.split import Splitter, does_not_fit

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.model.midashenglm import MiDashengLMModel


class Wrapped:
    """A model of which every process has a whole copy; gradients are summed over the processes.

    Attributes:
        model: The model itself.
        trainable: The parameters that the optimizer updates, by published name.
        lockstep: Whether every process must make the same number of passes, evaluation included.
        splits: How often a micro-batch did not fit into memory and was run in parts.
    """

    lockstep = False

    def __init__(
        self, model: MiDashengLMModel, ranks: Ranks, dtype: torch.dtype, autocast: bool = False
    ) -> None:
        self.model, self.dtype = model, dtype
        self.trainable = trainable_parameters(model)
        self._device_type = ranks.device.type
        self._autocast = autocast
        self._splitter = Splitter(model.geometry, ranks.prefix)
        self._group = dist.group.WORLD if ranks.world_size > 1 else None
        self._reducer = GradientReducer(self.trainable.values(), self._group)

    @property
    def itemsize(self) -> int:
        """Bytes of a number in forward and backward passes."""
        return self.dtype.itemsize

    def state_bytes(self) -> int:
        """Bytes that gradients and two moments of the optimizer will take on this process."""
        return 3 * sum(local_bytes(parameter) for parameter in self.trainable.values())

    @property
    def splits(self) -> int:
        """How often a micro-batch did not fit into memory and was run in parts."""
        return self._splitter.splits

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of a forward pass: to be entered around direct calls of ``model``."""
        if not self._autocast:
            return contextlib.nullcontext()
        return torch.autocast(self._device_type, torch.bfloat16)

    def micro_batch(self, batch: PackedBatch, scale: float, last: bool) -> Tensor:
        """Forward and backward of ``scale`` times the summed loss.

        Args:
            batch: The micro-batch, on the device. It is split where it does not fit into memory.
            scale: One over the number of supervised tokens of the whole step, on all processes.
            last: Whether this is the step's last micro-batch of this process: gradients are summed over the
                processes before the method returns. Every process must say so equally often.

        Returns:
            The loss summed over supervised tokens: a float32 scalar on the device, without gradient.

        Raises:
            OutOfMemoryError: A single clip does not fit.
        """
        if last:
            self._reducer.begin()

        def one_pass(part: PackedBatch) -> Tensor:
            self._reducer.start_pass(overlap=last and part is batch)
            return self._forward_backward(part, scale)

        total = self._splitter.run(one_pass, batch, self._reducer.retry)
        if last:
            self._reducer.finish()
        return total

    def loss_sum(self, batch: PackedBatch) -> Tensor:
        """The loss summed over supervised tokens, without gradients: a float32 scalar on the device."""
        with torch.no_grad():
            return self._splitter.run(self._forward, batch)

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm.

        Args:
            max_norm: 0 or less only measures.

        Returns:
            Their norm before, over all parameters: a float32 scalar on the device. Nothing waits for it.
        """
        gradients = [p.grad for p in self.trainable.values() if p.grad is not None]
        norm = as_on_rank_0(torch.nn.utils.get_total_norm(gradients, foreach=True), self._group)
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self.trainable.values(), max_norm, norm, foreach=True)
        return norm

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.trainable.values():
            parameter.grad = None

    def release(self) -> None:
        """Free the memory of the model; it can't be used afterwards."""
        self.trainable.clear()
        self._release_gradients()
        del self.model
        gc.collect()
        if self._device_type == "cuda":
            torch.cuda.empty_cache()

    def _release_gradients(self) -> None:
        self._reducer.release()

    def _forward(self, batch: PackedBatch) -> Tensor:
        with self.autocast():
            loss = self.model(**batch.model_inputs()).loss_sum
        assert isinstance(loss, Tensor)
        return loss

    def _forward_backward(self, batch: PackedBatch, scale: float) -> Tensor:
        loss = self._forward(batch)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        return loss.detach()


class Sharded(Wrapped):
    """A model whose weights, gradients and optimizer state are split over the processes by FSDP2.

    Every pass gathers weights from all processes, so all must make the same passes: a micro-batch that does
    not fit ends the run, with its rows.
    """

    lockstep = True

    def __init__(
        self, model: MiDashengLMModel, ranks: Ranks, settings: TrainSettings, dtype: torch.dtype
    ) -> None:
        self.model, self.dtype = model, dtype
        self.trainable = trainable_parameters(model)
        register_fsdp_forward_method(model, "within_pass")
        self._device_type, self._autocast = ranks.device.type, False
        self._group = dist.group.WORLD if ranks.world_size > 1 else None
        self._splitter = Splitter(model.geometry, ranks.prefix)
        # Whole gradients of adapters are small, and kept until the step's end they travel once; those of a
        # model are what sharding is there to avoid.
        self._reduce_each = settings.method == "full"
        self._keep_gathered = settings.sharding == "optimizer"

    def state_bytes(self) -> int:
        """Gradients and moments of this process's share, and the weights that a pass gathers."""
        gathered = [sum(p.numel() for p in block.parameters()) for block in self.model.blocks()]
        root = sum(p.numel() for p in self.model.parameters()) - sum(gathered)
        blocks = sum(gathered) if self._keep_gathered else 2 * max(gathered)
        trained = sum(local_bytes(parameter) for parameter in self.trainable.values())
        gradients = trained if self._reduce_each else 4 * sum(p.numel() for p in self.trainable.values())
        total: int = gradients + 2 * trained + (root + blocks) * self.dtype.itemsize
        return total

    def micro_batch(self, batch: PackedBatch, scale: float, last: bool) -> Tensor:
        """Forward and backward of ``scale`` times the summed loss; see :meth:`Wrapped.micro_batch`."""
        root: Any = self.model
        root.set_requires_gradient_sync(last or self._reduce_each)
        root.set_is_last_backward(last)
        return self._or_end(self._forward_backward, batch, scale)

    def loss_sum(self, batch: PackedBatch) -> Tensor:
        """The loss summed over supervised tokens, without gradients: a float32 scalar on the device."""
        with torch.no_grad():
            return self._or_end(self._forward, batch)

    @property
    def parts(self) -> list[nn.Module]:
        """What is gathered on its own in a pass, in the order in which it is: all but the root."""
        model = self.model
        return [*model.audio_encoder.blocks, model.audio_projector, *model.decoder.model.layers]

    @torch.no_grad()
    def end_failed_pass(self, missing: Sequence[nn.Module]) -> None:
        """Gather what a pass that failed here has not gathered any more: the others do, and wait for it.

        Afterwards all processes hold of the model what they hold after any pass.

        Args:
            missing: Those of :attr:`parts` that the pass was still to gather, in their order.
        """
        root: Any = self.model
        root.unshard()
        for part in missing:
            gathered: Any = part
            gathered.unshard()
            if not self._keep_gathered:
                gathered.reshard()
        if not self._keep_gathered:
            for part in self.parts:
                gathered = part
                gathered.reshard()
        self.model.within_pass(lambda: torch.zeros(()))  # a whole pass, so that the root has ended one

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm; see :meth:`Wrapped.clip_grad_norm`."""
        gradients = [p.grad for p in self.trainable.values() if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(gradients, foreach=True)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        norm = as_on_rank_0(norm, self._group)
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self.trainable.values(), max_norm, norm, foreach=True)
        assert isinstance(norm, Tensor)
        return norm

    def _release_gradients(self) -> None:
        """Do nothing: FSDP's own state is freed with the model."""

    def _or_end(self, function: Any, batch: PackedBatch, *arguments: Any) -> Tensor:
        try:
            total = function(batch, *arguments)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            raise OutOfMemoryError(does_not_fit(batch, cause)) from None
        assert isinstance(total, Tensor)
        return total
