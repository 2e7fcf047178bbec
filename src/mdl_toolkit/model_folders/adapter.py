"""LoRA adapters in PEFT's own format: reading, writing, attaching, and what they add to a base weight.

Letters: R rank, I input and O output features of a linear layer.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdl_toolkit.errors import ModelError
from mdl_toolkit.files import write_json
from mdl_toolkit.model_folders.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from mdl_toolkit.model_folders.names import (
    EMBEDDINGS,
    HEAD,
    LORA_PARTS,
    PEFT_PREFIX,
    is_adapter,
    published_name,
    split_adapter,
)
from mdl_toolkit.model_folders.quantize import tame_bitsandbytes
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles, read_json

#: The fields of an adapter_config.json that are read; the others don't change what an adapter computes.
_FIELDS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class AdapterWeights:
    """A LoRA adapter and what was trained in full beside it; of full training the latter alone.

    Attributes:
        config: The fields of PEFT's ``LoraConfig`` that count (``r``, ``lora_alpha``, ``use_dora``, …).
        lora: By the name of the adapted module: ``lora_A`` [R, I], ``lora_B`` [O, R] and, of DoRA,
            ``lora_magnitude_vector`` [O].
        full: Tensors that replace the base's, by name (``embed_tokens``, ``lm_head``).
    """

    config: Mapping[str, Any]
    lora: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    full: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def collect(
        cls, named: Iterable[tuple[str, Tensor]], config: Any, adapter: str = "default"
    ) -> AdapterWeights:
        """Sort the trained tensors of a model that PEFT has injected an adapter into.

        Args:
            named: Trained tensors, by the names that the model has them under.
            config: PEFT's ``LoraConfig``, or its fields.
            adapter: The adapter's name in the model.
        """
        fields = config if isinstance(config, Mapping) else config.to_dict()
        lora, full = _sorted((published_name(name, adapter), tensor) for name, tensor in named)
        return cls({key: fields[key] for key in _FIELDS if key in fields}, lora, full)

    @classmethod
    def read(cls, folder: Path) -> AdapterWeights:
        """Read an adapter's folder, its tensors mapped.

        Raises:
            ModelError: Where it isn't a LoRA adapter, or its files are broken or don't agree.
        """
        config = _read_config(folder / ADAPTER_CONFIG)
        files = WeightFiles(folder, ADAPTER_WEIGHTS)
        lora, full = _sorted((name.removeprefix(PEFT_PREFIX), files.tensor(name)) for name in files)
        strange = next(filter(is_adapter, full), None)
        if strange is not None:
            raise ModelError(
                f"{folder / ADAPTER_WEIGHTS}: {strange}: only adapters of linear layers are supported"
            )
        adapter = cls(config, lora, full)
        adapter.check(folder)
        return adapter

    def named(self) -> dict[str, Tensor]:
        """All tensors by their published names: ``<module>.lora_A.weight``, and so on."""
        lora = {
            module + LORA_PARTS[part]: tensor
            for module, parts in self.lora.items()
            for part, tensor in parts.items()
        }
        return {**lora, **self.full}

    def check(self, where: Path | str) -> None:
        """Refuse an adapter whose parts don't fit each other.

        Raises:
            ModelError: Naming ``where`` and the module.
        """
        wanted = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if self.config.get("use_dora") else set())
        for module, parts in self.lora.items():
            if set(parts) != wanted:
                raise ModelError(
                    f"{where}: {module} has {', '.join(sorted(parts))}; {', '.join(sorted(wanted))} expected"
                )
            first, second = parts["lora_A"], parts["lora_B"]
            rank = self.rank(module)
            if first.ndim != 2 or second.ndim != 2 or first.shape[0] != rank or second.shape[1] != rank:
                raise ModelError(
                    f"{where}: {module}: lora_A is {list(first.shape)} and lora_B {list(second.shape)}, "
                    f"but its rank is {rank}"
                )

    def rank(self, module: str) -> int:
        """The rank of a module's adapter, as the configuration says."""
        return int(_pattern(self.config.get("rank_pattern"), module, self.config["r"]))

    def scale(self, module: str) -> float:
        """What the product B·A of a module is multiplied by."""
        alpha = _pattern(self.config.get("alpha_pattern"), module, self.config.get("lora_alpha", 8))
        rank = self.rank(module)
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def merged(self, module: str, weight: Tensor) -> Tensor:
        """A module's weight with its adapter added.

        Args:
            module: Its name.
            weight: [O, I] of the base.

        Returns:
            [O, I] float32: ``W + scale · B·A``; of DoRA, each row rescaled to its trained magnitude.
        """
        parts = {key: tensor.detach().to("cpu", torch.float32) for key, tensor in self.lora[module].items()}
        total = (parts["lora_B"] @ parts["lora_A"]).mul_(self.scale(module)).add_(weight.to(torch.float32))
        magnitude = parts.get("lora_magnitude_vector")
        if magnitude is not None:
            total *= (magnitude / torch.linalg.norm(total, dim=1))[:, None]
        return total

    def write(self, folder: Path, base_name: str, *, tied: bool = False) -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json`` into a folder.

        Args:
            folder: Exists.
            base_name: What PEFT shall take as the base.
            tied: Whether head and embeddings of the model are one tensor. Both are written then: PEFT finds
                tied tensors in some models only, and would go on with the base's head.
        """
        tame_bitsandbytes()
        from peft import LoraConfig
        from safetensors.torch import save_file

        full = dict(self.full)
        for name, twin in ((EMBEDDINGS, HEAD), (HEAD, EMBEDDINGS)):
            if tied and name in self.full:
                full.setdefault(twin, self.full[name].clone())
        tensors = AdapterWeights(self.config, self.lora, full).named()
        config = LoraConfig(
            **self.config,
            target_modules=sorted(self.lora),
            modules_to_save=sorted(name.rsplit(".", 2)[-2] for name in full) or None,
            inference_mode=True,
            base_model_name_or_path=base_name,
        ).to_dict()
        config["task_type"] = None
        write_json(folder / ADAPTER_CONFIG, {key: _plain(value) for key, value in sorted(config.items())})
        save_file(
            {PEFT_PREFIX + name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()},
            folder / ADAPTER_WEIGHTS,
            metadata={"format": "pt"},
        )


def attach_adapter(model: nn.Module, adapter: AdapterWeights) -> None:
    """Inject an adapter's LoRA layers into a model, unmerged and frozen, in the dtype of their layers.

    Raises:
        ModelError: Where a module that it adapts isn't a linear layer of the model, or a shape differs.
    """
    tame_bitsandbytes()
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
    absent = [name for name in result.missing_keys if ".lora_" in name]
    if result.unexpected_keys or absent:
        raise ModelError(f"the adapter doesn't fit this model: {[*result.unexpected_keys, *absent][:4]}")
    model.requires_grad_(False)


def _floats(model: nn.Module) -> Iterator[torch.dtype]:
    """Dtypes of a model's embeddings and further parameters."""
    yield from (p.dtype for n, p in model.named_parameters() if "embed_tokens" in n)
    yield from (p.dtype for p in model.parameters() if p.is_floating_point())


