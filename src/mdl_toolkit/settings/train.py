"""Settings of ``train``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mdl_toolkit.settings.convert import DEFAULT_MODEL, ConvertOptions
from mdl_toolkit.settings.options import flag, given, option, options_where, printable
from mdl_toolkit.settings.paths import dataset_paths, missing_extra, missing_file, twice

TRAIN_TARGETS = ("encoder", "projector", "decoder", "embed_tokens", "lm_head")


@dataclass(kw_only=True)
class TrainSettings(ConvertOptions):
    """Settings of ``train``."""

    HEADINGS: ClassVar[Mapping[str, str]] = {
        name: f"{name}, of files given as datasets" for name in ("prompt", "input", "conversion")
    }

    model_name: str = option(
        DEFAULT_MODEL,
        "Model to fine-tune: a Hub id, a folder, or 'tiny' (the small base that ships with the toolkit); "
        "where it isn't given, the one that the dataset was converted for.",
        group="model",
        resume="derived",
        conversion="derived",
    )
    train_dataset: list[str] | str = option(
        help="Converted folder, or a CSV, JSONL or Parquet file, to train on; several, by repeating the "
        "option, are joined.",
        group="data",
        metavar="PATH",
        commas=False,
        resume="derived",
    )
    eval_dataset: list[str] | str | None = option(
        None,
        "Held-out data to evaluate on while training, given as --train-dataset is.",
        group="data",
        metavar="PATH",
        commas=False,
        resume="derived",
    )
    output: Path = option(
        help="Folder of the run: checkpoints, metrics.jsonl, and in final/ the tuned model.",
        group="output",
        resume="free",
    )
    cache_dir: Path | None = option(
        None,
        "Folder where files given as datasets are converted to; else OUTPUT/cache.",
        group="data",
        resume="free",
    )

    method: str = option(
        "lora",
        "What learns in the chosen parts: LoRA adapters, or every weight (full).",
        group="what is trained",
        choices=("lora", "full"),
        resume="same",
    )
    train_target: list[str] = option(
        factory=lambda: ["encoder", "projector", "decoder"],
        help="Part of the model to train; several by repeating the option. embed_tokens and lm_head learn in "
        "full.",
        group="what is trained",
        choices=TRAIN_TARGETS,
        resume="same",
    )
    lora_rank: int = option(
        32,
        "Rank of the LoRA adapters.",
        group="what is trained",
        low=1,
        resume="same",
        goes_with="--method lora",
    )
    lora_alpha: int = option(
        32,
        "Scale of the LoRA adapters, which is alpha/rank.",
        group="what is trained",
        low=1,
        resume="same",
        goes_with="--method lora",
    )
    lora_dropout: float = option(
        0.0,
        "Dropout at the inputs of the LoRA adapters.",
        group="what is trained",
        low=0,
        high=0.999,
        resume="warn",
        goes_with="--method lora",
    )
    lora_attention: bool = option(
        False,
        "LoRA on the decoder's attention too, not on its MLP alone.",
        group="what is trained",
        resume="same",
        goes_with="--method lora",
    )
    rslora: bool = option(
        False,
        "Scale LoRA adapters by alpha/sqrt(rank).",
        group="what is trained",
        resume="same",
        goes_with="--method lora",
    )
    dora: bool = option(
        False,
        "Weight-decomposed LoRA adapters (DoRA).",
        group="what is trained",
        resume="same",
        goes_with="--method lora",
    )
    quantization: str | None = option(
        None,
        "Keep the decoder's base weights in 8 or 4 bits (needs the quantization extra).",
        group="memory and speed",
        choices=("8bit", "4bit"),
        resume="warn",
        goes_with="--method lora",
    )

    lr: float = option(1e-4, "Peak learning rate.", group="optimisation", above=0, resume="warn")
    lr_scheduler: str = option(
        "linear",
        "How the learning rate goes on after the warm-up.",
        group="optimisation",
        choices=("linear", "cosine", "constant"),
        resume="warn",
    )
    warmup_steps: int = option(
        0, "Steps in which the learning rate rises to --lr.", group="optimisation", low=0, resume="warn"
    )
    warmup_ratio: float | None = option(
        None,
        "Share of the run's steps in which the learning rate rises to --lr; instead of --warmup-steps.",
        group="optimisation",
        low=0,
        high=1,
        resume="warn",
    )
    weight_decay: float = option(0.0, "Weight decay of AdamW.", group="optimisation", low=0, resume="warn")
    max_grad_norm: float = option(
        1.0,
        "Norm that a step's gradient is scaled down to where it is larger; 0: never.",
        group="optimisation",
        low=0,
        resume="warn",
    )
    num_epochs: float = option(
        1.0,
        "Passes over the training data; 0.5 is half of one.",
        group="optimisation",
        above=0,
        resume="warn",
    )
    max_steps: int | None = option(
        None,
        "Steps to train, in as many passes over the data as that takes; replaces --num-epochs.",
        group="optimisation",
        low=1,
        resume="warn",
    )
    batch_size: int = option(
        8, "Clips in a micro-batch of one device.", group="optimisation", low=1, resume="warn"
    )
    max_tokens: int | None = option(
        None,
        "Decoder tokens in a micro-batch of one device, however many clips that is; replaces --batch-size.",
        group="optimisation",
        low=1,
        resume="warn",
    )
    gradient_accumulation_steps: int = option(
        1, "Micro-batches of each device that make one step.", group="optimisation", low=1, resume="warn"
    )
    seed: int = option(
        42,
        "Seed of the data's order, of new adapters and of dropout.",
        group="optimisation",
        low=0,
        resume="warn",
    )

    bf16: bool | None = option(
        None,
        "Compute in bfloat16; by default where a GPU supports it.",
        group="memory and speed",
        resume="warn",
    )
    gradient_checkpointing: bool | Literal["auto"] = option(
        "auto",
        "Recompute activations, which saves memory and costs time; auto: where the memory plan needs it.",
        group="memory and speed",
        resume="free",
    )
    sharding: str = option(
        "auto",
        "Shard gradients and optimizer over all processes (optimizer), the weights too (full), or all of it "
        "within each node (hybrid); auto: as the launcher's config says, else none.",
        group="memory and speed",
        choices=("auto", "none", "optimizer", "full", "hybrid"),
        resume="free",
    )
    compile: bool = option(
        False,
        "Compile the model's repeated blocks with torch.compile.",
        group="memory and speed",
        resume="free",
    )
    data_workers: int = option(
        2,
        "Processes beside each training process that prepare batches.",
        group="memory and speed",
        low=0,
        resume="free",
    )

    eval_steps: float = option(
        500,
        "Steps from one evaluation to the next; below 1: a share of the training.",
        group="evaluation",
        above=0,
        resume="free",
        goes_with="--eval-dataset",
    )
    eval_batch_size: int | None = option(
        None,
        "Clips of one device at a time in evaluation; else --batch-size.",
        group="evaluation",
        low=1,
        resume="free",
        goes_with="--eval-dataset",
    )
    eval_accumulation_steps: int | None = option(
        None,
        "No effect, accepted for old scripts: evaluation keeps no outputs that could pile up.",
        group="evaluation",
        low=1,
        resume="free",
    )
    report_to: list[str] = option(
        factory=list,
        help="Tracker that gets the numbers too (tensorboard, wandb, mlflow, …); several by repeating the "
        "option.",
        group="output",
        resume="free",
    )
    logging_steps: int | None = option(
        None,
        "Steps from one printed line to the next; else a terminal has one live line, and a log a line now "
        "and then. metrics.jsonl has every step.",
        group="output",
        low=1,
        resume="free",
    )
    save_steps: float = option(
        500,
        "Steps from one checkpoint to the next; below 1: a share of the training.",
        group="output",
        above=0,
        resume="free",
    )
    save_total_limit: int | None = option(
        None, "Checkpoints to keep, the newest ones; else all.", group="output", low=1, resume="free"
    )
    merge_lora: bool = option(
        True,
        "Write final/ as a model that stands alone; false: as the adapter alone.",
        group="output",
        resume="free",
        goes_with="--method lora",
    )
    merge_onto: str | None = option(
        None,
        "After --quantization: merge onto the weights as training had them (quantized, the default), or onto "
        "the base's own (original).",
        group="output",
        choices=("quantized", "original"),
        resume="free",
    )
    final_dtype: str = option(
        "auto",
        "Dtype of final/'s weights. base: as the base's; auto: the same, but float32 where rounding would "
        "take more than a twentieth of what was learned.",
        group="output",
        choices=("auto", "base", "bfloat16", "float16", "float32"),
        resume="free",
    )
    resume_from_checkpoint: str | None = option(
        None,
        "Go on with a run: true takes the newest complete checkpoint of OUTPUT, or begins where there is "
        "none; a path takes that checkpoint.",
        group="output",
        metavar="true|PATH",
        bare=True,
        resume="free",
    )
    overwrite: bool = option(
        False, "Replace an earlier run at --output, instead of refusing.", group="output", resume="free"
    )
    on_nonfinite: str = option(
        "stop",
        "Where a loss or gradient is not finite: stop before the update, or skip that update and go on.",
        group="optimisation",
        choices=("stop", "skip"),
        resume="free",
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
            if self.output.resolve() in {path.resolve() for path in paths}:
                found.append(f"--output {printable(self.output)}: that is {name} itself; name another folder")
        if self.warmup_ratio is not None and self.warmup_steps:
            found.append(
                f"--warmup-steps {self.warmup_steps} and --warmup-ratio {self.warmup_ratio:g}: two lengths "
                "of one warm-up; keep one"
            )
        if not self.train_target:
            found.append("--train-target: name at least one part to train")
        if self.method == "full":
            there = given(self)
            # --merge-lora true asks for nothing that full training doesn't do; quantization is told below.
            harmless = {"merge_lora": True, "quantization": self.quantization}
            idle = [
                name
                for name in options_where(type(self), goes_with="--method lora")
                if name in there and getattr(self, name) != harmless.get(name, MISSING)
            ]
            found += [
                f"{flag(name)} goes with --method lora only: full training has no adapters" for name in idle
            ]
            if self.quantization:
                found.append("--quantization keeps base weights frozen: it goes with --method lora only")
        if self.quantization:
            found += missing_extra("bitsandbytes", "--quantization", "quantization")
        if self.merge_onto is not None and not (self.quantization and self.merge_lora):
            found.append("--merge-onto goes with --quantization and a merged final/ only: take it away")
        if self.final_dtype != "auto" and self.method == "lora" and not self.merge_lora:
            found.append("--final-dtype goes with a merged final/ only: an adapter is float32 always")
        if self.quantization and self.sharding not in ("auto", "none"):
            found.append("--quantization does not go with --sharding: quantised weights can't be sharded")
        for name in ("save_steps", "eval_steps"):
            value = getattr(self, name)
            if value >= 1 and value != int(value):
                found.append(
                    f"{flag(name)} {value}: a whole number of steps, or a share of training in (0, 1)"
                )
        return found
