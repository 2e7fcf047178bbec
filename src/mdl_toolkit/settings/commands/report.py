"""Settings of ``report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.errors import printable
from mdl_toolkit.settings.checks import page_problems
from mdl_toolkit.settings.options import Settings, option
from mdl_toolkit.settings.score_names import MAIN_SCORE


@dataclass(kw_only=True)
class ReportSettings(Settings):
    """Settings of ``report``."""

    runs: list[Path] = option(
        help="Folder of a run or evaluation, or file of predictions; the others are compared with the first.",
        positional=True,
        metavar="RUN",
        commas=False,
    )
    output: Path = option(
        Path("report.html"),
        "Page to write. Recordings that are too many to go into it lie beside it, in report-audio/.",
        group="output",
        metavar="FILE",
    )
    task: str = option(
        "exact",
        "What makes an answer right, for files of predictions.",
        group="input",
        choices=tuple(MAIN_SCORE),
    )
    base_dir: Path | None = option(
        None,
        "Folder that relative audio paths start from; by default that of the run, the working directory, or "
        "near the run.",
        group="input",
    )
    allow_outside_base_dir: bool = option(
        False, "Allow audio paths that lead out of --base-dir.", group="input"
    )
    embed_audio: float = option(
        10.0,
        "Recordings and pictures of at most so many MB go into the page; 0: all go beside it.",
        group="output",
        metavar="MB",
        low=0.0,
    )
    max_clips: int = option(
        500,
        "Most recordings in the report, of the worst and the least certain rows; 0: of all rows.",
        group="output",
        low=0,
    )

    def problems(self) -> list[str]:
        """What is wrong with the options together: a line for each problem."""
        found = page_problems(self.output)
        if self.base_dir is not None and not self.base_dir.is_dir():
            found.append(f"--base-dir {printable(self.base_dir)}: no such folder")
        return found