def _sorted(
    named: Iterable[tuple[str, Tensor]],
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Published names and tensors as LoRA layers by module, and the others."""
    lora: dict[str, dict[str, Tensor]] = {}
    full: dict[str, Tensor] = {}
    for name, tensor in named:
        split = split_adapter(name)
        if split is None:
            full[name] = tensor
        else:
            lora.setdefault(split[0], {})[split[1]] = tensor
    return lora, full


def _pattern(patterns: Any, module: str, default: Any) -> Any:
    tame_bitsandbytes()
    from peft.utils.other import get_pattern_key

    patterns = patterns or {}
    return patterns.get(get_pattern_key(patterns.keys(), module), default)


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ModelError(
            f"{path}: an adapter of kind {str(kind)[:40]!r}; LoRA and its relatives are supported"
        )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start not in ("gaussian", "eva", "orthogonal"):
        raise ModelError(
            f"{path}: started by {start[:40]!r}, which changes the base; convert it to plain LoRA first"
        )
    for name in ("fan_in_fan_out", "lora_bias"):
        if config.get(name):
            raise ModelError(f"{path}: {name} is not supported")
    if config.get("bias", "none") != "none":
        raise ModelError(f"{path}: bias is {str(config['bias'])[:40]!r}; none is supported")
    kept = {name: config[name] for name in _FIELDS if config.get(name) is not None}
    kinds: dict[str, Any] = {
        "r": (int,), "lora_alpha": (int, float), "lora_dropout": (int, float), "use_rslora": (bool,),
        "use_dora": (bool,), "rank_pattern": (dict,), "alpha_pattern": (dict,),
    }  # fmt: skip
    for name, value in kept.items():
        number: Any = value
        if not isinstance(value, kinds[name]) or (name in ("r", "lora_alpha") and not 0 < number < 2**20):
            raise ModelError(f"{path}: {name} is {str(value)[:40]!r}")
    for name in ("rank_pattern", "alpha_pattern"):
        values: dict[str, Any] = kept.get(name, {})
        if not all(isinstance(v, (int, float)) and 0 < v < 2**20 for v in values.values()):
            raise ModelError(f"{path}: {name}: positive numbers expected")
        for pattern in values:
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError):
                raise ModelError(f"{path}: {name}: {pattern[:40]!r} is no pattern of names") from None
    if "r" not in kept:
        raise ModelError(f"{path}: r (the rank) is missing")
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset, tuple)):
        return sorted(value)
    return (
        getattr(value, "value", value)
        if not isinstance(value, (str, int, float, bool, dict, list))
        else value
    )
