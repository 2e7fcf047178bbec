"""Settings from a command line."""

from __future__ import annotations

from pathlib import Path

from mdl_toolkit import settings
from mdl_toolkit.settings import options
from mdl_toolkit.settings.commandline import parse_flags


def train_settings(clips: Path, *words: str) -> settings.TrainSettings:
    flags, config = parse_flags(
        settings.TrainSettings, ["--train-dataset", str(clips), "--output", "out", *words]
    )
    return options.build(settings.TrainSettings, flags, config)
