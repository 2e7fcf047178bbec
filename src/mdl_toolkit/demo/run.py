"""The demonstration: a new small task, learned and tested by the commands that a person would type."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl_toolkit import __version__
from mdl_toolkit.data.dataset.manifest import versions_of
from mdl_toolkit.demo.report import Answered, FinishedStep, Outcome, write_report
from mdl_toolkit.demo.task import PROMPT, write_clips
from mdl_toolkit.distributed.environment import VARIABLES
from mdl_toolkit.errors import ExitCode, MdlError, Stopped, UserError
from mdl_toolkit.files import atomic_file, write_json
from mdl_toolkit.model_folders.names import is_statistic
from mdl_toolkit.model_folders.tensorfiles.headers import read_headers
from mdl_toolkit.settings import TRAIN_TARGETS, DemoSettings
from mdl_toolkit.terminal.forwarding import SignalForwarder
from mdl_toolkit.terminal.interrupts import FORWARDED, STOP_SIGNALS
from mdl_toolkit.terminal.live_line import status
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import duration

logger = get_logger(__name__)

#: The steps take the CPU, also where torch couldn't use the GPU that is there: it is to work everywhere.
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
#: In a folder that the demonstration made; no other folder is touched.
MARKER = "demo.json"
_CLIP = re.compile(r"(train|test)-\d{3,}\.wav")

#: Libraries whose versions the report names. They are installed with the package.
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "pyarrow")


@dataclass(frozen=True)
class Size:
    """How much is synthesised and learned."""

    train_clips: int = 720
    test_clips: int = 64
    epochs: float = 8.0
    learning_rate: float = 3e-3
    rank: int = 16
    batch_size: int = 8


@dataclass(frozen=True)
class StepCommand:
    """One step: what it is for, and the words that are typed."""

    title: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words as a shell takes them."""
        return shlex.join(self.words)


def demo(settings: DemoSettings) -> None:
    """Run the whole demonstration in ``settings.output``.

    It leaves the clips, the converted datasets, the run with its metrics and its ``final/`` model, the
    predictions, ``commands.sh`` that repeats every step, and ``report.html``.

    Raises:
        UserError: The folder holds something else.
        MdlError: A step failed; its own message stands above.
    """
    outcome = perform(settings.output, settings.seed, Size())
    show(outcome)
    logger.info(f"\nreport:   {settings.output / 'report.html'}")
    logger.info(f"model:    {settings.output / 'run' / 'final'}")
    logger.info(f"commands: {settings.output / 'commands.sh'} repeats every step")


def perform(folder: Path, seed: int, size: Size) -> Outcome:
    """Synthesise the task, run the commands and write everything down.

    Args:
        folder: Made where it is not there; an earlier demonstration in it is replaced.
        seed: The seed of the sounds and of training.
        size: How much is done.
    """
    claim(folder, seed)
    started = time.monotonic()
    with status("making sounds to learn from…"):
        write_clips(folder, seed, "train", size.train_clips)
        write_clips(folder, seed, "test", size.test_clips)
    logger.info(f"made {size.train_clips} clips to learn from and {size.test_clips} to be tested with"
        f" in {duration(time.monotonic() - started)}")  # fmt: skip
    commands = plan(seed, size)
    write_script(folder / "commands.sh", commands)
    steps = [run_command(folder, command) for command in commands]
    outcome = collect(folder, steps)
    write_report(folder / "report.html", outcome)
    return outcome


