"""Settings of the commands that have few: ``demo`` and ``doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.settings.options import Settings, option


@dataclass(kw_only=True)
class DemoSettings(Settings):
    """Settings of ``demo``."""

    output: Path = option(
        Path("mdl-demo"),
        "Folder to fill with sounds, datasets, the run, predictions and a report.",
        group="output",
    )
    seed: int = option(0, "Random seed for the sounds and the training.", low=0)


@dataclass(kw_only=True)
class DoctorSettings(Settings):
    """Settings of ``doctor``."""

    json: bool = option(False, "Print one JSON object with everything that was found.")
    output: Path | None = option(
        None, "Folder that a run is to write to: its disk is measured, and hosts have to share it."
    )
    wait: float = option(
        60.0, "Seconds to wait for the other processes of a launch before they are given up.", above=0.0
    )
    online: bool = option(False, "Also try to reach the model hub; without it nothing leaves your network.")
