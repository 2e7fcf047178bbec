"""The demonstration: a new small task, learned and tested by the commands that a person would type."""

from __future__ import annotations

import os
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

from mdl_toolkit import __version__
from mdl_toolkit.demo.outcome import Outcome, collect, show
from mdl_toolkit.demo.task import PROMPT, write_clips
from mdl_toolkit.distributed.environment import VARIABLES
from mdl_toolkit.errors import ExitCode, MdlError, Stopped, UserError
from mdl_toolkit.files import atomic_file, write_json
from mdl_toolkit.settings import TRAIN_TARGETS, DemoSettings
from mdl_toolkit.settings.score_names import missing_libraries
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
#: Where the evaluation of the held-out clips lies, and what it is by; without the libraries that this needs,
#: equal texts are counted.
_EVALUATION, _TASK, _SIMPLE_TASK = Path("run", "evaluation", "test"), "classification", "exact"


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

    It leaves the clips, the converted datasets, the run with its metrics, its ``final/`` model and its
    evaluation, the predictions, ``report.html``, and ``commands.sh`` that repeats every step.

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
    task = _TASK
    if missing := missing_libraries(_TASK):
        task = _SIMPLE_TASK
        logger.info(f"the report will have no confusion matrix and no numbers of each class: {missing[0]}")
    commands = plan(seed, size, task)
    write_script(folder / "commands.sh", commands)
    for command in commands:
        run_command(folder, command)
    return collect(folder, _EVALUATION, [command.text for command in commands])


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
        old = [folder / _EVALUATION / name for name in ("scores.json", "rows.csv")]
        for path in (folder / "predictions.csv", folder / "report.html", *old):
            path.unlink(missing_ok=True)
        write_json(folder / MARKER, {"made_by": "mdl-toolkit demo", "version": __version__, "seed": seed})
    except OSError as error:
        raise UserError(f"--output {folder}: can't be written: {error.strerror or error}") from error


def plan(seed: int, size: Size, task: str = _TASK) -> list[StepCommand]:
    """The six steps as typed in the demonstration's folder.

    Args:
        seed: The seed of training.
        size: How much is learned.
        task: By what answers are scored.
    """
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
            "Let the tuned model name what it hears, and say how sure it is; it remembers its prompt",
            (
                "mdl-toolkit", "inference", "test.csv", "--model-name", "run/final",
                "--max-new-tokens", "16", "--scores", "--output", "predictions.csv", "--overwrite",
            ),
        ),
        StepCommand(
            "See how many of its answers are right, with 95 % intervals",
            ("mdl-toolkit", "evaluate", "predictions.csv", "--task", task, "--output", str(_EVALUATION)),
        ),
        StepCommand(
            "Look at all of it in one page: curves, scores, and every held-out clip to listen to",
            ("mdl-toolkit", "report", "run", "--output", "report.html"),
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


def run_command(folder: Path, command: StepCommand) -> None:
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
    with SignalForwarder() as signals:
        process = subprocess.Popen(  # noqa: S603 -- the package's own command
            [*start, *command.words[1:]], cwd=folder, env=environment, stdin=subprocess.DEVNULL
        )
        signals.start(process.pid)
        code = process.wait()
    number = signals.received or (code - 128 if code > 128 else -code)
    if code == ExitCode.NOT_SAVED and signals.received is None:
        number = signal.SIGTERM  # the step alone was told to stop; its line has the signal's name
    if code and number in STOP_SIGNALS:
        raise Stopped(number, _how_to_go_on(folder, command))
    if code:
        raise MdlError(f"the step failed with exit code {code}: {command.text}")


def _how_to_go_on(folder: Path, command: StepCommand) -> str:
    """What a step that a signal ended has left, as the folder shows it."""
    anew = f"mdl-toolkit demo --output {shlex.quote(str(folder))} starts anew"
    if "train" not in command.words or not any((folder / "run").glob("checkpoint-*")):
        return f"the demonstration is not done; {anew}"
    words = [word for word in command.words if word != "--overwrite"]
    resumed = shlex.join([*words, "--resume-from-checkpoint", "true"])
    return f"the training is saved in {folder / 'run'}; to resume it, type in {folder}: {resumed} ({anew})"
