"""Typed settings of every command, filled from flags and YAML. All problems are reported at once.

A command's options are declared in ``commands/``; ``options.py`` has what a declaration can say,
``commandline.py`` and ``configfile.py`` read texts, ``values.py`` makes values of them. Only the standard
library is imported (PyYAML if there is a file), so that ``--help`` is immediate and wrong options are told
before torch is loaded.
"""

from mdl_toolkit.settings.commands.convert import ConvertOptions, ConvertSettings
from mdl_toolkit.settings.commands.evaluate import EvaluateSettings
from mdl_toolkit.settings.commands.inference import InferenceSettings
from mdl_toolkit.settings.commands.inspect import InspectSettings
from mdl_toolkit.settings.commands.report import ReportSettings
from mdl_toolkit.settings.commands.small_commands import DemoSettings, DoctorSettings
from mdl_toolkit.settings.commands.train import TrainSettings
from mdl_toolkit.settings.commands.train_parts import TRAIN_TARGETS
from mdl_toolkit.settings.commands.verify import VerifySettings
from mdl_toolkit.settings.options import Settings

#: The class of each command's settings.
OF_COMMAND: dict[str, type[Settings]] = {
    "convert-dataset": ConvertSettings,
    "train": TrainSettings,
    "inference": InferenceSettings,
    "inspect": InspectSettings,
    "evaluate": EvaluateSettings,
    "verify": VerifySettings,
    "report": ReportSettings,
    "demo": DemoSettings,
    "doctor": DoctorSettings,
}

__all__ = [
    "OF_COMMAND",
    "TRAIN_TARGETS",
    "ConvertOptions",
    "ConvertSettings",
    "DemoSettings",
    "DoctorSettings",
    "EvaluateSettings",
    "InferenceSettings",
    "InspectSettings",
    "ReportSettings",
    "TrainSettings",
    "VerifySettings",
]
