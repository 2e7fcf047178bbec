"""The model as the loop sees it: alone, replicated on every process, or sharded over them (FSDP2)."""

from __future__ import annotations

import contextlib
import gc
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mdl_toolkit.distributed.gradients import GradientReducer
from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.sharding import load_full, load_shards, local_bytes
from mdl_toolkit.errors import ModelError, OutOfMemoryError, SettingsError
from mdl_toolkit.memory import available_bytes, is_out_of_memory
from mdl_toolkit.model.kernels.linear import lay_out
from mdl_toolkit.model_folders.names import is_adapter, published_name
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.memory.split import Splitter, does_not_fit
from mdl_toolkit.training.trainable.adapters import initialise_adapters, make_trainable, trainable_parameters

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.model.midashenglm import MiDashengLMModel


class Wrapped:
    """A model whose gradients are summed over the processes; here: a whole copy on each of them.

    Attributes:
        model: The model itself.
        trainable: What the optimizer updates, by published name.
        lockstep: Whether every process must make the same number of passes, evaluation included.
        splits: How often a micro-batch did not fit and was done in parts.
    """

    lockstep = False

    def __init__(
        self, model: MiDashengLMModel, ranks: Ranks, dtype: torch.dtype, autocast: bool = False
    ) -> None:
        self.model, self.dtype = model, dtype
        self.trainable = trainable_parameters(model)
        self._device_type = ranks.device.type
        self._autocast = autocast
        self._splitter = Splitter(model.geometry, ranks.rank)
        group = dist.group.WORLD if ranks.world_size > 1 else None
        self._reducer = GradientReducer(self.trainable.values(), group)

    @property
    def itemsize(self) -> int:
        """Bytes of a number in forward and backward passes."""
        return self.dtype.itemsize

    def state_bytes(self) -> int:
        """Bytes that gradients and two moments of the optimizer will take on this process."""
        return 3 * sum(local_bytes(parameter) for parameter in self.trainable.values())

    @property
    def splits(self) -> int:
        """How often a micro-batch did not fit and was done in parts."""
        return self._splitter.splits

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of a forward pass: to be entered around direct calls of ``model``."""
        if not self._autocast:
            return contextlib.nullcontext()
        return torch.autocast(self._device_type, torch.bfloat16)

    def micro_batch(self, batch: PackedBatch, scale: float, last: bool) -> Tensor:
        """Forward and backward of ``scale`` times the summed loss.

        Args:
            batch: On the device. Split where it does not fit.
            scale: One over the supervised tokens of the whole step, of all processes.
            last: Whether this is the step's last micro-batch of this process: gradients are summed over the
                processes before it returns. Every process must say so equally often.

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

        total = self._splitter.run(one_pass, batch, self._reducer.again)
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
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self.trainable.values(), max_norm, norm, foreach=True)
        return norm

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.trainable.values():
            parameter.grad = None

    def release(self) -> None:
        """Give the memory of the model back; nothing can be done with it any more."""
        self.trainable.clear()
        self._let_go()
        del self.model
        gc.collect()
        if self._device_type == "cuda":
            torch.cuda.empty_cache()

    def _let_go(self) -> None:
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
        self._device_type, self._autocast = ranks.device.type, False
        self._splitter = Splitter(model.geometry, ranks.rank)
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

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm; see :meth:`Wrapped.clip_grad_norm`."""
        gradients = [p.grad for p in self.trainable.values() if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(gradients, foreach=True)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self.trainable.values(), max_norm, norm, foreach=True)
        assert isinstance(norm, Tensor)
        return norm

    def _let_go(self) -> None:
        """FSDP's own state goes with the model."""

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


def open_for_evaluation(folder: Path, settings: TrainSettings, ranks: Ranks) -> Wrapped:
    """Load a stand-alone model, with nothing to train, as this run's processes can hold and compute it.

    Args:
        folder: Of the model.
        settings: Of the run, for precision and sharding.
        ranks: Its processes.
    """
    from mdl_toolkit.model_folders.load import build_empty, load_model

    dtype = compute_dtype(settings, ranks.device)
    if settings.sharding == "none":
        model = load_model(folder, dtype=dtype, device=str(ranks.device))
        return Wrapped(model.requires_grad_(False), ranks, dtype)
    model = build_empty(folder, dtype).requires_grad_(False)
    shard(model, settings, ranks, dtype)
    load_shards(model, folder, ranks.device)
    return Sharded(model, ranks, settings, dtype)


def compute_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype:
    """What forward and backward passes compute in: bfloat16 if asked for, else where a GPU has it."""
    wanted = settings.bf16
    if wanted is None:
        wanted = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if wanted else torch.float32


