"""From a model folder to a model that is ready to be trained: loaded, made trainable, and split or copied.

:func:`prepare` does all of it for training. With ``--sharding none`` every process loads the whole model.
Otherwise the model is built without storage and split by FSDP2, and each process reads its own rows of the
files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.sharding import copy_first_replica, load_full, local_part, own_rows
from mdl_toolkit.errors import ModelError, SettingsError
from mdl_toolkit.memory import available_bytes
from mdl_toolkit.model.kernels.linear import lay_out
from mdl_toolkit.model_folders.folder import open_folder
from mdl_toolkit.model_folders.load import (
    build_empty,
    check_names,
    load_model,
    named_tensors,
    set_tensor,
    tied_names,
)
from mdl_toolkit.model_folders.names import is_adapter, published_name
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.trainable.adapters import initialise_adapters, make_trainable, trainable_parameters
from mdl_toolkit.training.trainable.replicas import find_drift, shown_drift
from mdl_toolkit.training.trainable.wrap import Sharded, Wrapped

if TYPE_CHECKING:
    from mdl_toolkit.model.midashenglm import MiDashengLMModel


def prepare(folder: Path, settings: TrainSettings, ranks: Ranks) -> Wrapped:
    """Load a model, make what the settings name trainable, and wrap it for this number of processes.

    Args:
        folder: The folder of the base model.
        settings: The settings of the run, in which ``sharding`` is decided. ``gradient_checkpointing`` counts
            as off where it is ``auto``.
        ranks: The processes of the run.

    Raises:
        ModelError: The folder can't be used, or processes have loaded different models.
        SettingsError: The options name nothing that the model has.
    """
    if (kind := open_folder(folder).kind) != "model":
        raise ModelError(
            f"{folder}: an {kind} can't be trained on: give its merged model, or resume its own run with "
            "--resume-from-checkpoint"
        )
    dtype = compute_dtype(settings, ranks.device)
    if settings.sharding == "none":
        quantization: Any = settings.quantization
        model = load_model(folder, dtype=dtype, device=str(ranks.device), quantization=quantization)
        make_trainable(model, settings)
        _restore_precision(model, folder)
        _recompute_and_compile(model, settings)
        _start_alike(model, ranks)
        if settings.method == "lora" and ranks.device.type == "cpu" and not settings.compile:
            lay_out(model, available_bytes(ranks.device, ranks.local_world_size), backward=True)
        return Wrapped(model, ranks, dtype, autocast=dtype != torch.float32 and settings.method == "full")
    model = build_empty(folder, dtype)
    check_names(folder, model, WeightFiles(folder))
    make_trainable(model, settings)
    _recompute_and_compile(model, settings)
    shard(model, settings, ranks, dtype)
    load_shards(model, folder, ranks.device)
    if settings.method == "lora":
        initialise_adapters(model, settings.seed)
    _start_alike(model, ranks)
    return Sharded(model, ranks, settings, dtype)


def open_for_evaluation(folder: Path, settings: TrainSettings, ranks: Ranks) -> Wrapped:
    """Load a stand-alone model, with nothing to train, as this run's processes can hold and compute it.

    Args:
        folder: The folder of the model.
        settings: The settings of the run, for precision and sharding.
        ranks: The processes of the run.
    """
    dtype = compute_dtype(settings, ranks.device)
    if settings.sharding == "none":
        model = load_model(folder, dtype=dtype, device=str(ranks.device))
        return Wrapped(model.requires_grad_(False), ranks, dtype)
    model = build_empty(folder, dtype).requires_grad_(False)
    shard(model, settings, ranks, dtype)
    load_shards(model, folder, ranks.device)
    return Sharded(model, ranks, settings, dtype)


def compute_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype:
    """The dtype of forward and backward passes: bfloat16 if asked for or, by default, if the GPU has it."""
    wanted = settings.bf16
    if wanted is None:
        wanted = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if wanted else torch.float32


def shard(model: MiDashengLMModel, settings: TrainSettings, ranks: Ranks, dtype: torch.dtype) -> None:
    """Split a model over the processes: each block, the projector, and the rest as a whole.

    ``optimizer`` keeps gathered weights from the forward to the end of the backward pass, as ZeRO-2 does;
    ``full`` gathers them twice; ``hybrid`` splits within each machine and repeats that on every machine. The
    front end's normaliser stays whole and in float32.
    """
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


def load_shards(model: MiDashengLMModel, folder: Path, device: torch.device) -> int:
    """Give a sharded model on the meta device storage, and fill this process's rows from the folder's files.

    Nothing is read but these rows: what all processes of a machine hold together is one copy of the model.
    Adapters are left without values; :func:`initialise_adapters` fills them.

    Args:
        model: The sharded model. Its names and shapes were compared with the files' before it was sharded.
        folder: The folder of the base model.
        device: The device of this process.

    Returns:
        Bytes that this process read.
    """
    files, read = WeightFiles(folder), 0
    groups = tied_names(model)
    _materialise(model, groups, device)
    tensors = dict(named_tensors(model))
    for group in groups:
        names = [published_name(name) for name in group]
        if not is_adapter(names[0]):
            read += _fill(tensors[group[0]], files, next(name for name in names if name in files))
    model.recompute_constants()
    return read


def _materialise(model: nn.Module, groups: list[list[str]], device: torch.device) -> None:
    """Give everything on the meta device storage, one for each group of tied names."""
    model.to_empty(device=device)
    tensors = dict(named_tensors(model))
    for first, *others in groups:
        for other in others:
            set_tensor(model, other, tensors[first])


@torch.no_grad()
def _fill(tensor: Tensor, files: Any, name: str) -> int:
    if tensor.dim() == 0:
        tensor.copy_(files.tensor(name))
        return int(files[name].bytes)
    start, stop = own_rows(tensor)
    rows = files.slice(name, start, stop)
    local_part(tensor).copy_(rows)
    return int(rows.nbytes)


def _recompute_and_compile(model: MiDashengLMModel, settings: TrainSettings) -> None:
    if settings.gradient_checkpointing is True:
        model.recompute_blocks()
    if settings.compile:
        model.compile_blocks()


@torch.no_grad()
def _restore_precision(model: MiDashengLMModel, folder: Path) -> None:
    """Read weights that train in float32 from the files again, where loading has rounded them."""
    files = None
    for name, parameter in trainable_parameters(model).items():
        if is_adapter(name):
            continue
        files = files or WeightFiles(folder)
        if name in files and files[name].dtype == torch.float32:
            load_full(parameter, files.tensor(name))


def _start_alike(model: nn.Module, ranks: Ranks) -> None:
    """Compare the loaded weights, bit for bit, and let replicas begin with the same adapters.

    Adapters are computed from the seed, which another kind of processor may round otherwise: where that is
    so, the first replica's count.

    Raises:
        ModelError: Hosts have different copies of the base model, or damaged ones.
    """
    parameters = {published_name(name): parameter for name, parameter in model.named_parameters()}
    adapters = {name: parameter for name, parameter in parameters.items() if is_adapter(name)}
    drift = find_drift({name: p for name, p in parameters.items() if name not in adapters}, ranks)
    if drift is not None:
        raise ModelError(
            f"the loaded models differ: {shown_drift(drift, ranks)}. The hosts' copies of the model differ, "
            "or one is damaged; give all of them the same folder or --revision"
        )
    if find_drift(adapters, ranks) is not None:
        for parameter in adapters.values():
            copy_first_replica(parameter)
