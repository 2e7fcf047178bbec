"""Settings from a command line."""

from __future__ import annotations

from pathlib import Path

from mdl_toolkit import settings
from mdl_toolkit.settings.commandline import parse_flags
from mdl_toolkit.settings.values import make_settings


def train_settings(clips: Path, *words: str) -> settings.TrainSettings:
    flags, config = parse_flags(
        settings.TrainSettings, ["--train-dataset", str(clips), "--output", "out", *words]
    )
    return make_settings(settings.TrainSettings, flags, config)
