"""From a model folder to a model: memory-mapped, strictly checked, without a second copy of the weights.

The model is built without storage, and every parameter then becomes the mapped file itself where its dtype is
the wanted one, so that host memory holds each weight once at most.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mdl_toolkit.compat.bitsandbytes_layers import import_bitsandbytes
from mdl_toolkit.compat.peft_layers import mark_as_quantized
from mdl_toolkit.errors import ModelError
from mdl_toolkit.family import MODEL_TYPE, check_family
from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel
from mdl_toolkit.model_folders.folder import ModelFolder, open_folder
from mdl_toolkit.model_folders.names import (
    DECODER,
    EMBEDDINGS,
    FRONT_END_CONSTANTS,
    LORA_PARTS,
    PEFT_PREFIX,
    is_adapter,
)
from mdl_toolkit.model_folders.quantize import (
    Quantization,
    quantized_parameter,
    replace_linears,
)
from mdl_toolkit.model_folders.tensorfiles.headers import read_json, shown_name
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.model_folders.trained import TrainedWeights

#: Upper bounds, far above every published model: a wrong config.json must not make us build without end.
_BOUNDS = {
    "text_config": {
        "num_hidden_layers": 1000, "vocab_size": 2**24, "hidden_size": 2**17, "intermediate_size": 2**20,
    },
    "audio_encoder_config": {
        "depth": 1000, "embed_dim": 2**17, "n_fft": 2**16, "n_mels": 2**12, "target_length": 2**20,
    },
}  # fmt: skip

#: Building without storage changes settings of the whole process for a moment: one thread at a time.
_building = threading.Lock()


def load_config(folder: Path) -> MiDashengLMConfig:
    """Read a folder's ``config.json``. Its ``auto_map`` is kept, and never followed.

    Raises:
        ModelError: It is missing, broken, or of another kind of model.
    """
    path = Path(folder) / "config.json"
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise ModelError(f"{path}: a mapping expected")
    check_family(fields, path)
    if fields.get("model_type") != MODEL_TYPE:
        raise ModelError(
            f"{path}: model_type is {str(fields.get('model_type'))[:40]!r}; "
            f"models of type {MODEL_TYPE!r} are supported"
        )
    for part, bounds in _BOUNDS.items():
        section = fields.get(part)
        if not isinstance(section, dict):
            raise ModelError(f"{path}: {part} is missing")
        for name, highest in bounds.items():
            value = section.get(name)
            if value is not None and (type(value) is not int or not 0 < value <= highest):
                raise ModelError(
                    f"{path}: {part}.{name} is {value!r:.40}; a number from 1 to {highest} expected"
                )
    try:
        config = MiDashengLMConfig(**fields)
        config.audio_encoder_config.check()
    except ModelError as error:
        raise ModelError(f"{path.parent}: {error}") from None
    except Exception as error:
        raise ModelError(f"{path}: can't be understood: {' '.join(str(error).split())[:300]}") from None
    return config


def build_empty(folder: Path, dtype: torch.dtype | None = None) -> MiDashengLMModel:
    """Build a folder's model on the meta device: shapes and dtypes, no storage.

    Args:
        folder: A folder with a ``config.json``.
        dtype: The dtype of the weights; ``None`` takes float32. The audio front end is float32 always.

    Raises:
        ModelError: No model can be built from the configuration.
    """
    config = load_config(folder)
    _building.acquire()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or torch.float32)
    try:
        with torch.device("meta"):
            model = MiDashengLMModel(config)
        model.use_own_layers()
        model.tie_weights()
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: config.json describes no model that can be built: {reason}") from None
    finally:
        torch.set_default_dtype(before)
        _building.release()
    model.config.dtype = dtype or torch.float32
    model.eval()
    return model


def load_model(
    folder: Path | ModelFolder,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    quantization: Quantization | None = None,
    base_model: str | Path | None = None,
) -> MiDashengLMModel:
    """Open a model folder of any kind.

    Args:
        folder: A model, an adapter (opened unmerged) or a training checkpoint.
        dtype: The dtype of the weights; by default that of most of the file's. The audio front end is
            float32 always.
        device: The device to put the weights on.
        quantization: ``8bit`` or ``4bit`` for the decoder's linear layers; head and audio parts never are.
        base_model: The base of an adapter or checkpoint, if its own record doesn't lead to it any more.

    Returns:
        The model in evaluation mode. On the CPU, weights whose dtype needed no change are the mapped files.

    Raises:
        ModelError: Something of the folder is missing, broken, or doesn't fit; one line that names it.
    """
    place = folder if isinstance(folder, ModelFolder) else open_folder(folder, base_model)
    files = WeightFiles(place.base)
    dtype = dtype or main_dtype(files)
    model = build_empty(place.base, dtype)
    trained = TrainedWeights.read(place.folder) if place.kind != "model" else TrainedWeights({})
    device = torch.device(device)
    quantized = replace_linears(model.decoder, quantization, dtype, DECODER) if quantization else set()
    check_names(place.base, model, files, trained.full)
    fill(model, files, trained.full, device, quantized)
    model.recompute_constants()
    if quantization:
        mark_as_quantized(model, quantization)
    if trained.lora:
        attach_adapter(model, trained)
    model.eval()
    return model


def main_dtype(files: WeightFiles) -> torch.dtype:
    """The floating-point dtype that most bytes of the weights have."""
    sizes: dict[torch.dtype, int] = {}
    for info in files.values():
        if info.dtype in (torch.float32, torch.bfloat16, torch.float16):
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.bytes
    return max(sizes, key=lambda dtype: sizes[dtype]) if sizes else torch.float32


def check_names(
    where: Path, model: nn.Module, files: WeightFiles, replaced: Mapping[str, Tensor] | None = None
) -> None:
    """Compare the tensors of files with those of a model.

    Raises:
        ModelError: Tensors are missing, unexpected or of another shape; the message names the first eight.
    """
    replaced = replaced or {}
    groups = tied_names(model)
    wanted = {name for group in groups for name in group}
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}
    missing = [group[0] for group in groups if not any(name in files for name in group)]
    unexpected = sorted(set(files) - wanted - FRONT_END_CONSTANTS) + sorted(set(replaced) - wanted)
    found = {name: info.shape for name, info in files.items()}
    found.update({name: tuple(tensor.shape) for name, tensor in replaced.items()})
    wrong = [
        f"{shown_name(name)} {list(shape)} instead of {list(shapes[name])}"
        for name, shape in sorted(found.items())
        if name in wanted and shape != shapes[name]
    ]
    problems = [
        f"{what} {_some(names)}"
        for what, names in (
            ("missing tensors:", missing),
            ("unexpected tensors:", unexpected),
            ("tensors of another shape than config.json says:", wrong),
        )
        if names
    ]
    if problems:
        raise ModelError(f"{where}: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(shown_name, names[:8])) + more


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers by every name that they have (tied ones more than once)."""
    found: list[tuple[str, Tensor]] = list(model.named_parameters(remove_duplicate=False))
    for prefix, module in model.named_modules():
        buffers = dict(module.named_buffers(recurse=False, remove_duplicate=False))
        if buffers:
            written = module.state_dict()
            start = f"{prefix}." if prefix else ""
            found += [(start + name, buffer) for name, buffer in buffers.items() if name in written]
    return found


