"""What is trained: LoRA adapters, or every weight of the chosen parts; its names, values and description.

Dimensions: T tokens, I and O inputs and outputs of a linear layer, R rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mdl_toolkit.compat.bitsandbytes_layers import import_bitsandbytes
from mdl_toolkit.compat.peft_layers import is_lora_layer
from mdl_toolkit.distributed.sharding import full_tensor, load_full, local_part
from mdl_toolkit.errors import ModelError, SettingsError
from mdl_toolkit.model_folders.load import tied_names
from mdl_toolkit.model_folders.names import (
    ADAPTER,
    adapted_layers,
    is_front_end,
    is_tied,
    part_of,
    parts_in_full,
    published_name,
)
from mdl_toolkit.model_folders.trained import TrainedWeights
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.trainable.layers import compute_in, use_own_forward

if TYPE_CHECKING:
    from mdl_toolkit.model.midashenglm import MiDashengLMModel

logger = get_logger(__name__)


def make_trainable(model: MiDashengLMModel, settings: TrainSettings) -> None:
    """Freeze the model and make what the settings name trainable, in float32 whatever the model's dtype.

    LoRA layers are injected by PEFT. Their first values depend on the seed and their names alone, so that
    they are the same on every process, device and sharding. On the meta device only shapes are made;
    :func:`initialise_adapters` fills them once there is storage.

    Raises:
        SettingsError: The options name nothing that this model has.
    """
    dtype = next(model.audio_encoder.blocks.parameters()).dtype
    model.requires_grad_(False)
    adapters, tied = settings.method == "lora", is_tied(model.config)
    if adapters:
        _inject(model, settings)
    chosen = parts_in_full(settings.train_target, adapters=adapters, tied=tied)
    if chosen - set(settings.train_target):
        logger.info("head and embeddings are one tensor in this model: --train-target lm_head trains both")
    for name, parameter in model.named_parameters():
        name = published_name(name)
        if part_of(name) in chosen and not is_front_end(name):
            _check_trainable(name, parameter)
            parameter.requires_grad_(True)
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    compute_in(model, dtype)
    if model.device.type != "meta" and settings.method == "lora":
        initialise_adapters(model, settings.seed)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingsError(
            [f"--train-target {' '.join(settings.train_target)}: nothing in this model matches"]
        )


def lora_config(settings: TrainSettings) -> Any:
    """PEFT's configuration of the adapters that the settings describe.

    Embeddings and head are trained in place, without PEFT's copy of them (a gigabyte in the 7B model).
    """
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        target_modules=adapted_layers(settings.train_target, attention=settings.lora_attention),
        bias="none",
    )


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What the optimizer updates, by published name, in the model's order."""
    return {published_name(name): p for name, p in model.named_parameters() if p.requires_grad}


def trained_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The trained tensors, whole, on the CPU, one at a time.

    Under sharding this is a collective: every process must run it to its end, and rank 0 alone is given the
    tensors.

    Yields:
        Published name and tensor.
    """
    for name, parameter in trainable_parameters(model).items():
        tensor = full_tensor(parameter)
        if tensor is not None:
            yield name, tensor


def trained_weights(model: nn.Module, settings: TrainSettings) -> TrainedWeights:
    """Collect :func:`trained_tensors` in the form that is written: adapters, and tensors trained in full."""
    config = lora_config(settings) if settings.method == "lora" else {}
    return TrainedWeights.collect(trained_tensors(model), config)


def load_trained(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved tensors into the trainable parameters, each process taking its own shard of them.

    Args:
        model: A model after :func:`make_trainable`, sharded or not.
        tensors: The saved tensors by published name: all trainable ones and no others, except that a tied
            tensor may also be there by its second name.

    Raises:
        ModelError: Tensors are missing, unexpected or of another shape; the message names them.
    """
    parameters = trainable_parameters(model)
    tensors = _without_twins(model, tensors)
    missing, unexpected = parameters.keys() - tensors.keys(), tensors.keys() - parameters.keys()
    problems = [f"{name} is missing" for name in sorted(missing)[:3]]
    problems += [f"{name} is not trained here" for name in sorted(unexpected)[:3]]
    for name in parameters.keys() & tensors.keys():
        if tuple(parameters[name].shape) != tuple(tensors[name].shape):
            shapes = f"{list(tensors[name].shape)}, here {list(parameters[name].shape)}"
            problems.append(f"{name} has the shape {shapes}")
    if problems:
        raise ModelError(
            "the saved weights belong to another training (other targets, rank or base): "
            + "; ".join(problems)
        )
    for name, parameter in parameters.items():
        load_full(parameter, tensors[name])


