"""What a training has changed, read back from the folder that it was written to.

The one reader: loading a model, merging, and resuming a run all begin here.
``model_folders/export.py`` writes.
"""

from __future__ import annotations

from pathlib import Path

from mdl_toolkit.model_folders.adapter import AdapterWeights
from mdl_toolkit.model_folders.folder import OVERLAY_WEIGHTS
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles


def read_trained(folder: Path) -> AdapterWeights:
    """The trained tensors of an adapter or of a checkpoint of full training, mapped.

    Of a tied model trained in its embeddings an adapter has them under both names.

    Returns:
        Of full training an overlay: no LoRA layers, and every trained tensor in ``full``.

    Raises:
        ModelError: Where the folder holds neither, or its files are broken.
    """
    if (folder / OVERLAY_WEIGHTS).is_file():
        files = WeightFiles(folder, OVERLAY_WEIGHTS)
        return AdapterWeights({}, {}, {name: files.tensor(name) for name in files})
    return AdapterWeights.read(folder)
