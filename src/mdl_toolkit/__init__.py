"""MDL-Toolkit: fine-tune MiDashengLM on your own recordings.

Importing the package imports no torch; the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_LAZY = {
    "convert_dataset": "mdl_toolkit.data.conversion.command",
    "train": "mdl_toolkit.training.run",
    "inference": "mdl_toolkit.infer.run",
    "ConvertSettings": "mdl_toolkit.settings",
    "TrainSettings": "mdl_toolkit.settings",
    "InferenceSettings": "mdl_toolkit.settings",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
