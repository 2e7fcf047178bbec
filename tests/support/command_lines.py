"""Settings from a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdl_toolkit import settings
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.settings.commandline import parse_flags
from mdl_toolkit.settings.options import Settings
from mdl_toolkit.settings.values import make_settings


def flags_of(command: type[Settings], words: Sequence[str]) -> tuple[dict[str, Any], Path | None]:
    """A command line taken apart; what is wrong with it is raised."""
    problems: list[str] = []
    flags, config = parse_flags(command, words, problems)
    if problems:
        raise SettingsError(problems)
    return flags, config


def train_settings(clips: Path, *words: str) -> settings.TrainSettings:
    flags, config = flags_of(
        settings.TrainSettings, ["--train-dataset", str(clips), "--output", "out", *words]
    )
    return make_settings(settings.TrainSettings, flags, config)
