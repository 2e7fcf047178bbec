"""Settings of ``convert-dataset``; ``train`` and ``inference`` have those of rows and prompts too."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.settings.options import Settings, option, printable
from mdl_toolkit.settings.paths import missing_file, parse_shard

DEFAULT_MODEL = "mispeech/midashenglm-7b"


def default_workers() -> int:
    """Half the cores that this process may use, at least 1 and at most 32."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2)
    return max(1, min(32, cores // 2))


@dataclass(kw_only=True)
class ConvertOptions(Settings):
    """What decides how rows become training examples."""

    model_name: str = option(
        DEFAULT_MODEL,
        "Model to convert for: a Hub id, a folder, or 'tiny' (the small base that ships with the toolkit). "
        "Its tokenizer, template and front end decide the result.",
        group="model",
        resume="derived",
        conversion="derived",
    )
    from_modelscope: bool = option(
        False,
        "Take the model from ModelScope instead of the Hub (needs the modelscope extra).",
        group="model",
        resume="derived",
        conversion="derived",
    )
    revision: str | None = option(
        None,
        "Branch, tag or commit of the model on the Hub; else its main branch.",
        group="model",
        resume="derived",
        conversion="derived",
    )
    tokenizing_batch_size: int = option(
        8,
        "Rows that a process of the conversion takes at a time.",
        group="conversion",
        low=1,
        resume="free",
        conversion="free",
    )
    num_workers: int = option(
        factory=default_workers,
        help="Processes that read and resample recordings.",
        group="conversion",
        low=1,
        resume="free",
        conversion="free",
    )
    system_prompt: str | None = option(
        None,
        "System prompt for rows that have none of their own.",
        group="prompt",
        resume="derived",
        conversion="fingerprint",
    )
    user_prompt: str | None = option(
        None,
        "User prompt for rows that have none of their own.",
        group="prompt",
        resume="derived",
        conversion="fingerprint",
    )
    prompt_order: str | None = option(
        None,
        "Whether the clip or the text comes first in the user's turn; audio-first unless the model's own "
        "record says otherwise.",
        group="prompt",
        choices=("audio-first", "text-first"),
        resume="derived",
        conversion="fingerprint",
    )
    base_dir: Path | None = option(
        None,
        "Folder that relative audio paths start from; else the working directory.",
        group="input",
        resume="derived",
        conversion="fingerprint",
    )
    encoding: str = option(
        "utf-8",
        "Text encoding of a CSV, for example gbk.",
        group="input",
        resume="derived",
        conversion="fingerprint",
    )
    on_error: str = option(
        "fail",
        "What becomes of bad rows: fail lists all of them and makes no dataset, skip leaves them out and "
        "lists them in a quarantine CSV.",
        group="input",
        choices=("fail", "skip"),
        resume="derived",
        conversion="fingerprint",
    )
    max_audio_seconds: float = option(
        300.0,
        "Seconds that a clip may last; a longer one is a bad row, since audio is never cut.",
        group="input",
        above=0,
        resume="derived",
        conversion="fingerprint",
    )
    allow_private_urls: bool = option(
        False,
        "Fetch recordings from private, loopback and link-local addresses too.",
        group="input",
        resume="derived",
        conversion="fingerprint",
    )
    allow_outside_base_dir: bool = option(
        False,
        "Let audio paths lead out of --base-dir.",
        group="input",
        resume="derived",
        conversion="fingerprint",
    )
    url_timeout: float = option(
        30.0,
        "Seconds that fetching one recording from a URL may take, further tries included.",
        group="input",
        above=0,
        resume="free",
        conversion="recorded",
    )
    url_max_mib: float = option(
        200.0,
        "MiB that one recording fetched from a URL may have.",
        group="input",
        above=0,
        resume="free",
        conversion="recorded",
    )
    audio_storage: str = option(
        "pcm16",
        "How a dataset keeps its clips: as 16-bit PCM, as FLAC (less disk, slower), or as references to the "
        "original files.",
        group="conversion",
        choices=("pcm16", "flac", "reference"),
        resume="derived",
        conversion="fingerprint",
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

    input: Path = option(
        help="Table of recordings and answers (columns audio, prediction): a CSV, JSONL or Parquet file.",
        positional=True,
        metavar="INPUT",
        conversion="derived",
    )
    output: Path = option(
        help="Folder to make, which will hold the converted dataset.", group="output", conversion="free"
    )
    shard: str | None = option(
        None,
        "Convert part i of n only, given as i/n (1/4 … 4/4); train takes all the parts together.",
        group="output",
        conversion="derived",
    )
    overwrite: bool = option(
        False,
        "Replace a dataset of other data or options at --output, instead of refusing.",
        group="output",
        conversion="free",
    )

    def problems(self) -> list[str]:
        """What is wrong with the settings beyond types and bounds."""
        found = missing_file(self.input, "INPUT") + self._model_problems()
        if self.shard is not None and parse_shard(self.shard) is None:
            found.append(f"--shard {self.shard}: not of the form i/n with 1 <= i <= n, for example 2/8")
        return found
