"""Settings of ``inspect``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.errors import printable
from mdl_toolkit.settings.checks import missing_file, page_problems
from mdl_toolkit.settings.commands.convert import ConvertOptions
from mdl_toolkit.settings.options import flag, given_names, option, options_where, varied


@dataclass(kw_only=True)
class InspectSettings(ConvertOptions):
    """Settings of ``inspect``: those of ``convert-dataset``, so that the same rows are refused."""

    input: Path = option(
        help="Table of recordings and answers (CSV, JSONL or Parquet), or a converted dataset's folder.",
        positional=True,
        metavar="INPUT",
    )
    against: Path | None = option(
        None,
        "Another table or dataset, such as the test set: recordings that are in both are found, re-encoded "
        "ones too.",
        group="input",
    )
    json: bool = option(
        False,
        "Print one JSON object with everything that was found, all rows by their lines.",
        group="output",
    )
    output: Path | None = option(
        None,
        "Also write the report as a page that needs no network; its name ends in .html.",
        group="output",
        metavar="PAGE",
    )
    strict: bool = option(
        False,
        "Exit with code 1 where there is a problem; warnings and notes don't count.",
        group="output",
    )
    model_name: str = varied(
        ConvertOptions,
        "model_name",
        help="Model whose tokenizer counts tokens and refuses rows; the default's isn't fetched for that.",
    )
    on_error: str = varied(
        ConvertOptions,
        "on_error",
        help="No effect: rows that would be refused are all listed. Accepted as convert-dataset's.",
    )
    audio_storage: str = varied(
        ConvertOptions,
        "audio_storage",
        help="How convert-dataset would store audio: with reference, rows with URLs would be refused.",
        group="input",
    )
    num_workers: int = varied(ConvertOptions, "num_workers", group="input")
    tokenizing_batch_size: int = varied(ConvertOptions, "tokenizing_batch_size", group="input")

    def problems(self) -> list[str]:
        """What is wrong with the options together: a line for each problem."""
        found = missing_file(self.input, "INPUT") + self._model_problems()
        if self.against is not None:
            found += missing_file(self.against, "--against")
            if self.against.exists() and self.input.exists() and self.against.samefile(self.input):
                found.append("--against names INPUT itself; duplicates within it are found without it")
        found += page_problems(self.output) if self.output is not None else []
        if not found and all(path.is_dir() for path in (self.input, self.against) if path is not None):
            found += [
                f"{flag(name)} has no effect: {printable(self.input)} is converted already; leave it out"
                for name in options_where(ConvertOptions, group=("prompt", "input"))
                if name in given_names(self)
            ]
        return found
