"""Settings of ``train``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mdl_toolkit.settings.checks import (
    dataset_paths,
    dataset_problems,
    missing_extra,
    problems_of_full_training,
)
from mdl_toolkit.settings.convert import ConvertOptions
from mdl_toolkit.settings.options import flag, option, varied

TRAIN_TARGETS = ("encoder", "projector", "decoder", "embed_tokens", "lm_head")


@dataclass(kw_only=True)
class TrainSettings(ConvertOptions):
    """Settings of ``train``."""

    HEADINGS: ClassVar[Mapping[str, str]] = {
        name: f"{name} (where a dataset is given as a file)" for name in ("prompt", "input", "conversion")
    }

    model_name: str = varied(
        ConvertOptions,
        "model_name",
        help="Model to fine-tune: a Hub id, a folder, or 'tiny' (a small base); default: the dataset's "
        "model, else",
    )
    train_dataset: list[str] | str = option(
        help="Data to train on: a converted folder, or a CSV, JSONL or Parquet file. Repeat the option to "
        "join several.",
        group="data",
        metavar="PATH",
        commas=False,
        resume="derived",
        hosts="derived",
    )
    eval_dataset: list[str] | str | None = option(
        None,
        "Held-out data to measure the loss on during training, in the same forms as --train-dataset.",
        group="data",
        metavar="PATH",
        commas=False,
        resume="derived",
        hosts="derived",
    )
    output: Path = option(
        help="Folder of the run: checkpoints, metrics.jsonl, and the fine-tuned model in final/.",
        group="output",
        resume="free",
        hosts="free",
    )
    cache_dir: Path | None = option(
        None,
        "Folder for the converted form of files given as datasets; OUTPUT/cache if not given.",
        group="data",
        resume="free",
        hosts="free",
    )

    method: str = option(
        "lora",
        "lora: train small adapters, which needs less memory; full: train every weight of the chosen parts.",
        group="what is trained",
        choices=("lora", "full"),
        resume="same",
        hosts="same",
    )
    train_target: list[str] = option(
        factory=lambda: ["encoder", "projector", "decoder"],
        help="Part of the model to train; repeat it for several. embed_tokens and lm_head are trained in "
        "full.",
        group="what is trained",
        choices=TRAIN_TARGETS,
        resume="same",
        hosts="same",
    )
    lora_rank: int = option(
        32,
        "Rank of the LoRA adapters; a higher one can learn more and needs more memory.",
        group="what is trained",
        low=1,
        resume="same",
        hosts="same",
        goes_with="--method lora",
    )
    lora_alpha: int = option(
        32,
        "Scale of the LoRA adapters, which is alpha/rank; change it together with --lora-rank.",
        group="what is trained",
        low=1,
        resume="same",
        hosts="same",
        goes_with="--method lora",
    )
    lora_dropout: float = option(
        0.0,
        "Dropout probability at the inputs of the adapters; raise it (0.05, 0.1) against overfitting.",
        group="what is trained",
        low=0,
        high=0.999,
        resume="warn",
        hosts="same",
        goes_with="--method lora",
    )
    lora_attention: bool = option(
        False,
        "LoRA on the decoder's attention too, not only on its MLP; slower, and no better where we "
        "measured it.",
        group="what is trained",
        resume="same",
        hosts="same",
        goes_with="--method lora",
    )
    rslora: bool = option(
        False,
        "Scale the adapters by alpha/sqrt(rank) (rsLoRA); made for high ranks.",
        group="what is trained",
        resume="same",
        hosts="same",
        goes_with="--method lora",
    )
    dora: bool = option(
        False,
        "Split the adapters' updates into size and direction (DoRA): slower, sometimes more accurate.",
        group="what is trained",
        resume="same",
        hosts="same",
        goes_with="--method lora",
    )
    quantization: str | None = option(
        None,
        "Keep the decoder's base weights in 8 or 4 bits, to save memory (needs the quantization extra).",
        group="memory and speed",
        choices=("8bit", "4bit"),
        resume="warn",
        hosts="same",
        goes_with="--method lora",
    )

    lr: float = option(
        1e-4,
        "Peak learning rate; lower it if the loss jumps or grows.",
        group="optimisation",
        above=0,
        resume="warn",
        hosts="same",
    )
    lr_scheduler: str = option(
        "linear",
        "Learning rate after the warm-up: falls in a straight line, falls along a cosine, or stays constant.",
        group="optimisation",
        choices=("linear", "cosine", "constant"),
        resume="warn",
        hosts="same",
    )
    warmup_steps: int = option(
        0,
        "Steps in which the learning rate rises from 0 to --lr.",
        group="optimisation",
        low=0,
        resume="warn",
        hosts="same",
    )
    warmup_ratio: float | None = option(
        None,
        "Length of the warm-up as a share of all steps (0.1: a tenth); instead of --warmup-steps.",
        group="optimisation",
        low=0,
        high=1,
        resume="warn",
        hosts="same",
    )
    weight_decay: float = option(
        0.0,
        "Weight decay of the AdamW optimizer; 0 turns it off.",
        group="optimisation",
        low=0,
        resume="warn",
        hosts="same",
    )
    max_grad_norm: float = option(
        1.0,
        "Scale a step's gradient down to this norm if it is larger; 0 turns clipping off.",
        group="optimisation",
        low=0,
        resume="warn",
        hosts="same",
    )
    num_epochs: float = option(
        1.0,
        "Passes over the training data; 0.5 is half a pass.",
        group="optimisation",
        above=0,
        resume="warn",
        hosts="same",
    )
    max_steps: int | None = option(
        None,
        "Steps to train, in as many passes over the data as that takes; replaces --num-epochs.",
        group="optimisation",
        low=1,
        resume="warn",
        hosts="same",
    )
    batch_size: int = option(
        8,
        "Clips in a micro-batch of one device; lower it if memory runs out.",
        group="optimisation",
        low=1,
        resume="warn",
        hosts="same",
    )
    max_tokens: int | None = option(
        None,
        "Decoder tokens in a micro-batch of one device; replaces --batch-size, for clips of very "
        "different lengths.",
        group="optimisation",
        low=1,
        resume="warn",
        hosts="same",
    )
    gradient_accumulation_steps: int = option(
        1,
        "Micro-batches of each device in one step; raise it for larger batches in the same memory.",
        group="optimisation",
        low=1,
        resume="warn",
        hosts="same",
    )
    seed: int = option(
        42,
        "Random seed for the order of the data, new adapters and dropout.",
        group="optimisation",
        low=0,
        resume="warn",
        hosts="same",
    )

    bf16: bool | None = option(
        None,
        "Compute in bfloat16, which saves memory and time on a GPU; by default where the GPU supports it.",
        group="memory and speed",
        resume="warn",
        hosts="derived",
    )
    gradient_checkpointing: bool | Literal["auto"] = option(
        "auto",
        "Recompute activations: less memory, slower steps. auto: only where the memory plan needs it.",
        group="memory and speed",
        resume="free",
        hosts="same",
    )
    sharding: str = option(
        "auto",
        "Spread over processes: optimizer (and gradients), full (weights too), hybrid (full in each "
        "node); auto: as launched, else none.",
        group="memory and speed",
        choices=("auto", "none", "optimizer", "full", "hybrid"),
        resume="free",
        hosts="same",
    )
    compile: bool = option(
        False,
        "Compile the model's blocks with torch.compile: a slower start, and faster steps on some GPUs.",
        group="memory and speed",
        resume="free",
        hosts="same",
    )
    data_workers: int = option(
        2,
        "Processes that prepare batches for each training process; raise it if the GPU waits for data.",
        group="memory and speed",
        low=0,
        resume="free",
        hosts="free",
    )

    eval_steps: float = option(
        500,
        "Steps between evaluations; a value below 1 is a share of the training (0.1: ten evaluations).",
        group="evaluation",
        above=0,
        resume="free",
        hosts="same",
        goes_with="--eval-dataset",
    )
    eval_batch_size: int | None = option(
        None,
        "Clips on one device at a time in evaluation; --batch-size if not given.",
        group="evaluation",
        low=1,
        resume="free",
        hosts="same",
        goes_with="--eval-dataset",
    )
    eval_accumulation_steps: int | None = option(
        None,
        "No effect; accepted so that scripts for 0.1.0 still run.",
        group="evaluation",
        low=1,
        resume="free",
        hosts="free",
    )
    report_to: list[str] = option(
        factory=list,
        help="Also send the metrics to a tracker (tensorboard, wandb, mlflow, …); repeat it for several.",
        group="output",
        metavar="NAME",
        resume="free",
        hosts="free",
    )
    logging_steps: int | None = option(
        None,
        "Print a line every N steps; by default a terminal has one live line, and a log a line now and then.",
        group="output",
        low=1,
        resume="free",
        hosts="free",
    )
    save_steps: float = option(
        500,
        "Steps between checkpoints; a value below 1 is a share of the training (0.1: ten checkpoints).",
        group="output",
        above=0,
        resume="free",
        hosts="same",
    )
    save_total_limit: int | None = option(
        None,
        "Keep only the N newest checkpoints, to save disk; all of them if not given.",
        group="output",
        low=1,
        resume="free",
        hosts="same",
    )
    merge_lora: bool = option(
        True,
        "Write final/ as a model that works alone; false: as the adapter only, which needs its base model.",
        group="output",
        resume="free",
        hosts="same",
        goes_with="--method lora",
    )
    merge_onto: str | None = option(
        None,
        "After --quantization: merge onto the weights as training had them (quantized, the default) "
        "or the base's own.",
        group="output",
        choices=("quantized", "original"),
        resume="free",
        hosts="same",
    )
    final_dtype: str = option(
        "auto",
        "Dtype of final/'s weights. auto: as the base, but float32 if rounding would lose over 5 % of"
        " what was learned.",
        group="output",
        choices=("auto", "base", "bfloat16", "float16", "float32"),
        resume="free",
        hosts="same",
    )
    resume_from_checkpoint: str | None = option(
        None,
        "Continue a run. true or latest: from OUTPUT's newest complete checkpoint, or the start if there is "
        "none; or its path.",
        group="output",
        metavar="true|latest|PATH",
        path=True,
        bare=True,
        resume="free",
        hosts="same",
    )
    overwrite: bool = option(
        False,
        "Replace an earlier run at --output; without it that is refused.",
        group="output",
        resume="free",
        hosts="same",
    )
    peer_timeout: float = option(
        120.0,
        "Seconds of silence after which another process of a run counts as lost: more than any pause that "
        "its hosts and the network make.",
        group="output",
        low=5,
        resume="free",
        hosts="free",
    )
    on_nonfinite: str = option(
        "stop",
        "If a loss or gradient is NaN or infinite: stop before the update, or skip that update and go on.",
        group="optimisation",
        choices=("stop", "skip"),
        resume="free",
        hosts="same",
    )

    def problems(self) -> list[str]:
        """What is wrong with the options together: a line for each problem."""
        found = self._model_problems()
        if not dataset_paths(self.train_dataset):
            found.append("--train-dataset: name a converted folder, or a CSV, JSONL or Parquet file")
        found += dataset_problems("--train-dataset", self.train_dataset, self.output)
        found += dataset_problems("--eval-dataset", self.eval_dataset, self.output)
        if self.warmup_ratio is not None and self.warmup_steps:
            found.append(
                f"--warmup-steps {self.warmup_steps} and --warmup-ratio {self.warmup_ratio:g}: both set the "
                "length of the warm-up; keep one"
            )
        if not self.train_target:
            found.append("--train-target: name at least one part to train")
        if self.method == "full":
            found += problems_of_full_training(self)
        if self.quantization:
            found += missing_extra("bitsandbytes", "--quantization", "quantization")
        if self.merge_onto is not None and not (self.quantization and self.merge_lora):
            found.append("--merge-onto goes with --quantization and a merged final/ only: leave it out")
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