def claim(folder: Path, seed: int) -> None:
    """Take a folder for the demonstration, unless it holds something else.

    Raises:
        UserError: It is a file, or a folder with other things in it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UserError(
            f"--output {folder}: holds something that is not a demonstration; name another folder"
        )
    try:
        # Datasets and run are replaced by their own commands, which leave alone what isn't theirs.
        for path in (folder / "clips").glob("*.wav"):
            if _CLIP.fullmatch(path.name):
                path.unlink()
        for name in ("predictions.csv", "report.html"):
            (folder / name).unlink(missing_ok=True)
        write_json(folder / MARKER, {"made_by": "mdl-toolkit demo", "version": __version__, "seed": seed})
    except OSError as error:
        raise UserError(f"--output {folder}: can't be written: {error.strerror or error}") from error


def plan(seed: int, size: Size) -> list[StepCommand]:
    """The four steps as typed in the demonstration's folder."""
    convert = ("mdl-toolkit", "convert-dataset")
    model = ("--model-name", "tiny")
    prompt = ("--user-prompt", PROMPT)
    # The answers are words that the base has never said: embeddings and head learn in full beside LoRA.
    targets = tuple(word for part in TRAIN_TARGETS for word in ("--train-target", part))
    return [
        StepCommand(
            "Turn the clips to learn from into a dataset",
            (*convert, "train.csv", *model, *prompt, "--output", "train-converted", "--overwrite"),
        ),
        StepCommand(
            "The same with the held-out clips, to watch the loss on them",
            (*convert, "test.csv", *model, *prompt, "--output", "test-converted", "--overwrite"),
        ),
        StepCommand(
            "Fine-tune the small base with LoRA and merge the result into a model of its own",
            (
                "mdl-toolkit", "train", *model, "--train-dataset", "train-converted",
                "--eval-dataset", "test-converted", "--eval-steps", "0.25", "--lora-rank", str(size.rank),
                "--lora-alpha", str(size.rank), "--lr", f"{size.learning_rate:g}", "--warmup-steps", "20",
                *targets,
                "--batch-size", str(size.batch_size), "--num-epochs", f"{size.epochs:g}", "--seed", str(seed),
                "--logging-steps", "20", "--output", "run", "--overwrite",
            ),
        ),
        StepCommand(
            "Let the tuned model name what it hears; it remembers its prompt",
            (
                "mdl-toolkit", "inference", "test.csv", "--model-name", "run/final",
                "--max-new-tokens", "16", "--output", "predictions.csv", "--overwrite",
            ),
        ),
    ]  # fmt: skip


def write_script(path: Path, commands: Sequence[StepCommand]) -> None:
    """Write a shell script that repeats the steps from any working directory."""
    lines = [
        "#!/usr/bin/env bash",
        "# Repeats the demonstration's steps; each line works by itself too, typed in this folder.",
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")"',
        f'PATH={shlex.quote(str(_programs()))}:"$PATH"',
        *(f"export {name}={shlex.quote(value)}" for name, value in ON_CPU.items()),
    ]
    for command in commands:
        lines += ["", f"# {command.title}.", command.text]
    with atomic_file(path) as stream:
        stream.write("\n".join(lines) + "\n")
    path.chmod(0o755)


def _programs() -> Path:
    """Where the programs of this Python's environment are; ``mdl-toolkit`` is one of them."""
    return Path(sys.executable).parent


def run_command(folder: Path, command: StepCommand) -> FinishedStep:
    """Run one step as typed, in the demonstration's folder, its output going to the screen.

    Raises:
        MdlError: It failed.
        Stopped: A signal came, and the step has done what it does then.
    """
    logger.info(f"\n$ {command.text}")
    # Variables of a launcher are not meant for these; and signals of a terminal come to both.
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment = {
        **kept,
        **ON_CPU,
        "PATH": f"{_programs()}{os.pathsep}{os.environ.get('PATH', '')}",
        FORWARDED: "1",
    }
    program = shutil.which(command.words[0], path=environment["PATH"])
    # Where the package is used without being installed there is no such program, but the module is the same.
    start = [program] if program else [sys.executable, "-m", "mdl_toolkit"]
    began = time.monotonic()
    with SignalForwarder() as signals:
        process = subprocess.Popen(  # noqa: S603 -- the package's own command
            [*start, *command.words[1:]], cwd=folder, env=environment, stdin=subprocess.DEVNULL
        )
        signals.start(process.pid)
        code = process.wait()
    seconds = time.monotonic() - began
    number = signals.received or (code - 128 if code > 128 else -code)
    if code == ExitCode.NOT_SAVED and signals.received is None:
        number = signal.SIGTERM  # the step alone was told to stop; its line has the signal's name
    if code and number in STOP_SIGNALS:
        raise Stopped(number, _how_to_go_on(folder, command))
    if code:
        raise MdlError(f"the step failed with exit code {code}: {command.text}")
    return FinishedStep(command.title, command.text, seconds)


