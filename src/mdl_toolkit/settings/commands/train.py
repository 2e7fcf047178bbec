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
from mdl_toolkit.settings.commands.convert import ConvertOptions
from mdl_toolkit.settings.commands.train_evaluation import EvaluationOptions
from mdl_toolkit.settings.commands.train_parts import TrainedPartsOptions
from mdl_toolkit.settings.commands.train_steps import OptimisationOptions
from mdl_toolkit.settings.evaluation_sets import evaluation_problems
from mdl_toolkit.settings.options import flag, option, varied


@dataclass(kw_only=True)
class TrainSettings(EvaluationOptions, OptimisationOptions, TrainedPartsOptions, ConvertOptions):
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
    quantization: str | None = option(
        None,
        "Keep the decoder's base weights in 8 or 4 bits, to save memory (needs the quantization extra).",
        group="memory and speed",
        choices=("8bit", "4bit"),
        resume="warn",
        hosts="same",
        goes_with="--method lora",
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

    def problems(self) -> list[str]:
        """What is wrong with the options together: a line for each problem."""
        found = self._model_problems()
        if not dataset_paths(self.train_dataset):
            found.append("--train-dataset: name a converted folder, or a CSV, JSONL or Parquet file")
        found += dataset_problems("--train-dataset", self.train_dataset, self.output)
        found += evaluation_problems(self.eval_dataset, self.output)
        found += self.evaluation_problems()
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