def tied_names(model: nn.Module) -> list[list[str]]:
    """The names of a model's tensors; those of one tied tensor stand together, embeddings first."""
    groups: dict[int, list[str]] = {}
    for name, tensor in named_tensors(model):
        groups.setdefault(id(tensor), []).append(name)
    return list(groups.values())


def fill(
    model: nn.Module,
    files: WeightFiles,
    replaced: Mapping[str, Tensor],
    device: torch.device,
    quantized: Iterable[str] = (),
) -> None:
    """Give a model of the meta device its tensors, one after the other.

    Args:
        model: The model; its tensors say which dtype each gets.
        files: The base's files.
        replaced: Tensors to take instead of the base's; a tied tensor may have either of its names.
        device: The device to put them on.
        quantized: Names of weights to quantise on the way.

    Buffers that are in no file only get storage: call ``model.recompute_constants()`` afterwards.
    """
    quantized = set(quantized)
    tensors = dict(named_tensors(model))
    for group in tied_names(model):
        source = next((name for name in group if name in replaced), None)
        if source is not None:
            tensor = replaced[source]
        else:
            tensor = files.tensor(next(name for name in group if name in files))
        shape = tensors[group[0]]
        made: Tensor
        if group[0] in quantized:
            made = quantized_parameter(_owner(model, group[0]), tensor.to(shape.dtype), device)
        else:
            made = tensor.to(device=device, dtype=shape.dtype)
            if isinstance(shape, nn.Parameter):
                made = nn.Parameter(made, requires_grad=shape.requires_grad)
        for name in group:
            set_tensor(model, name, made)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:  # in no file: the caller recomputes it
            set_tensor(model, name, torch.empty_like(buffer, device=device))


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def set_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or buffer of a model, named as by :func:`named_tensors`. Ties are the caller's."""
    owner, leaf = _owner(model, name), name.rpartition(".")[2]
    setattr(owner, leaf, tensor)


def attach_adapter(model: nn.Module, adapter: TrainedWeights) -> None:
    """Inject an adapter's LoRA layers into a model, unmerged and frozen, in the dtype of their layers.

    Raises:
        ModelError: A module that it adapts isn't a linear layer of the model, or a shape differs.
    """
    import_bitsandbytes()
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    modules = dict(model.named_modules())
    for name, parts in adapter.lora.items():
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear):
            raise ModelError(
                f"the adapter is for {name}, which is no linear layer of this model: is it for another base?"
            )
        shape = (parts["lora_B"].shape[0], parts["lora_A"].shape[1])
        if shape != (layer.out_features, layer.in_features):
            raise ModelError(
                f"the adapter's {name} is for a layer of {shape[1]} to {shape[0]} features; this model's has "
                f"{layer.in_features} to {layer.out_features}: is it for another base?"
            )
    config = LoraConfig(**adapter.config, target_modules=sorted(adapter.lora), inference_mode=True)
    state = {}
    for name, parts in adapter.lora.items():
        weight = modules[name].weight
        assert isinstance(weight, Tensor)
        # A quantised weight is of no use as a dtype: its adapter takes the one that the model computes in.
        dtype = weight.dtype if weight.is_floating_point() else next(_floats(model))
        for part, tensor in parts.items():
            # DoRA's magnitudes stay float32: they divide by a norm.
            kept = torch.float32 if part == "lora_magnitude_vector" else dtype
            state[PEFT_PREFIX + name + LORA_PARTS[part]] = tensor.to(weight.device, kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, model, low_cpu_mem_usage=not adapter.config.get("use_dora"))
        result = set_peft_model_state_dict(model, state, low_cpu_mem_usage=True)
    absent = [name for name in result.missing_keys if is_adapter(name)]
    if result.unexpected_keys or absent:
        raise ModelError(f"the adapter doesn't fit this model: {[*result.unexpected_keys, *absent][:4]}")
    model.requires_grad_(False)


def _floats(model: nn.Module) -> Iterator[torch.dtype]:
    """Dtypes of a model's embeddings, then of its other parameters."""
    yield from (p.dtype for n, p in model.named_parameters() if n == EMBEDDINGS)
    yield from (p.dtype for p in model.parameters() if p.is_floating_point())
