"""MDL-Toolkit: fine-tune MiDashengLM on your own recordings.

Importing the package imports no torch; the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; what runs is _LAZY
    from mdl_toolkit.data.conversion.command import convert_dataset
    from mdl_toolkit.infer.run import inference
    from mdl_toolkit.settings import ConvertSettings, InferenceSettings, TrainSettings
    from mdl_toolkit.training.run import train

__version__ = "0.2.0"

__all__ = [
    "ConvertSettings",
    "InferenceSettings",
    "TrainSettings",
    "__version__",
    "convert_dataset",
    "inference",
    "train",
]

#: The module of each name that is loaded when it is first used.
_LAZY = {
    "convert_dataset": "mdl_toolkit.data.conversion.command",
    "train": "mdl_toolkit.training.run",
    "inference": "mdl_toolkit.infer.run",
    "ConvertSettings": "mdl_toolkit.settings",
    "TrainSettings": "mdl_toolkit.settings",
    "InferenceSettings": "mdl_toolkit.settings",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
