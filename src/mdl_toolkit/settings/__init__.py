"""Typed settings of every command. Flags and YAML fill them; all problems are reported at once.

Only the standard library is imported here, so that ``--help`` is immediate and no torch is loaded before the
settings are valid. How settings are declared and read is in ``options.py``.
"""

from mdl_toolkit.settings.convert import ConvertOptions, ConvertSettings
from mdl_toolkit.settings.demo import DemoSettings
from mdl_toolkit.settings.inference import InferenceSettings
from mdl_toolkit.settings.options import Settings
from mdl_toolkit.settings.train import TRAIN_TARGETS, TrainSettings

#: The class of each command's settings.
OF_COMMAND: dict[str, type[Settings]] = {
    "convert-dataset": ConvertSettings,
    "train": TrainSettings,
    "inference": InferenceSettings,
    "demo": DemoSettings,
}

__all__ = [
    "OF_COMMAND",
    "TRAIN_TARGETS",
    "ConvertOptions",
    "ConvertSettings",
    "DemoSettings",
    "InferenceSettings",
    "TrainSettings",
]
