"""Settings of ``inference``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.settings.convert import ConvertOptions, default_workers
from mdl_toolkit.settings.options import flag, given, option
from mdl_toolkit.settings.paths import missing_extra, missing_file, output_problems


@dataclass(kw_only=True)
class InferenceSettings(ConvertOptions):
    """Settings of ``inference``."""

    input: Path = option(
        help="Table of recordings (column audio): a CSV, JSONL or Parquet file.",
        positional=True,
        metavar="INPUT",
    )
    output: Path = option(
        help="File to write: the input's columns and `prediction`; a CSV, or .tsv or .jsonl by its ending.",
        group="output",
    )
    on_error: str = option(
        "skip",
        "Rows that can't be answered are marked in the output and the others go on. skip: exit code 1 only "
        "where no row has an answer; fail: exit code 1 where any row has none.",
        group="output",
        choices=("skip", "fail"),
    )
    tokenizing_batch_size: int = option(
        8, "No effect, accepted for old scripts: rows are read one by one.", group="input", low=1
    )
    num_workers: int = option(
        factory=default_workers, help="Threads that read and resample recordings.", group="input", low=1
    )
    model_name: str = option(
        help="Model to ask: final/ or a checkpoint of a run, a folder of a model or adapter, a Hub id, or "
        "'tiny' (the small base that ships with the toolkit).",
        group="model",
    )
    system_prompt: str | None = option(
        None,
        "System prompt for rows that have none of their own; else the one that the model was trained with.",
        group="prompt",
    )
    user_prompt: str | None = option(
        None,
        "User prompt for rows that have none of their own; else the one that the model was trained with.",
        group="prompt",
    )
    audio_storage: str = option(
        "pcm16",
        "For convert-dataset alone; inference keeps no dataset, and refuses it.",
        group="input",
        choices=("pcm16", "flac", "reference"),
    )
    base_model: str | None = option(
        None,
        "Base model of an adapter, where the adapter's own record doesn't lead to it any more.",
        group="model",
    )
    quantization: str | None = option(
        None,
        "Keep the decoder's weights in 8 or 4 bits (needs the quantization extra).",
        group="model",
        choices=("8bit", "4bit"),
    )
    bf16: bool | None = option(
        None,
        "Compute in bfloat16; by default on GPUs that support it, and on CPUs that do where the weights are "
        "stored in it.",
        group="model",
    )
    batch_size: int = option(32, "Clips that are answered at a time.", group="generation", low=1)
    max_length: int | None = option(
        None,
        "Tokens of prompt and answer together, as 0.1.0 counts; --max-new-tokens goes before it.",
        group="generation",
        low=1,
    )
    max_new_tokens: int | None = option(
        None,
        "Tokens of the answer at most; by default what the model's settings say, else half as many again as "
        "the longest answer in its training, 128 at least.",
        group="generation",
        low=1,
    )
    generation_config: str = option(
        "model",
        "Where settings come from that no option gives: the model's generation_config.json (model), a JSON "
        "file of that form, or nowhere (none).",
        group="generation",
        metavar="model|none|FILE",
    )
    do_sample: bool | None = option(
        None,
        "Sample instead of taking the likeliest token, unless the model's settings say otherwise [false].",
        group="generation",
    )
    temperature: float | None = option(
        None,
        "Temperature of sampling, unless the model's settings say otherwise [1].",
        group="generation",
        above=0,
    )
    top_p: float | None = option(
        None,
        "Sample from the likeliest tokens of this total probability, unless the model's settings say "
        "otherwise [1].",
        group="generation",
        above=0,
        high=1,
    )
    top_k: int | None = option(
        None,
        "Sample from the k likeliest tokens (0: from all), unless the model's settings say otherwise [50].",
        group="generation",
        low=0,
    )
    num_beams: int | None = option(
        None,
        "Beams of a beam search, unless the model's settings say otherwise [1].",
        group="generation",
        low=1,
    )
    repetition_penalty: float | None = option(
        None,
        "Penalty on tokens that are there already (above 1: repeat less), unless the model's settings say "
        "otherwise [1].",
        group="generation",
        above=0,
    )
    seed: int = option(42, "Seed of sampling.", group="generation", low=0)
    overwrite: bool = option(
        False,
        "Replace an earlier file at --output, which else is kept as OUTPUT.1, and drop another command's "
        "unfinished work there, which else is refused.",
        group="output",
    )

    def problems(self) -> list[str]:
        """What is wrong with the settings beyond types and bounds."""
        found = (
            missing_file(self.input, "INPUT")
            + output_problems(self.output, self.input)
            + self._model_problems()
        )
        if self.quantization:
            found += missing_extra("bitsandbytes", "--quantization", "quantization")
        if self.do_sample is False:
            idle = [name for name in ("temperature", "top_p", "top_k") if getattr(self, name) is not None]
            found += [
                f"{flag(name)} has an effect in sampling only: take --do-sample false away" for name in idle
            ]
        if "audio_storage" in given(self):
            found.append(
                "--audio-storage decides how a dataset is kept, and inference keeps none: leave it out"
            )
        if self.generation_config not in ("model", "none"):
            found += missing_file(Path(self.generation_config), "--generation-config")
        return found
