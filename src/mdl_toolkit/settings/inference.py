"""Settings of ``inference``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.settings.convert import ConvertOptions
from mdl_toolkit.settings.options import flag, given, option, options_where, varied
from mdl_toolkit.settings.paths import missing_extra, missing_file, output_problems


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
        help="File to write: the input's columns and `prediction`; a CSV, or .tsv or .jsonl by its ending.",
        group="output",
        resume="free",
    )
    on_error: str = option(
        "skip",
        "Rows that can't be answered are marked in the output and the others go on. skip: exit code 1 only "
        "where no row has an answer; fail: exit code 1 where any row has none.",
        group="output",
        choices=("skip", "fail"),
        resume="free",
    )
    tokenizing_batch_size: int = varied(
        ConvertOptions,
        "tokenizing_batch_size",
        help="No effect, accepted for old scripts: rows are read one by one.",
        group="input",
    )
    num_workers: int = varied(
        ConvertOptions, "num_workers", help="Threads that read and resample recordings.", group="input"
    )
    # What is heard and what is refused depends on these; elsewhere a conversion's fingerprint does.
    base_dir: Path | None = varied(ConvertOptions, "base_dir", resume="same")
    encoding: str = varied(ConvertOptions, "encoding", resume="same")
    max_audio_seconds: float = varied(ConvertOptions, "max_audio_seconds", resume="same")
    allow_private_urls: bool = varied(ConvertOptions, "allow_private_urls", resume="free")
    allow_outside_base_dir: bool = varied(ConvertOptions, "allow_outside_base_dir", resume="free")
    model_name: str = option(
        help="Model to ask: final/ or a checkpoint of a run, a folder of a model or adapter, a Hub id, or "
        "'tiny' (the small base that ships with the toolkit).",
        group="model",
        resume="derived",
    )
    system_prompt: str | None = varied(
        ConvertOptions,
        "system_prompt",
        help="System prompt for rows that have none of their own; else the one that the model was trained "
        "with.",
    )
    user_prompt: str | None = varied(
        ConvertOptions,
        "user_prompt",
        help="User prompt for rows that have none of their own; else the one that the model was trained "
        "with.",
    )
    audio_storage: str = varied(
        ConvertOptions,
        "audio_storage",
        help="For convert-dataset alone; inference keeps no dataset, and refuses it.",
        group="input",
        resume="free",
    )
    base_model: str | None = option(
        None,
        "Base model of an adapter, where the adapter's own record doesn't lead to it any more.",
        group="model",
        resume="derived",
    )
    quantization: str | None = option(
        None,
        "Keep the decoder's weights in 8 or 4 bits (needs the quantization extra).",
        group="model",
        choices=("8bit", "4bit"),
        resume="same",
    )
    bf16: bool | None = option(
        None,
        "Compute in bfloat16; by default on GPUs that support it, and on CPUs that do where the weights are "
        "stored in it.",
        group="model",
        resume="derived",
    )
    batch_size: int = option(
        32, "Clips that are answered at a time.", group="generation", low=1, resume="same"
    )
    max_length: int | None = option(
        None,
        "Tokens of prompt and answer together, as 0.1.0 counts; --max-new-tokens goes before it.",
        group="generation",
        low=1,
        resume="same",
    )
    max_new_tokens: int | None = option(
        None,
        "Tokens of the answer at most; by default what the model's settings say, else half as many again as "
        "the longest answer in its training, 128 at least.",
        group="generation",
        low=1,
        resume="same",
    )
    generation_config: str = option(
        "model",
        "Where settings come from that no option gives: the model's generation_config.json (model), a JSON "
        "file of that form, or nowhere (none).",
        group="generation",
        metavar="model|none|FILE",
        resume="derived",
    )
    do_sample: bool | None = option(
        None,
        "Sample instead of taking the likeliest token, unless the model's settings say otherwise [false].",
        group="generation",
        resume="derived",
        generation=True,
    )
    temperature: float | None = option(
        None,
        "Temperature of sampling, unless the model's settings say otherwise [1].",
        group="generation",
        above=0,
        resume="derived",
        generation=True,
        goes_with="--do-sample",
    )
    top_p: float | None = option(
        None,
        "Sample from the likeliest tokens of this total probability, unless the model's settings say "
        "otherwise [1].",
        group="generation",
        above=0,
        high=1,
        resume="derived",
        generation=True,
        goes_with="--do-sample",
    )
    top_k: int | None = option(
        None,
        "Sample from the k likeliest tokens (0: from all), unless the model's settings say otherwise [50].",
        group="generation",
        low=0,
        resume="derived",
        generation=True,
        goes_with="--do-sample",
    )
    num_beams: int | None = option(
        None,
        "Beams of a beam search, unless the model's settings say otherwise [1].",
        group="generation",
        low=1,
        resume="derived",
        generation=True,
    )
    repetition_penalty: float | None = option(
        None,
        "Penalty on tokens that are there already (above 1: repeat less), unless the model's settings say "
        "otherwise [1].",
        group="generation",
        above=0,
        resume="derived",
        generation=True,
    )
    seed: int = option(42, "Seed of sampling.", group="generation", low=0, resume="same")
    overwrite: bool = option(
        False,
        "Replace an earlier file at --output, which else is kept as OUTPUT.1, and drop another command's "
        "unfinished work there, which else is refused.",
        group="output",
        resume="free",
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
            sampling = options_where(type(self), goes_with="--do-sample")
            idle = [name for name in sampling if getattr(self, name) is not None]
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
