"""Settings of ``verify``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mdl_toolkit.settings.checks import missing_file
from mdl_toolkit.settings.commands.convert import ConvertOptions
from mdl_toolkit.settings.commands.inference import InferenceSettings
from mdl_toolkit.settings.options import Settings, option, varied

#: The ways in which a model can be loaded and asked, in the order in which they are tried.
FORMS = (
    "merged", "disk", "batches", "padded", "bfloat16", "8bit", "4bit", "transformers", "vllm", "sglang",
)  # fmt: skip


@dataclass(kw_only=True)
class VerifySettings(Settings):
    """Settings of ``verify``."""

    SHORT: ClassVar[Mapping[str, str]] = {"rows": "n"}

    model_name: str = option(
        help="Model to verify: final/, best/ or a checkpoint of a run, a model or adapter folder, a Hub id, "
        "or 'tiny'.",
        positional=True,
        metavar="MODEL",
        path=True,
    )
    data: Path = option(
        help="Table of recordings (column audio) to ask about: a CSV, JSONL or Parquet file.", group="data"
    )
    rows: int = option(32, "Rows to ask about, evenly spread over the table.", group="data", low=1)
    base_dir: Path | None = varied(ConvertOptions, "base_dir", group="data")
    encoding: str = varied(ConvertOptions, "encoding", group="data")
    form: list[str] = option(
        factory=list,
        help="Form of the model to compare; repeat it for several. By default all that can be had here.",
        group="model",
        choices=FORMS,
    )
    tolerance: float | None = option(
        None,
        "Largest difference of a token's log-probability that is accepted. Default: 0.001 in float32, 0.25 "
        "in bfloat16, 1 quantised.",
        group="model",
        low=0,
    )
    bf16: bool = option(
        False,
        "Load the reference and its like in bfloat16, where float32 needs too much memory.",
        group="model",
    )
    base_model: str | None = varied(InferenceSettings, "base_model")
    revision: str | None = varied(ConvertOptions, "revision")
    from_modelscope: bool = varied(ConvertOptions, "from_modelscope")
    trust_remote_code: bool = option(
        False,
        "Run the publisher's code in the model's folder, and let engines do so. It can do what you can do.",
        group="model",
    )
    system_prompt: str | None = varied(InferenceSettings, "system_prompt")
    user_prompt: str | None = varied(InferenceSettings, "user_prompt")
    max_new_tokens: int | None = varied(InferenceSettings, "max_new_tokens")
    batch_size: int = option(
        8, "Clips in a batch of the forms that answer several at a time.", group="generation", low=1
    )
    json: bool = option(False, "Print one JSON object instead of the table.", group="output")

    def problems(self) -> list[str]:
        """What is wrong with the options together: a line for each problem."""
        found = missing_file(self.data, "--data")
        if "transformers" in self.form and not self.trust_remote_code:
            found.append(
                "--form transformers runs code of the model's folder: allow it with --trust-remote-code"
            )
        if "bfloat16" in self.form and self.bf16:
            found.append("--form bfloat16 is compared with float32: leave out --bf16")
        return found
