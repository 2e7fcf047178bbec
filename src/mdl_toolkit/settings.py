"""Typed settings of every command. Flags and YAML fill them; all problems are reported at once.

Only the standard library is imported here, so that ``--help`` is immediate and no torch is loaded before the
settings are valid. How they are read is in ``options.py``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mdl_toolkit.options import Settings, flag, given, option, printable
from mdl_toolkit.paths import dataset_paths, missing_file, output_kind, parse_shard, twice

DEFAULT_MODEL = "mispeech/midashenglm-7b"
TRAIN_TARGETS = ("encoder", "projector", "decoder", "embed_tokens", "lm_head")


def default_workers() -> int:
    """Half the cores that this process may use, at least 1 and at most 32."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2)
    return max(1, min(32, cores // 2))


@dataclass(kw_only=True)
class ConvertOptions(Settings):
    """What decides how rows become training examples."""

    model_name: str = option(
        DEFAULT_MODEL,
        "Hub id or folder whose tokenizer, template and front end decide the conversion; 'tiny' names the "
        "small base that ships with the toolkit.",
        group="model",
    )
    from_modelscope: bool = option(
        False, "Download from ModelScope (needs the modelscope extra).", group="model"
    )
    revision: str | None = option(None, "Branch, tag or commit of a Hub model.", group="model")
    tokenizing_batch_size: int = option(8, "Rows a worker takes at a time.", group="conversion", low=1)
    num_workers: int = option(
        factory=default_workers, help="Processes that decode and resample.", group="conversion", low=1
    )
    system_prompt: str | None = option(
        None, "System prompt of rows that have none of their own.", group="prompt"
    )
    user_prompt: str | None = option(None, "User prompt of rows that have none of their own.", group="prompt")
    prompt_order: str | None = option(
        None,
        "What comes first in the user's turn; audio-first unless the model says otherwise.",
        group="prompt",
        choices=("audio-first", "text-first"),
    )
    base_dir: Path | None = option(
        None, "Root of relative audio paths; else the working directory.", group="input"
    )
    encoding: str = option("utf-8", "Text encoding of a CSV (for example gbk).", group="input")
    on_error: str = option(
        "fail",
        "A bad row: fail at the end with a list of all of them, or skip them into a quarantine CSV.",
        group="input",
        choices=("fail", "skip"),
    )
    max_audio_seconds: float = option(300.0, "Longer clips are reported as bad rows.", group="input", above=0)
    allow_private_urls: bool = option(
        False, "Fetch audio from private, loopback and link-local addresses too.", group="input"
    )
    allow_outside_base_dir: bool = option(False, "Let audio paths lead out of --base-dir.", group="input")
    url_timeout: float = option(
        30.0, "Seconds that fetching one URL may take, further tries included.", group="input", above=0
    )
    url_max_mib: float = option(200.0, "MiB that one fetched URL may have.", group="input", above=0)
    audio_storage: str = option(
        "pcm16",
        "How clips are kept: 16-bit PCM, FLAC (less disk, slower), or a reference to the original file.",
        group="conversion",
        choices=("pcm16", "flac", "reference"),
    )

    def _model_problems(self) -> list[str]:
        local = self.model_name == "tiny" or os.path.exists(os.path.expanduser(self.model_name))
        if self.revision is None or not local:
            return []
        return [
            f"--revision {printable(self.revision)} has no effect: {printable(self.model_name)} is on this "
            "machine, not a Hub model; leave it out"
        ]


@dataclass(kw_only=True)
class ConvertSettings(ConvertOptions):
    """Settings of ``convert-dataset``."""

    input: Path = option(help="CSV, JSONL or Parquet file.", positional=True, metavar="INPUT")
    output: Path = option(help="Folder to make.", group="output")
    shard: str | None = option(
        None,
        "Convert the i-th of n parts only, as i/n (1/4 … 4/4); train opens them together.",
        group="output",
    )
    overwrite: bool = option(False, "Replace an earlier dataset at --output.", group="output")

    def problems(self) -> list[str]:
        """What is wrong with the settings beyond types and bounds."""
        found = missing_file(self.input, "INPUT") + self._model_problems()
        if self.shard is not None and parse_shard(self.shard) is None:
            found.append(f"--shard {self.shard}: not of the form i/n with 1 <= i <= n, for example 2/8")
        return found


@dataclass(kw_only=True)
class TrainSettings(ConvertOptions):
    """Settings of ``train``."""

    train_dataset: list[str] | str = option(
        help="Converted folder, or a CSV, JSONL or Parquet file, to train on; several, by repeating the "
        "option, are joined.",
        group="data",
        metavar="PATH",
        commas=False,
    )
    eval_dataset: list[str] | str | None = option(
        None,
        "The same, to evaluate on while training.",
        group="data",
        metavar="PATH",
        commas=False,
    )
    output: Path = option(help="Folder of the run: checkpoints, final model, metrics.", group="output")
    cache_dir: Path | None = option(
        None, "Where files given as datasets are converted to; else OUTPUT/cache.", group="data"
    )

    method: str = option(
        "lora",
        "LoRA adapters, or every weight of the chosen parts.",
        group="what is trained",
        choices=("lora", "full"),
    )
    train_target: list[str] = option(
        factory=lambda: ["encoder", "projector", "decoder"],
        help="Part to train (repeat the option for several); embed_tokens and lm_head are trained in full.",
        group="what is trained",
        choices=TRAIN_TARGETS,
    )
    lora_rank: int = option(32, "Rank of the adapters.", group="what is trained", low=1)
    lora_alpha: int = option(32, "Scale of the adapters: alpha/rank.", group="what is trained", low=1)
    lora_dropout: float = option(
        0.0, "Dropout before the adapters.", group="what is trained", low=0, high=0.999
    )
    lora_attention: bool = option(
        False, "Adapt the decoder's attention too, not its MLP alone.", group="what is trained"
    )
    rslora: bool = option(False, "Scale by alpha/sqrt(rank).", group="what is trained")
    dora: bool = option(False, "Weight-decomposed adapters (DoRA).", group="what is trained")
    quantization: str | None = option(
        None,
        "Keep the decoder's base weights in 8 or 4 bits (needs the quantization extra).",
        group="memory and speed",
        choices=("8bit", "4bit"),
    )

    lr: float = option(1e-4, "Peak learning rate.", group="optimisation", above=0)
    lr_scheduler: str = option(
        "linear", "Shape after the warm-up.", group="optimisation", choices=("linear", "cosine", "constant")
    )
    warmup_steps: int = option(
        0, "Steps in which the learning rate rises to --lr.", group="optimisation", low=0
    )
    warmup_ratio: float | None = option(
        None,
        "The same as a share of the run's steps, instead of --warmup-steps.",
        group="optimisation",
        low=0,
        high=1,
    )
    weight_decay: float = option(0.0, "AdamW's weight decay.", group="optimisation", low=0)
    max_grad_norm: float = option(
        1.0, "Gradients are clipped to this norm; 0 turns it off.", group="optimisation", low=0
    )
    num_epochs: float = option(1.0, "Passes over the data; fractions allowed.", group="optimisation", above=0)
    max_steps: int | None = option(
        None,
        "Steps to make, in as many passes over the data as it takes; replaces --num-epochs.",
        group="optimisation",
        low=1,
    )
    batch_size: int = option(8, "Clips per device and micro-batch.", group="optimisation", low=1)
    max_tokens: int | None = option(
        None,
        "Decoder tokens per device and micro-batch; replaces --batch-size.",
        group="optimisation",
        low=1,
    )
    gradient_accumulation_steps: int = option(1, "Micro-batches in a step.", group="optimisation", low=1)
    seed: int = option(42, "Seed of order, initialisation and dropout.", group="optimisation", low=0)

    bf16: bool | None = option(
        None, "Train in bfloat16; by default where a GPU supports it.", group="memory and speed"
    )
    gradient_checkpointing: bool | Literal["auto"] = option(
        "auto", "Recompute activations; auto: only where the memory plan needs it.", group="memory and speed"
    )
    sharding: str = option(
        "auto",
        "Shard gradients and optimizer over all processes (optimizer), the weights too (full), or all of it "
        "within each node (hybrid); auto: as the launcher's config says, else none.",
        group="memory and speed",
        choices=("auto", "none", "optimizer", "full", "hybrid"),
    )
    compile: bool = option(False, "Compile the repeated blocks with torch.compile.", group="memory and speed")
    data_workers: int = option(2, "Processes per rank that prepare batches.", group="memory and speed", low=0)

    eval_steps: float = option(
        500,
        "Steps between evaluations; a value in (0, 1) is a share of training.",
        group="evaluation",
        above=0,
    )
    eval_batch_size: int | None = option(
        None, "Clips per device; else --batch-size.", group="evaluation", low=1
    )
    eval_accumulation_steps: int | None = option(
        None,
        "Accepted for old scripts; evaluation keeps no outputs, so nothing piles up.",
        group="evaluation",
        low=1,
    )
    report_to: list[str] = option(
        factory=list, help="Tracker (repeat for several): tensorboard, wandb, mlflow, …", group="output"
    )
    logging_steps: int = option(
        1, "Steps between printed lines; metrics.jsonl has every step.", group="output", low=1
    )
    save_steps: float = option(
        500, "Steps between checkpoints; a value in (0, 1) is a share of training.", group="output", above=0
    )
    save_total_limit: int | None = option(None, "Checkpoints kept; the newest stay.", group="output", low=1)
    merge_lora: bool = option(
        True, "final/ is a stand-alone model; false: the adapter alone.", group="output"
    )
    resume_from_checkpoint: str | None = option(
        None,
        "true: the newest complete checkpoint of OUTPUT; or a checkpoint's path.",
        group="output",
        metavar="true|PATH",
        bare=True,
    )
    overwrite: bool = option(False, "Replace an earlier run at --output.", group="output")
    on_nonfinite: str = option(
        "stop",
        "A loss or gradient that is not finite: stop before the update, or skip that update.",
        group="optimisation",
        choices=("stop", "skip"),
    )

    def problems(self) -> list[str]:
        """What is wrong with the settings beyond types and bounds."""
        found = self._model_problems()
        if not dataset_paths(self.train_dataset):
            found.append("--train-dataset: name a converted folder, or a CSV, JSONL or Parquet file")
        for name, value in (("--train-dataset", self.train_dataset), ("--eval-dataset", self.eval_dataset)):
            paths = dataset_paths(value)
            for path in paths:
                found += missing_file(path, name)
            found += [f"{name} {printable(path)}: given twice; keep one" for path in twice(paths)]
        if self.warmup_ratio is not None and self.warmup_steps:
            found.append(
                f"--warmup-steps {self.warmup_steps} and --warmup-ratio {self.warmup_ratio:g}: two lengths "
                "of one warm-up; keep one"
            )
        if not self.train_target:
            found.append("--train-target: name at least one part to train")
        if self.method == "full":
            given = [n for n, v in (("--rslora", self.rslora), ("--dora", self.dora)) if v]
            found += [f"{n} goes with --method lora only" for n in given]
            if self.quantization:
                found.append("--quantization keeps base weights frozen: it goes with --method lora only")
        if self.quantization and self.sharding not in ("auto", "none"):
            found.append("--quantization does not go with --sharding: quantised weights can't be sharded")
        for name in ("save_steps", "eval_steps"):
            value = getattr(self, name)
            if value >= 1 and value != int(value):
                found.append(
                    f"{flag(name)} {value}: a whole number of steps, or a share of training in (0, 1)"
                )
        return found


@dataclass(kw_only=True)
class InferenceSettings(ConvertOptions):
    """Settings of ``inference``."""

    input: Path = option(help="CSV, JSONL or Parquet file.", positional=True, metavar="INPUT")
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
        8, "Accepted for old scripts; rows are read one by one.", group="input", low=1
    )
    num_workers: int = option(
        factory=default_workers, help="Threads that load clips ahead.", group="input", low=1
    )
    model_name: str = option(
        help="Model folder, adapter folder, checkpoint of a run, Hub id, or 'tiny'.", group="model"
    )
    base_model: str | None = option(
        None, "Base of an adapter, where its own record doesn't lead to it any more.", group="model"
    )
    quantization: str | None = option(
        None,
        "Keep the decoder's weights in 8 or 4 bits (needs the quantization extra).",
        group="model",
        choices=("8bit", "4bit"),
    )
    bf16: bool | None = option(
        None,
        "Run in bfloat16; by default on GPUs that support it, and on CPUs that do for weights in bfloat16.",
        group="model",
    )
    batch_size: int = option(32, "Clips at a time.", group="generation", low=1)
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
        None, "Of sampling, unless the model's settings say otherwise [1].", group="generation", above=0
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
        "Above 1: repeat less, unless the model's settings say otherwise [1].",
        group="generation",
        above=0,
    )
    seed: int = option(42, "Seed of sampling.", group="generation", low=0)
    overwrite: bool = option(
        False, "Start anew where --output holds other work, instead of refusing.", group="output"
    )

    def problems(self) -> list[str]:
        """What is wrong with the settings beyond types and bounds."""
        found = missing_file(self.input, "INPUT") + self.output_problems() + self._model_problems()
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

    def output_problems(self) -> list[str]:
        """What is wrong with ``--output``."""
        if self.output.is_dir():
            return [f"--output {printable(self.output)}: a folder; name the file to write"]
        if self.output.exists() and self.input.exists() and self.output.samefile(self.input):
            return [f"--output {printable(self.output)}: that is the input itself; name another file"]
        if output_kind(self.output) is None:
            return [
                f"--output {printable(self.output)}: {self.output.suffix} files can't be written; "
                "end the name in .csv, .tsv or .jsonl"
            ]
        return []


@dataclass(kw_only=True)
class DemoSettings(Settings):
    """Settings of ``demo``."""

    output: Path = option(Path("mdl-demo"), "Folder to fill.", group="output")
    seed: int = option(0, "Seed of the sounds and of training.", low=0)
