"""Settings of ``evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.errors import printable
from mdl_toolkit.settings.checks import missing_file
from mdl_toolkit.settings.options import Settings, given_names, option
from mdl_toolkit.settings.score_names import MAIN_SCORE, missing_libraries

#: How texts of speech can be brought to a common form.
NORMALIZERS = ("auto", "none", "basic", "english", "chinese")


@dataclass(kw_only=True)
class EvaluateSettings(Settings):
    """Settings of ``evaluate``."""

    input: Path = option(
        help="Predictions, as `inference` writes them: a CSV, JSONL or Parquet file.",
        positional=True,
        metavar="FILE",
    )
    task: str = option(
        help=f"What makes an answer right: {', '.join(MAIN_SCORE)}.",
        choices=tuple(MAIN_SCORE),
        metavar="TASK",
    )
    output: Path = option(
        help="Folder for scores.json and rows.csv; those of an earlier evaluation are replaced.",
        group="output",
        metavar="DIR",
    )
    reference: str | None = option(
        None,
        "Column of the right answers; by default found by its name (reference, text, label, answer, …).",
        group="input",
        metavar="COLUMN",
    )
    prediction: str | None = option(
        None,
        "Column of the model's answers; by default found by its name (prediction, model_output, …).",
        group="input",
        metavar="COLUMN",
    )
    truth: Path | None = option(
        None,
        "File with the right answers, if FILE has none; rows are matched by what they are of, not by place.",
        group="input",
        metavar="FILE",
    )
    match_by: list[str] = option(
        factory=list,
        help="Column that says what a row is of, for --truth and --against; repeatable. By default the audio "
        "path or an id.",
        group="input",
        metavar="COLUMN",
        commas=False,
    )
    encoding: str = option(
        "utf-8",
        "Text encoding of the files, for example gbk.",
        group="input",
        metavar="NAME",
    )
    labels: str | None = option(
        None,
        "All labels or tags that there are, by default those of the right answers: a file with one a line, "
        "or a list with commas.",
        group="evaluation",
        metavar="FILE|a,b,c",
    )
    normalizer: str = option(
        "auto",
        "How texts of --task asr are made alike; auto: by their language, which a column lang names.",
        group="evaluation",
        choices=NORMALIZERS,
    )
    against: Path | None = option(
        None,
        "Another file of predictions for the same rows: are these better, or is it chance?",
        group="evaluation",
        metavar="FILE",
    )
    slice_by: list[str] = option(
        factory=list,
        help="Column by whose values scores are told apart, such as speaker; repeatable.",
        group="evaluation",
        metavar="COLUMN",
        commas=False,
    )
    resamples: int = option(
        1000,
        "Draws of the bootstrap for the 95 % intervals; 0: no intervals.",
        group="evaluation",
        low=0,
        high=1_000_000,
    )
    seed: int = option(0, "Random seed of the bootstrap.", group="evaluation", low=0)

    def problems(self) -> list[str]:
        """What is wrong with the options together: a line for each problem."""
        found = missing_libraries(self.task) + missing_file(self.input, "FILE")
        for path, name in ((self.truth, "--truth"), (self.against, "--against")):
            if path is not None:
                found += missing_file(path, name)
        if self.output.exists() and not self.output.is_dir():
            found.append(f"--output {printable(self.output)}: a file; name a folder")
        rows = self.output / "rows.csv"
        if rows.is_file() and self.input.exists() and rows.samefile(self.input):
            found.append(f"--output {printable(self.output)}: FILE would be replaced; name another folder")
        if "normalizer" in given_names(self) and self.task != "asr":
            found.append("--normalizer goes with --task asr only: leave it out")
        if self.labels and self.task not in ("classification", "tagging"):
            found.append("--labels goes with --task classification and tagging only: leave it out")
        return found
