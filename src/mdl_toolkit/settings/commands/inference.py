"""Settings of ``inference``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.settings.checks import missing_extra, missing_file, output_problems
from mdl_toolkit.settings.commands.convert import ConvertOptions
from mdl_toolkit.settings.options import flag, given_names, option, options_where, varied

#: The column of the input with the choices of its row, and the value of ``--choices`` that means it.
CHOICES_COLUMN = "choices"


@dataclass(kw_only=True)
class InferenceSettings(ConvertOptions):
    """Settings of ``inference``."""

    input: Path = option(
        help="Table of recordings (column audio): a CSV, JSONL or Parquet file.",
        positional=True,
        metavar="INPUT",
        resume="derived",
    )
    output: Path = option(
        help="File to write: the input's columns and `prediction`, in the form of its ending: .csv, .tsv "
        "or .jsonl.",
        group="output",
        resume="free",
    )
    on_error: str = option(
        "skip",
        "Failed rows are marked in the output. skip: exit code 1 only if all rows fail; fail: if any "
        "row fails.",
        group="output",
        choices=("skip", "fail"),
        resume="free",
    )
    tokenizing_batch_size: int = varied(
        ConvertOptions,
        "tokenizing_batch_size",
        help="No effect; accepted so that scripts for 0.1.0 still run.",
        group="input",
    )
    num_workers: int = varied(
        ConvertOptions,
        "num_workers",
        help="Threads that read and resample audio; by default half of the CPU cores, at most 32.",
        group="input",
    )
    # What is heard and what is refused depends on these; elsewhere a conversion's fingerprint does.
    base_dir: Path | None = varied(ConvertOptions, "base_dir", resume="same")
    encoding: str = varied(ConvertOptions, "encoding", resume="same")
    max_audio_seconds: float = varied(ConvertOptions, "max_audio_seconds", resume="same")
    allow_private_urls: bool = varied(ConvertOptions, "allow_private_urls", resume="free")
    allow_outside_base_dir: bool = varied(ConvertOptions, "allow_outside_base_dir", resume="free")
    model_name: str = option(
        help="Model to ask: final/ or a checkpoint of a run, a model or adapter folder, a Hub id, or "
        "'tiny' (small base).",
        group="model",
        metavar="MODEL",
        path=True,
        resume="derived",
    )
    system_prompt: str | None = varied(
        ConvertOptions,
        "system_prompt",
        help="System prompt for rows without one of their own; by default the one that the model was "
        "trained with.",
    )
    user_prompt: str | None = varied(
        ConvertOptions,
        "user_prompt",
        help="User prompt for rows without one of their own; by default the one that the model was trained"
        " with.",
    )
    audio_storage: str = varied(
        ConvertOptions,
        "audio_storage",
        help="Only for convert-dataset; inference keeps no dataset and refuses it.",
        group="input",
        resume="free",
    )
    base_model: str | None = option(
        None,
        "Base model of an adapter; only needed if the one that the adapter's folder records has moved.",
        group="model",
        metavar="MODEL",
        path=True,
        resume="derived",
    )
    quantization: str | None = option(
        None,
        "Load the decoder's weights in 8 or 4 bits, to save memory (needs the quantization extra).",
        group="model",
        choices=("8bit", "4bit"),
        resume="same",
    )
    bf16: bool | None = option(
        None,
        "Compute in bfloat16; by default if the GPU supports it, or the CPU does and the weights are "
        "stored in it.",
        group="model",
        resume="derived",
    )
    batch_size: int = option(
        32,
        "Clips that are answered at a time; lower it if memory runs out.",
        group="generation",
        low=1,
        resume="same",
    )
    max_length: int | None = option(
        None,
        "Most tokens of prompt and answer together, as 0.1.0 counts; --max-new-tokens takes precedence.",
        group="generation",
        low=1,
        resume="same",
    )
    max_new_tokens: int | None = option(
        None,
        "Most tokens of an answer; default: the model's setting, else 1.5 × the longest answer in "
        "training, at least 128.",
        group="generation",
        low=1,
        resume="same",
    )
    generation_config: str = option(
        "model",
        "Source of generation settings not given as options: the model's own file (model), a JSON "
        "file, or none.",
        group="generation",
        metavar="model|none|FILE",
        path=True,
        resume="derived",
    )
    do_sample: bool | None = option(
        None,
        "Draw tokens at random instead of taking the likeliest. Default: the model's setting, else false.",
        group="generation",
        resume="derived",
        generation=True,
    )
    temperature: float | None = option(
        None,
        "Sampling temperature: above 1 answers vary more, below 1 less. Default: the model's setting,"
        " else 1.",
        group="generation",
        above=0,
        resume="derived",
        generation=True,
        goes_with="--do-sample",
    )
    top_p: float | None = option(
        None,
        "Sample from the likeliest tokens that together have this probability. Default: the model's "
        "setting, else 1.",
        group="generation",
        above=0,
        high=1,
        resume="derived",
        generation=True,
        goes_with="--do-sample",
    )
    top_k: int | None = option(
        None,
        "Sample from the k likeliest tokens, 0: from all. Default: the model's setting, else 50.",
        group="generation",
        low=0,
        resume="derived",
        generation=True,
        goes_with="--do-sample",
    )
    num_beams: int | None = option(
        None,
        "Beams of a beam search: more are slower, sometimes better. Default: the model's setting, else 1.",
        group="generation",
        low=1,
        resume="derived",
        generation=True,
    )
    repetition_penalty: float | None = option(
        None,
        "Above 1: tokens that were used already become less likely. Default: the model's setting, else 1.",
        group="generation",
        above=0,
        resume="derived",
        generation=True,
    )
    scores: bool = option(
        False,
        "Add each answer's probability by the model, and the mean and lowest logarithm of its tokens'.",
        group="generation",
        resume="derived",
    )
    choices: str = option(
        CHOICES_COLUMN,
        "Answer with the likeliest of these: FILE's lines, a table's FILE:COLUMN, or a list. Default: a "
        "row's own, in a column",
        group="generation",
        metavar="FILE|a,b,c|none",
        path=True,
        resume="derived",
    )
    n_best: int | None = option(
        None,
        "Add K answers of a beam search (K beams at least), the most probable first: the prediction.",
        group="generation",
        metavar="K",
        low=1,
        resume="derived",
    )
    seed: int = option(42, "Random seed of sampling (--do-sample).", group="generation", low=0, resume="same")
    overwrite: bool = option(
        False,
        "Replace a file at --output (else it is kept as OUTPUT.1) and drop another command's "
        "unfinished work there.",
        group="output",
        resume="free",
    )
    peer_timeout: float = option(
        120.0,
        "On several hosts: seconds of silence after which a process that is waited for counts as lost.",
        group="output",
        low=5,
        resume="free",
    )

    def problems(self) -> list[str]:
        """What is wrong with the options together: a line for each problem."""
        found = (
            missing_file(self.input, "INPUT")
            + output_problems(self.output, self.input)
            + self._model_problems()
        )
        if self.quantization:
            found += missing_extra("bitsandbytes", "--quantization", "quantization")
        if self.do_sample is False:
            sampling = options_where(type(self), goes_with="--do-sample")
            idle = [name for name in sampling if getattr(self, name) is not None]
            found += [
                f"{flag(name)} has an effect in sampling only: leave out --do-sample false" for name in idle
            ]
        if "audio_storage" in given_names(self):
            found.append(
                "--audio-storage decides how a dataset is kept, and inference keeps none: leave it out"
            )
        if self.generation_config not in ("model", "none"):
            found += missing_file(Path(self.generation_config), "--generation-config")
        if self.n_best is not None and self.num_beams is not None and self.num_beams < self.n_best:
            found.append(
                f"--n-best {self.n_best} needs as many beams: --num-beams {self.n_best}, or leave that out "
                f"(it is {self.num_beams})"
            )
        return found + self._choice_problems()

    def _choice_problems(self) -> list[str]:
        if self.choices in (CHOICES_COLUMN, "none"):
            return []
        found = [f"{name} has no effect with --choices: leave one of them out" for name in self.idle_flags]
        is_list = "," in self.choices or self.choices.startswith("[")
        if not is_list and choices_file(self.choices) is None:
            found += [
                f"{problem}; as a list it is one choice, and two are needed at least, with commas between"
                for problem in missing_file(Path(self.choices), "--choices")
            ]
        return found

    @property
    def idle_flags(self) -> Sequence[str]:
        """Options that were given and say how an answer is searched for: a chosen one is not."""
        neutral = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
        given = (*options_where(type(self), generation=True), "n_best")
        return [flag(name) for name in given if getattr(self, name) not in (None, neutral.get(name))]


def choices_file(text: str) -> tuple[Path, str | None] | None:
    """The file that ``--choices`` names, and its column where one is named; ``None`` where it is a list.

    Args:
        text: ``FILE``, ``FILE:COLUMN``, or choices.
    """
    if text.startswith("["):
        return None
    if os.path.exists(text):
        return Path(text), None
    file, colon, column = text.rpartition(":")
    return (Path(file), column) if colon and column and os.path.isfile(file) else None