def _how_to_go_on(folder: Path, command: StepCommand) -> str:
    """What a step that a signal ended has left, as the folder shows it."""
    anew = f"mdl-toolkit demo --output {shlex.quote(str(folder))} starts anew"
    if "train" not in command.words or not any((folder / "run").glob("checkpoint-*")):
        return f"the demonstration is not done; {anew}"
    words = [word for word in command.words if word != "--overwrite"]
    resumed = shlex.join([*words, "--resume-from-checkpoint", "true"])
    return f"the training is saved in {folder / 'run'}; to resume it, type in {folder}: {resumed} ({anew})"


def collect(folder: Path, steps: list[FinishedStep]) -> Outcome:
    """Read what the steps left: predictions beside the truth, metrics, and facts about model and machine."""
    import soundfile

    clips = []
    with (
        open(folder / "test.csv", encoding="utf-8", newline="") as truths,
        open(folder / "predictions.csv", encoding="utf-8", newline="") as answers,
    ):
        for truth, answer in zip(csv.DictReader(truths), csv.DictReader(answers), strict=True):
            wave, _ = soundfile.read(folder / truth["audio"], dtype="float32")
            clips.append(Answered(truth["audio"], wave, truth["prediction"], answer["prediction"]))
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics: list[Any] = [json.loads(line) for line in lines if line.strip()]
    return Outcome(clips, metrics, steps, facts(folder))


def facts(folder: Path) -> list[tuple[str, str]]:
    """What was used: the model's size, the versions, the machine."""
    weights = folder / "run" / "final"
    size = sum(file.stat().st_size for file in weights.glob("*.safetensors"))
    versions = versions_of(LIBRARIES)
    libraries = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if name in versions)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        ("Base model", "tiny, the small MiDashengLM that ships with the toolkit"),
        ("Parameters", f"{_parameters(weights):,}"),
        ("Tuned model", f"run/final, {size / 1e6:.1f} MB"),
        ("MDL-Toolkit", __version__),
        ("Libraries", libraries),
        ("Python", platform.python_version()),
        ("Machine", f"{_processor()}, {cores} cores, {platform.system()}"),
    ]


def _parameters(folder: Path) -> int:
    """Counted in the headers of the weight files."""
    return sum(math.prod(info.shape) for name, info in read_headers(folder).items() if not is_statistic(name))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def show(outcome: Outcome) -> None:
    """Print how the loss went, truth beside prediction, and the accuracy, to standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if console.width < 40:  # some terminals say 0, and nothing would be shown
        console = Console(width=80)
    console.print()
    for line in loss_lines(outcome):
        console.print(line, markup=False, highlight=False)
    table = Table(title="Held-out clips", title_justify="left")
    for name in ("clip", "truth", "prediction", ""):
        table.add_column(name)
    for clip in outcome.clips:
        style = None if clip.correct else "bold red"
        cells = (clip.name, clip.truth, clip.prediction, "✓" if clip.correct else "✗")
        # As plain text: an answer may look like markup.
        table.add_row(*map(Text, cells), style=style)
    console.print(table)
    console.print(
        f"accuracy: {outcome.correct} of {len(outcome.clips)} ({100 * outcome.accuracy:.1f} %)",
        style="bold", highlight=False,
    )  # fmt: skip


def loss_lines(outcome: Outcome, rows: int = 8) -> list[str]:
    """The loss going down, as a few bars of text."""
    losses = outcome.curve("loss")
    if not losses:
        return []
    parts = [losses[len(losses) * k // rows : len(losses) * (k + 1) // rows] for k in range(rows)]
    means = [(part[0][0], part[-1][0], sum(y for _, y in part) / len(part)) for part in parts if part]
    widest = max(mean for _, _, mean in means) or 1.0
    last = len(f"{losses[-1][0]:.0f}")
    bars = ["█" * max(1, round(40 * mean / widest)) for _, _, mean in means]
    return [
        "Training loss",
        *(
            f"  step {first:{last}.0f}-{end:<{last}.0f}  {mean:7.4f}  {bar}"
            for (first, end, mean), bar in zip(means, bars, strict=True)
        ),
    ]
