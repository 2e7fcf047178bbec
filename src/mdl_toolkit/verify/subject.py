"""The model under verification: as training had it, and as a stand-alone folder on disk.

Of ``final/`` of a run, training's own form is the adapter in the checkpoint of the same step; of an adapter,
the stand-alone folder is written for the verification, as ``train`` writes ``final/``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdl_toolkit.errors import MdlError, ModelError
from mdl_toolkit.memory import gib
from mdl_toolkit.model.midashenglm import MiDashengLMModel
from mdl_toolkit.model_folders.export import export_merged
from mdl_toolkit.model_folders.folder import ModelFolder, open_folder
from mdl_toolkit.model_folders.load import load_model
from mdl_toolkit.model_folders.manifest import ModelManifest
from mdl_toolkit.model_folders.merge import MergeForm
from mdl_toolkit.model_folders.quantize import Quantization
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.model_folders.trained import TrainedWeights
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True)
class Subject:
    """A model under verification.

    Attributes:
        given: The folder as it was named.
        reference: What everything is compared with: training's own form where it is at hand.
        disk: A stand-alone folder.
        device: Where it is computed.
        dtype: What the reference is computed in.
        quantization: How training had the decoder's weights.
    """

    given: ModelFolder
    reference: ModelFolder
    disk: Path
    device: torch.device
    dtype: torch.dtype
    quantization: Quantization | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether the reference has adapters that can be merged."""
        return self.reference.kind == "adapter"

    @property
    def is_written_anew(self) -> bool:
        """Whether the stand-alone folder was made for the verification."""
        return self.given.kind != "model"

    def describe(self) -> str:
        """What the reference is, for people."""
        kinds = {
            "adapter": "adapter unmerged",
            "overlay": "trained tensors over the base",
            "model": "as it is",
        }
        dtype = str(self.dtype).removeprefix("torch.")
        quantized = f", decoder in {self.quantization}" if self.quantization else ""
        return f"{self.reference.folder}, {kinds[self.reference.kind]}{quantized}, {dtype}, one row at a time"

    def load_reference(self) -> MiDashengLMModel:
        """The reference as a model; nothing of it is merged."""
        return _frozen(
            load_model(self.reference, dtype=self.dtype, device=self.device, quantization=self.quantization)
        )

    def load_disk(
        self, dtype: torch.dtype | None = None, quantization: Quantization | None = None
    ) -> MiDashengLMModel:
        """The stand-alone folder as a model."""
        return _frozen(
            load_model(self.disk, dtype=dtype or self.dtype, device=self.device, quantization=quantization)
        )


@contextmanager
def opened_subject(place: ModelFolder, device: torch.device, dtype: torch.dtype) -> Iterator[Subject]:
    """Find a model's forms; one that is made for the verification is removed at the end.

    Raises:
        MdlError: There is no room for the stand-alone folder.
    """
    if place.kind == "model":
        reference = training_form(place)
        yield Subject(place, reference, place.folder, device, dtype, _quantization(reference))
        return
    needed = sum(info.bytes for info in WeightFiles(place.base).values())
    temporary = Path(tempfile.gettempdir())
    if (free := shutil.disk_usage(temporary).free) < needed * 1.1:
        raise MdlError(
            f"{temporary} has {gib(free)} free, and the merged model that is written there to be read back "
            f"takes {gib(needed)}: name a larger disk in the variable TMPDIR"
        )
    with tempfile.TemporaryDirectory(prefix="mdl-verify-") as folder:
        disk = Path(folder) / "merged"
        quantization = _quantization(place)
        form = MergeForm(quantization=quantization, device=device)
        manifest = place.manifest or ModelManifest(kind="model")
        described = ModelManifest(**{**vars(manifest), "kind": "model"})
        export_merged(place.base, TrainedWeights.read(place.folder), disk, described, form)
        yield Subject(place, place, disk, device, dtype, quantization)


def training_form(place: ModelFolder) -> ModelFolder:
    """The checkpoint that a merged folder of a run was made of; ``place`` itself where there is none."""
    manifest = place.manifest
    step = manifest.training.get("step") if manifest and manifest.base else None
    checkpoint = place.folder.resolve().parent / f"checkpoint-{step}"
    if step is None or not checkpoint.is_dir():
        return place
    try:
        found = open_folder(checkpoint)
    except ModelError as error:
        logger.warning(f"{checkpoint} can't be compared with: {error}")
        return place
    same = found.manifest is not None and _origin(found.manifest) == _origin(manifest)
    return found if same and found.kind != "model" else place


def _origin(manifest: ModelManifest | None) -> tuple[Any, ...]:
    """What tells the runs of one folder apart."""
    assert manifest is not None
    base = manifest.base.fingerprint if manifest.base else None
    return base, manifest.dataset.get("fingerprint"), manifest.training.get("step")


def _quantization(place: ModelFolder) -> Quantization | None:
    """How the run of a checkpoint had the decoder's weights; a merged model stands for itself."""
    if place.kind == "model" or place.manifest is None:
        return None
    found: Any = place.manifest.options.get("quantization")
    return found if found in ("8bit", "4bit") else None


def _frozen(model: MiDashengLMModel) -> MiDashengLMModel:
    model.requires_grad_(False)
    model.eval()
    return model
