"""What the folders that a run writes say about it: their ``mdl_toolkit.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.model_folders.manifest import BaseRecord, Kind, ModelManifest
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import as_dict

if TYPE_CHECKING:
    from mdl_toolkit.training.steps.progress import RunProgress


class RunManifest:
    """Makes the manifest of a checkpoint, of ``best/`` or of ``final/``.

    Args:
        settings: The settings of the run.
        base: The record of the base model.
        data: The training data.
        trainable: The parameters that are trained.
    """

    def __init__(
        self, settings: TrainSettings, base: BaseRecord, data: ClipDataset, trainable: Mapping[str, Tensor]
    ) -> None:
        self._settings, self._base, self._data = settings, base, data
        self._trained = sum(parameter.numel() for parameter in trainable.values())

    def __call__(
        self, kind: Kind, progress: RunProgress, best: Mapping[str, Any] | None = None
    ) -> ModelManifest:
        """The manifest of a folder.

        Args:
            kind: What the folder is: a model, an adapter or an overlay.
            progress: Where the run stands when the folder is written.
            best: The evaluation that the folder is kept for, of ``best/``.
        """
        data, position = self._data, progress.position
        return ModelManifest(
            kind=kind,
            base=self._base,
            prompts=data.manifest.prompts,
            audio=asdict(data.geometry),
            dataset={
                "fingerprint": data.fingerprint,
                "source": dict(data.manifest.source),
                "rows": len(data),
                "tokens": int(data.tokens.sum()),
                "supervised_tokens": int(data.supervised.sum()),
                "longest_answer_tokens": int(data.supervised.max()),
            },
            options=as_dict(self._settings),
            training={
                "step": progress.step,
                "epoch": round(position.epoch + position.first_sample / len(data), 6),
                "trained_parameters": self._trained,
                **({"best": best} if best is not None else {}),
            },
        )