def _without_twins(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep each tied tensor under its first name only, by which it is trained."""
    made = dict(tensors)
    for first, *others in ([published_name(name) for name in group] for group in tied_names(model)):
        for other in others:
            if other in made and not torch.equal(made.setdefault(first, made[other]), made.pop(other)):
                raise ModelError(f"the saved {other} isn't {first}, and in this model they are one tensor")
    return made


@torch.no_grad()
def initialise_adapters(model: nn.Module, seed: int) -> None:
    """Give the adapters their first values, the same for every number of processes: A uniform, B zero.

    A's bound is 1/sqrt(inputs), that of a linear layer (Hu et al., 2021, and PEFT's default). DoRA's
    magnitudes are the norms of the base's rows (Liu et al., 2024).
    """
    for name, module in model.named_modules():
        if not is_lora_layer(module, ADAPTER):
            continue
        first, second = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        key = f"{seed}:{published_name(name)}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
        bound = first.shape[1] ** -0.5
        load_full(first, torch.empty(first.shape).uniform_(-bound, bound, generator=generator))
        second.zero_()
        if ADAPTER in module.lora_magnitude_vector:
            _initialise_magnitude(module)


def describe_trainable(model: nn.Module) -> str:
    """A table of what is trained: tensors, parameters and their share, for each part."""
    rows: dict[str, list[int]] = {}
    total = 0
    for name, parameter in model.named_parameters():
        name, count = published_name(name), logical_size(parameter)
        total += count
        row = rows.setdefault(part_of(name), [0, 0, 0])
        row[2] += count
        if parameter.requires_grad:
            row[0] += 1
            row[1] += count
    lines = [f"{'part':14}{'tensors':>9}{'trained':>15}{'of':>16}{'share':>9}"]
    trained = sum(row[1] for row in rows.values())
    rows["all"] = [sum(row[0] for row in rows.values()), trained, total]
    for part, (tensors, count, of) in rows.items():
        lines.append(f"{part:14}{tensors:>9,}{count:>15,}{of:>16,}{100 * count / max(of, 1):>8.2f}%")
    return "\n".join(lines)


def logical_size(parameter: Tensor) -> int:
    """Elements of a parameter: the whole one's of a shard, the unpacked one's of a 4-bit weight."""
    state = getattr(parameter, "quant_state", None)
    if state is not None and getattr(state, "shape", None) is not None:
        return int(torch.Size(state.shape).numel())
    return parameter.numel()


def _inject(model: MiDashengLMModel, settings: TrainSettings) -> None:
    import_bitsandbytes()  # PEFT imports it where it is installed
    from peft import inject_adapter_in_model

    config = lora_config(settings)
    if config.target_modules is None:
        return
    inject_adapter_in_model(
        config, model, adapter_name=ADAPTER, low_cpu_mem_usage=model.device.type == "meta"
    )
    for module in model.modules():
        if is_lora_layer(module, ADAPTER):
            use_own_forward(module)


def _check_trainable(name: str, parameter: nn.Parameter) -> None:
    if not (parameter.is_floating_point() and type(parameter) is nn.Parameter):
        raise SettingsError(
            [f"{name} is quantised and can't be trained: leave its part out of --train-target"]
        )


def _initialise_magnitude(module: Any) -> None:
    weight, magnitude = module.get_base_layer().weight, module.lora_magnitude_vector[ADAPTER].weight
    if not weight.is_floating_point() or type(weight).__name__ == "Params4bit":
        return  # of quantised weights PEFT has done it
    # Both are split by rows in the same way, so each process can take the norms of its own rows.
    norms = torch.linalg.vector_norm(local_part(weight).detach(), dim=1, dtype=torch.float32)
    local_part(magnitude).copy_(norms)
