"""Settings of ``convert-dataset``, most of which ``train`` and ``inference`` have too."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.errors import printable
from mdl_toolkit.settings.checks import missing_file, parse_shard
from mdl_toolkit.settings.options import Settings, option

DEFAULT_MODEL = "mispeech/midashenglm-7b"


def default_workers() -> int:
    """Half of the CPU cores that this process may use, at least 1 and at most 32."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2)
    return max(1, min(32, cores // 2))


@dataclass(kw_only=True)
class ConvertOptions(Settings):
    """Options of all commands that read rows and recordings."""

    model_name: str = option(
        DEFAULT_MODEL,
        "Model to convert for: a Hub id, a folder, or 'tiny' (the small base in this package).",
        group="model",
        metavar="MODEL",
        path=True,
        resume="derived",
        hosts="derived",
        conversion="derived",
    )
    from_modelscope: bool = option(
        False,
        "Download the model from ModelScope instead of the Hugging Face Hub (needs the modelscope extra).",
        group="model",
        resume="derived",
        hosts="derived",
        conversion="derived",
    )
    revision: str | None = option(
        None,
        "Branch, tag or commit of a model on the Hub; the main branch if not given.",
        group="model",
        metavar="NAME",
        resume="derived",
        hosts="derived",
        conversion="derived",
    )
    tokenizing_batch_size: int = option(
        8,
        "Rows that a process takes at a time; there is rarely a reason to change it.",
        group="conversion",
        low=1,
        resume="free",
        hosts="free",
        conversion="free",
    )
    num_workers: int = option(
        factory=default_workers,
        help="Processes that read and resample audio; by default half of the CPU cores, at most 32.",
        group="conversion",
        low=1,
        resume="free",
        hosts="free",
        conversion="free",
    )
    system_prompt: str | None = option(
        None,
        "System prompt for rows without a system_prompt of their own.",
        group="prompt",
        resume="derived",
        hosts="derived",
        conversion="fingerprint",
    )
    user_prompt: str | None = option(
        None,
        "User prompt, such as a question, for rows without a user_prompt of their own.",
        group="prompt",
        resume="derived",
        hosts="derived",
        conversion="fingerprint",
    )
    prompt_order: str | None = option(
        None,
        "What comes first in the user's turn; by default as the model's folder records it, else audio-first.",
        group="prompt",
        choices=("audio-first", "text-first"),
        resume="derived",
        hosts="derived",
        conversion="fingerprint",
    )
    base_dir: Path | None = option(
        None,
        "Folder that relative audio paths start from; the working directory if not given.",
        group="input",
        resume="derived",
        hosts="derived",
        conversion="fingerprint",
    )
    encoding: str = option(
        "utf-8",
        "Text encoding of a CSV file; change it if the file is not UTF-8, for example to gbk.",
        group="input",
        metavar="NAME",
        resume="derived",
        hosts="derived",
        conversion="fingerprint",
    )
    on_error: str = option(
        "fail",
        "Bad rows. fail: list them all and make no dataset; skip: leave them out and list them in a "
        "quarantine CSV.",
        group="input",
        choices=("fail", "skip"),
        resume="derived",
        hosts="derived",
        conversion="fingerprint",
    )
    max_audio_seconds: float = option(
        300.0,
        "Longest clip, in seconds. A longer one is a bad row, as audio is never cut; raise it for "
        "long clips.",
        group="input",
        above=0,
        resume="derived",
        hosts="derived",
        conversion="fingerprint",
    )
    allow_private_urls: bool = option(
        False,
        "Also fetch audio from private, loopback and link-local addresses, such as a server in your network.",
        group="input",
        resume="derived",
        hosts="derived",
        conversion="fingerprint",
    )
    allow_outside_base_dir: bool = option(
        False,
        "Also read audio files outside --base-dir.",
        group="input",
        resume="derived",
        hosts="derived",
        conversion="fingerprint",
    )
    url_timeout: float = option(
        30.0,
        "Seconds to fetch one recording from a URL, retries included; raise it for a slow server.",
        group="input",
        above=0,
        resume="free",
        hosts="derived",
        conversion="recorded",
    )
    url_max_mib: float = option(
        200.0,
        "Largest recording to fetch from a URL, in MiB.",
        group="input",
        above=0,
        resume="free",
        hosts="derived",
        conversion="recorded",
    )
    audio_storage: str = option(
        "pcm16",
        "How clips are stored. pcm16: fastest to read; flac: less disk; reference: only links to the "
        "original files.",
        group="conversion",
        choices=("pcm16", "flac", "reference"),
        resume="derived",
        hosts="derived",
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
        help="Folder to create for the converted dataset.", group="output", conversion="free"
    )
    shard: str | None = option(
        None,
        "Convert only part i of n, given as i/n (1/4 … 4/4), to share the work; train takes all parts"
        " together.",
        group="output",
        metavar="i/n",
        conversion="derived",
    )
    overwrite: bool = option(
        False,
        "Replace a dataset of other data or options at --output; without it that is refused.",
        group="output",
        conversion="free",
    )

    def problems(self) -> list[str]:
        """What is wrong with the options together: a line for each problem."""
        found = missing_file(self.input, "INPUT") + self._model_problems()
        if self.shard is not None and parse_shard(self.shard) is None:
            found.append(f"--shard {self.shard}: not of the form i/n with 1 <= i <= n, for example 2/8")
        return found