def prepare(folder: Path, settings: TrainSettings, ranks: Ranks) -> Wrapped:
    """Load a model, make what the settings name trainable, and wrap it for this number of processes.

    Args:
        folder: The base model.
        settings: ``sharding`` is decided; ``gradient_checkpointing`` counts as off where it is ``auto``.
        ranks: The processes.

    Raises:
        ModelError: Where the folder can't be used, or processes have loaded different models.
        SettingsError: Where the options name nothing that the model has.
    """
    from mdl_toolkit.model_folders.folder import open_folder
    from mdl_toolkit.model_folders.load import build_empty, check_names, load_model
    from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles

    if (kind := open_folder(folder).kind) != "model":
        raise ModelError(
            f"{folder}: an {kind} can't be trained on: give its merged model, or go on with its own run by "
            "--resume-from-checkpoint"
        )
    dtype = compute_dtype(settings, ranks.device)
    if settings.sharding == "none":
        quantization: Any = settings.quantization
        model = load_model(folder, dtype=dtype, device=str(ranks.device), quantization=quantization)
        make_trainable(model, settings)
        _restore_precision(model, folder)
        _arrange(model, settings)
        _check_same(model, ranks)
        if settings.method == "lora" and ranks.device.type == "cpu" and not settings.compile:
            lay_out(model, available_bytes(ranks.device, ranks.local_world_size), backward=True)
        return Wrapped(model, ranks, dtype, autocast=dtype != torch.float32 and settings.method == "full")
    model = build_empty(folder, dtype)
    check_names(folder, model, WeightFiles(folder))
    make_trainable(model, settings)
    _arrange(model, settings)
    shard(model, settings, ranks, dtype)
    load_shards(model, folder, ranks.device)
    if settings.method == "lora":
        initialise_adapters(model, settings.seed)
    return Sharded(model, ranks, settings, dtype)


def shard(model: MiDashengLMModel, settings: TrainSettings, ranks: Ranks, dtype: torch.dtype) -> None:
    """Split a model over the processes: each block, the projector, and the rest as a whole.

    ``optimizer`` keeps gathered weights from the forward to the end of the backward pass, as ZeRO-2 does;
    ``full`` gathers them twice; ``hybrid`` splits within each machine and repeats that on every machine. The
    front end's normaliser stays whole and in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    kind = ranks.device.type
    sizes = set(ranks.gather_objects(ranks.local_world_size))
    if settings.sharding == "hybrid" and len(sizes) > 1:
        raise SettingsError(
            [f"--sharding hybrid needs equally many processes on every machine, here {sorted(sizes)}"]
        )
    if settings.sharding == "hybrid" and 1 < ranks.local_world_size < ranks.world_size:
        shape = (ranks.nodes, ranks.local_world_size)
        mesh = init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(kind, (ranks.world_size,), mesh_dim_names=("shard",))
    mixed = MixedPrecisionPolicy(cast_forward_inputs=False)
    if dtype != torch.float32:
        mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    normaliser = set(model.audio_encoder.init_bn.parameters())
    again = settings.sharding != "optimizer"
    for module in [*model.blocks(), model.audio_projector]:
        fully_shard(module, mesh=mesh, mp_policy=mixed, reshard_after_forward=again)
    # The root's weights (embeddings, head) are needed at both ends of every pass: they stay gathered within
    # it.
    fully_shard(model, mesh=mesh, mp_policy=mixed, reshard_after_forward=False, ignored_params=normaliser)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Sums, not means: the loss is already divided by the tokens of all processes.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _arrange(model: MiDashengLMModel, settings: TrainSettings) -> None:
    if settings.gradient_checkpointing is True:
        model.recompute_blocks()
    if settings.compile:
        model.compile_blocks()


@torch.no_grad()
def _restore_precision(model: MiDashengLMModel, folder: Path) -> None:
    """Read weights that train in float32 from the files again, where loading has rounded them."""
    from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles

    files = None
    for name, parameter in trainable_parameters(model).items():
        if is_adapter(name):
            continue
        files = files or WeightFiles(folder)
        if name in files and files[name].dtype == torch.float32:
            load_full(parameter, files.tensor(name))


def _check_same(model: nn.Module, ranks: Ranks) -> None:
    """Compare a digest of every tensor's first values: machines may have different copies of a model.

    Raises:
        ModelError: Where a process has another model than rank 0.
    """
    if ranks.world_size == 1:
        return
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        head = parameter.detach().flatten()[:8].cpu()
        digest.update(
            f"{published_name(name)} {parameter.dtype} {tuple(parameter.shape)} {head.tolist()}".encode()
        )
    found = ranks.gather_objects(digest.hexdigest())
    different = [rank for rank, other in enumerate(found) if other != found[0]]
    if different:
        raise ModelError(
            f"rank {different[0]} has loaded another model than rank 0: the machines' copies of the model "
            "differ; give all of them the same folder or --revision"
        )
