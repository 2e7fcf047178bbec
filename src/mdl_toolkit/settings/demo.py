"""Settings of ``demo``."""

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
