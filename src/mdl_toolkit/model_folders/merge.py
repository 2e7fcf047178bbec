"""Merging what was trained into the base's tensors, one at a time, and choosing the dtype to write them in.

Adapters trained on quantised weights have also learned to correct the errors of quantisation. Merged
onto the original weights they make another model than the one that was validated: see the guide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model_folders.load import build_empty, load_config, main_dtype
from mdl_toolkit.model_folders.names import DECODER, is_front_end, is_tied, part_of, tied_twins
from mdl_toolkit.model_folders.quantize import Quantization, dequantized, quantized_names
from mdl_toolkit.model_folders.rounding import Rounding
from mdl_toolkit.model_folders.tensorfiles.reader import TensorInfo, WeightFiles
from mdl_toolkit.model_folders.trained import TrainedWeights

FinalDtype = Literal["auto", "base", "bfloat16", "float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class MergeForm:
    """In which form a merged model is written.

    Attributes:
        dtype: The dtype of its weights: the base's own, or one for all (the audio front end stays as it is).
            ``auto`` takes the base's, unless rounding to it would take more than a twentieth of what a part
            has learned.
        quantization: The quantisation of the run, for merging onto the weights as they were dequantised in
            it; ``None`` merges onto the base's own.
        device: The device of the run: GPUs and CPUs may quantise differently.
        rounded_to: The dtype that the run's own passes rounded trained weights to, if any: what was validated
            is rounded to it already, so ``auto`` has nothing to save there.
    """

    dtype: FinalDtype = "auto"
    quantization: Quantization | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rounded_to: torch.dtype | None = None


class Merge:
    """The tensors of a base's files that a merge changes.

    Args:
        base_folder: The folder of the full-precision base.
        trained: LoRA layers to add, and tensors that replace the base's.
        form: The form of the result.

    Attributes:
        base: The base's files.
        places: Names of all tensors that are changed, as the base's files have them.

    Raises:
        ModelError: A trained tensor has no place in the base.
    """

    def __init__(self, base_folder: Path, trained: TrainedWeights, form: MergeForm) -> None:
        trained.check("adapter")
        self.base, self._trained, self._form = WeightFiles(base_folder), trained, form
        self._tied = is_tied(load_config(base_folder))
        self._adapted = {self._places(f"{module}.weight")[0]: module for module in trained.lora}
        self._whole: dict[str, str] = {}
        for name, tensor in trained.full.items():
            for place in self._places(name, tensor):
                self._whole.setdefault(place, name)  # a tied tensor may stand under both of its names
        if both := self._adapted.keys() & self._whole.keys():
            raise ModelError(f"{min(both)} was trained in full and by an adapter")
        self._quantized: set[str] = set()
        if form.quantization is not None:
            decoder = build_empty(base_folder).decoder
            self._quantized = quantized_names(decoder, form.quantization, DECODER) - self._whole.keys()
        changed = self._adapted.keys() | self._whole.keys() | self._quantized
        self.places = [place for place in self.base if place in changed]

    def _places(self, name: str, tensor: Tensor | None = None) -> list[str]:
        """Where in the base's files a tensor of the model belongs; for a tied one there may be two places."""
        twins = tied_twins(name) if self._tied else (name,)
        found = [twin for twin in twins if twin in self.base]
        if not found:
            raise ModelError(f"{self.base.folder}: the trained {name} has no place in this base")
        for place in found:
            if tensor is not None and self.base[place].shape != tuple(tensor.shape):
                raise ModelError(
                    f"{self.base.folder}: the trained {name} has the shape {list(tensor.shape)}, "
                    f"the base's {list(self.base[place].shape)}"
                )
        return found

    def is_trained(self, place: str) -> bool:
        """Whether a tensor was trained; the other places are those that a quantised run had dequantised."""
        return place in self._adapted or place in self._whole

    def pair(self, place: str) -> tuple[Tensor, Tensor]:
        """A tensor before and after the training, unrounded."""
        before = self.base.tensor(place)
        if place in self._quantized:
            form = self._form
            assert form.quantization is not None
            before = dequantized(before, form.quantization, form.device)
        if place in self._whole:
            return before, self._trained.full[self._whole[place]].detach().to("cpu")
        if place in self._adapted:
            return before, self._trained.merged(self._adapted[place], before)
        return before, before

    def rounding(self, dtype: FinalDtype) -> Rounding:
        """How much of the training is left when it is written in a dtype."""
        found = Rounding()
        for place in filter(self.is_trained, self.places):
            info = self.base[place]
            target = written_dtype(info, place, dtype)
            if target != torch.float32 and info.dtype.is_floating_point:
                found.add(part_of(place), *self.pair(place), target)
        return found

    def decide(self) -> tuple[FinalDtype, Rounding]:
        """The dtype to write in, and what rounding to it (or to the one that ``auto`` rejected) leaves."""
        wanted = self._form.dtype
        rounding = self.rounding("base" if wanted == "auto" else wanted)
        if wanted != "auto":
            return wanted, rounding
        if self._form.rounded_to == main_dtype(self.base) or rounding.is_harmless:
            return "base", rounding
        return "float32", rounding


def written_dtype(info: TensorInfo, name: str, dtype: FinalDtype) -> torch.dtype:
    """The dtype that a tensor of the base has in the result."""
    if dtype in ("auto", "base") or is_front_end(name) or not info.dtype.is_floating_point:
        return info.dtype
    made: torch.dtype = getattr(torch, dtype)
    return made
