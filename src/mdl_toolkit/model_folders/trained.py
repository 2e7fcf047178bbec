"""What a training has changed: taken from a model, written to a folder, read back, merged into the base.

Loading, merging and resuming all begin with :meth:`TrainedWeights.read`.

Dimensions: R rank, I input and O output features of a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model_folders.adapter_config import FIELDS, read_config, value_for, write_config
from mdl_toolkit.model_folders.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, OVERLAY_WEIGHTS
from mdl_toolkit.model_folders.manifest import Kind
from mdl_toolkit.model_folders.names import (
    LORA_PARTS,
    PEFT_PREFIX,
    is_adapter,
    published_name,
    split_adapter,
    tied_twins,
)
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.model_folders.tensorfiles.writer import save_tensors


@dataclass(frozen=True)
class TrainedWeights:
    """What a training has changed: LoRA layers, tensors trained in full, or both.

    Attributes:
        config: The fields of PEFT's ``LoraConfig`` that count (``r``, ``lora_alpha``, ``use_dora``, …); empty
            without LoRA layers.
        lora: By the name of the adapted module: ``lora_A`` [R, I], ``lora_B`` [O, R] and, with DoRA,
            ``lora_magnitude_vector`` [O].
        full: Tensors that replace the base's, by name (``embed_tokens``, ``lm_head``).
    """

    config: Mapping[str, Any]
    lora: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    full: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def collect(cls, named: Iterable[tuple[str, Tensor]], config: Any) -> TrainedWeights:
        """Sort the trained tensors of a model that PEFT has injected an adapter into.

        Args:
            named: Trained tensors, by the names that they have in the model.
            config: PEFT's ``LoraConfig``, or its fields.
        """
        fields = config if isinstance(config, Mapping) else config.to_dict()
        lora, full = _by_module((published_name(name), tensor) for name, tensor in named)
        return cls({key: fields[key] for key in FIELDS if key in fields}, lora, full)

    @classmethod
    def read(cls, folder: Path) -> TrainedWeights:
        """Read an adapter, or a checkpoint of full training, its tensors mapped.

        An adapter of a tied model that was trained in its embeddings has them under both names.

        Raises:
            ModelError: The folder holds neither, or its files are broken or don't agree.
        """
        if (folder / OVERLAY_WEIGHTS).is_file():
            files = WeightFiles(folder, OVERLAY_WEIGHTS)
            return cls({}, {}, {name: files.tensor(name) for name in files})
        config = read_config(folder / ADAPTER_CONFIG)
        files = WeightFiles(folder, ADAPTER_WEIGHTS)
        lora, full = _by_module((name.removeprefix(PEFT_PREFIX), files.tensor(name)) for name in files)
        strange = next(filter(is_adapter, full), None)
        if strange is not None:
            raise ModelError(
                f"{folder / ADAPTER_WEIGHTS}: {strange}: only adapters of linear layers are supported"
            )
        adapter = cls(config, lora, full)
        adapter.check(folder)
        return adapter

    @property
    def kind(self) -> Kind:
        """What a folder of these tensors is. PEFT knows no adapter without a LoRA layer."""
        return "adapter" if self.lora else "overlay"

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
            ModelError: They don't; the message names ``where`` and the module.
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
        return int(value_for(self.config.get("rank_pattern"), module, self.config["r"]))

    def scale(self, module: str) -> float:
        """What the product B·A of a module is multiplied by."""
        alpha = value_for(self.config.get("alpha_pattern"), module, self.config.get("lora_alpha", 8))
        rank = self.rank(module)
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def merged(self, module: str, weight: Tensor) -> Tensor:
        """A module's weight with its adapter added.

        Args:
            module: The module's name.
            weight: The base's weight, [O, I].

        Returns:
            [O, I] float32: ``W + scale · B·A``; with DoRA, each row is rescaled to its trained magnitude.
        """
        parts = {key: tensor.detach().to("cpu", torch.float32) for key, tensor in self.lora[module].items()}
        total = (parts["lora_B"] @ parts["lora_A"]).mul_(self.scale(module)).add_(weight.to(torch.float32))
        magnitude = parts.get("lora_magnitude_vector")
        if magnitude is not None:
            total *= (magnitude / torch.linalg.norm(total, dim=1))[:, None]
        return total

    def write(self, folder: Path, base_name: str, *, tied: bool = False) -> None:
        """Write an adapter as PEFT has it, or without LoRA layers ``overlay.safetensors``, into a folder.

        Args:
            folder: An existing folder.
            base_name: The name or path that PEFT loads the base from.
            tied: Whether head and embeddings of the model are one tensor. Both are written then: PEFT finds
                tied tensors in some models only, and would use the base's head.
        """
        if self.kind == "overlay":
            save_tensors(folder / OVERLAY_WEIGHTS, self.full)
            return
        full = dict(self.full)
        for name, tensor in self.full.items() if tied else ():
            for twin in set(tied_twins(name)) - full.keys():
                full[twin] = tensor
        in_full = {name.rsplit(".", 2)[-2] for name in full}
        write_config(folder / ADAPTER_CONFIG, self.config, self.lora, in_full, base_name)
        tensors = TrainedWeights(self.config, self.lora, full).named()
        save_tensors(
            folder / ADAPTER_WEIGHTS, {PEFT_PREFIX + name: tensor for name, tensor in tensors.items()}
        )


def _by_module(
    named: Iterable[tuple[str, Tensor]],
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Sort tensors by published name into LoRA layers by module, and others."""
    lora: dict[str, dict[str, Tensor]] = {}
    full: dict[str, Tensor] = {}
    for name, tensor in named:
        split = split_adapter(name)
        if split is None:
            full[name] = tensor
        else:
            lora.setdefault(split[0], {})[split[1]] = tensor
    return lora, full
