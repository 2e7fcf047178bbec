"""What the demonstration has shown, for the terminal: how the loss went, and truth beside prediction."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answered:
    """A held-out clip, what is in it, what the model answered, and whether that was right."""

    name: str
    truth: str
    prediction: str
    correct: bool


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        clips: Every held-out clip.
        metrics: The objects of ``metrics.jsonl``.
        commands: The commands that were run, as typed.
    """

    clips: Sequence[Answered]
    metrics: Sequence[Mapping[str, Any]]
    commands: Sequence[str] = ()

    @property
    def correct(self) -> int:
        """How many answers are right."""
        return sum(clip.correct for clip in self.clips)

    @property
    def accuracy(self) -> float:
        """Their share."""
        return self.correct / max(1, len(self.clips))

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Step and value of a metric, where it was written."""
        return [
            (float(m["step"]), float(m[name]))
            for m in self.metrics
            if m.get(name) is not None and "step" in m
        ]


def collect(folder: Path, evaluation: Path, commands: Sequence[str]) -> Outcome:
    """Read what the steps left.

    Args:
        folder: The demonstration's.
        evaluation: The folder of the held-out clips' evaluation within it.
        commands: What was run.
    """
    with open(folder / evaluation / "rows.csv", encoding="utf-8", newline="") as rows:
        clips = [
            Answered(row["audio"], row["reference"], row["prediction"], row["correct"] == "true")
            for row in csv.DictReader(rows)
        ]
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics: list[Any] = [json.loads(line) for line in lines if line.strip()]
    return Outcome(clips, metrics, list(commands))


def show(outcome: Outcome) -> None:
    """Print how the loss went, truth beside prediction, and the accuracy, to standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if console.width < 40:  # some terminals say 0, and nothing would be shown
        console = Console(width=80)
    console.print()
    for line in loss_lines(outcome):
        console.print(line, markup=False, highlight=False)
    table = Table(title="Held-out clips", title_justify="left")
    for name in ("clip", "truth", "prediction", ""):
        table.add_column(name)
    for clip in outcome.clips:
        style = None if clip.correct else "bold red"
        cells = (clip.name, clip.truth, clip.prediction, "✓" if clip.correct else "✗")
        # As plain text: an answer may look like markup.
        table.add_row(*map(Text, cells), style=style)
    console.print(table)
    console.print(
        f"accuracy: {outcome.correct} of {len(outcome.clips)} ({100 * outcome.accuracy:.1f} %)",
        style="bold", highlight=False,
    )  # fmt: skip


def loss_lines(outcome: Outcome, rows: int = 8) -> list[str]:
    """The loss going down, as a few bars of text."""
    losses = outcome.curve("loss")
    if not losses:
        return []
    parts = [losses[len(losses) * k // rows : len(losses) * (k + 1) // rows] for k in range(rows)]
    means = [(part[0][0], part[-1][0], sum(y for _, y in part) / len(part)) for part in parts if part]
    widest = max(mean for _, _, mean in means) or 1.0
    last = len(f"{losses[-1][0]:.0f}")
    bars = ["█" * max(1, round(40 * mean / widest)) for _, _, mean in means]
    return [
        "Training loss",
        *(
            f"  step {first:{last}.0f}-{end:<{last}.0f}  {mean:7.4f}  {bar}"
            for (first, end, mean), bar in zip(means, bars, strict=True)
        ),
    ]
