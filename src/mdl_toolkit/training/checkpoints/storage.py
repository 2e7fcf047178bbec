"""Checkpoints on disk: written beside, flushed, renamed whole; complete ones alone are ever read.

``checkpoint-N/`` holds the trained tensors (as ``model_folders/export.py`` writes them),
``optimizer.safetensors``, ``run_state.json`` (where the run stands) and ``complete.json`` (every other file's
size and sha256). No pickle. There is no random state to keep: dropout is seeded by step and micro-batch, see
``training/loop.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import MdlError, ModelError, UserError
from mdl_toolkit.files import (
    PARTIAL_PREFIX,
    atomic_folder,
    sha256_of,
    storage_cause,
    strangers,
    try_lock,
    write_json,
)
from mdl_toolkit.model_folders.listing import MANIFEST_NAME, listed_files
from mdl_toolkit.training.metrics.file import METRICS_FILE

RUN_STATE, OPTIMIZER, COMPLETE = "run_state.json", "optimizer.safetensors", "complete.json"
FINAL, LOCK = "final", ".lock"
_NAME = re.compile(r"checkpoint-(\d{1,12})")
_PARTIAL = re.compile(
    rf"{re.escape(PARTIAL_PREFIX)}(old-)?(checkpoint-\d+|{FINAL}|{re.escape(METRICS_FILE)})(-\d+)?"
)
#: A line of a run's metrics begins with it.
_FIRST_KEY = '{"step": '


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands after a step, and what it is: enough to go on exactly, and to refuse another run.

    Attributes:
        step: Optimizer steps made.
        epoch: Of the next step.
        first_sample: Where the next step begins in that epoch's stream.
        schedule_position: The next step in the learning rate's schedule; not ``step`` where the number of
            processes changed on the way.
        schedule_total: Length of that schedule.
        counts: Sums over the run: tokens, supervised_tokens, audio_tokens, clips, skipped steps, flops.
        seconds: Time spent in steps.
        world_size: Processes of the run that saved it.
        dataset: Fingerprint of the training data.
        eval_dataset: Fingerprint of the evaluation data.
        model: Fingerprint of the base model.
        options: Settings of the run.
        versions: Of the packages that made it.
    """

    step: int
    epoch: int
    first_sample: int
    schedule_position: float
    schedule_total: int
    counts: dict[str, float]
    seconds: float
    world_size: int
    dataset: str
    eval_dataset: str | None
    model: str
    options: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> RunState:
        """The state of a checkpoint.

        Raises:
            ModelError: Where the file is missing or isn't such a state.
        """
        path = folder / RUN_STATE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{f.name: values[f.name] for f in fields(cls)})
        except OSError as error:
            raise ModelError(f"{path} can't be read: {error.strerror}; is {folder} a checkpoint?") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not the state of a run ({type(error).__name__}: {error})") from None


def checkpoints(output: Path) -> list[Path]:
    """The folders of a run that are named as checkpoints, oldest first."""
    if not output.is_dir():
        return []
    found = [path for path in output.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """N of ``checkpoint-N``; −1 for a folder of another name."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def flaw(checkpoint: Path) -> str | None:
    """Why a checkpoint is not complete; ``None`` for one that is.

    Sizes are compared before any digest is computed, so a cut file is found at once.
    """
    try:
        listed = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))["files"]
        for name, expected in listed.items():
            size = (checkpoint / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes instead of {expected['bytes']}"
        for name, expected in listed.items():
            if sha256_of(checkpoint / name) != expected["sha256"]:
                return f"{name} has changed since it was written"
        return None if RUN_STATE in listed else f"{RUN_STATE} is not listed"
    except OSError as error:
        return f"{Path(str(error.filename)).name} can't be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{COMPLETE} is not readable"


def newest_complete(output: Path) -> Path | None:
    """The newest checkpoint of a run that is whole, as its digests show."""
    return next((path for path in reversed(checkpoints(output)) if flaw(path) is None), None)


@contextlib.contextmanager
def writing_checkpoint(output: Path, state: RunState) -> Iterator[Path]:
    """Give a folder to fill with tensors; it becomes ``checkpoint-N`` when the block ends well.

    Raises:
        MdlError: It could not be written (disk full, no permission). What was there before is intact.
    """
    target = output / f"checkpoint-{state.step}"
    if (stranger := stranger_in(target)) is not None:
        raise MdlError(
            f"{target} could not be saved: {stranger} is in the way and was not written by a run; move it "
            "elsewhere, then go on with --resume-from-checkpoint true"
        )
    try:
        with atomic_folder(target) as folder:
            yield folder
            write_json(folder / RUN_STATE, asdict(state))
            write_json(folder / COMPLETE, {"files": _listing(folder)})
    except Exception as error:
        if (cause := storage_cause(error)) is None:
            raise
        newest = newest_complete(output)
        rest = f"{newest} is intact" if newest else "there was no checkpoint before it"
        raise MdlError(
            f"{target} could not be saved: {cause}; {rest}. Make room, then go on with "
            "--resume-from-checkpoint true"
        ) from error


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def prune(output: Path, keep: int | None, newest: Path) -> None:
    """Remove old checkpoints, of which nothing but a run's own files is in them.

    Args:
        output: The run's folder.
        keep: Number of checkpoints that stay; ``None``: all.
        newest: The one just written whole: it stays, and only older ones are removed.
    """
    if keep is None:
        return
    older = [
        path for path in checkpoints(output) if step_of(path) < step_of(newest) and stranger_in(path) is None
    ]
    for path in older[: max(0, len(older) - (keep - 1))]:
        # Renamed first, so that a kill in between leaves no half checkpoint under its name.
        doomed = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
        with contextlib.suppress(OSError):
            path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def stranger_in(path: Path) -> Path | None:
    """What no run has written of something that has a name of a run's: a checkpoint, ``final/``, metrics.

    Returns:
        A file in the folder, or ``path`` itself where it isn't a run's at all; ``None`` where all of it is,
        where it is empty, and where there is nothing.
    """
    if not path.is_symlink() and not path.exists():
        return None
    if path.name == METRICS_FILE:
        return None if path.is_file() and not path.is_symlink() and _are_metrics(path) else path
    if path.is_symlink() or not path.is_dir():
        return path
    if not any((path / mark).is_file() for mark in (MANIFEST_NAME, RUN_STATE, COMPLETE)):
        return path if strangers(path, ()) else None
    ours = {MANIFEST_NAME, RUN_STATE, OPTIMIZER, COMPLETE} | (listed_files(path) or set())
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        ours |= set(json.loads((path / COMPLETE).read_text(encoding="utf-8"))["files"])
    return next((path / name for name in strangers(path, ours)), None)


def _are_metrics(path: Path) -> bool:
    """Whether a file is a run's metrics, by its first line; of a run that was killed at once it is cut."""
    try:
        with open(path, encoding="utf-8") as stream:
            first = stream.readline()
        if not first.endswith("\n"):
            return first.startswith(_FIRST_KEY) or _FIRST_KEY.startswith(first)
        return bool({"step", "train_runtime"} & dict(json.loads(first)).keys())
    except (OSError, ValueError, TypeError):
        return False


@contextlib.contextmanager
def owning(output: Path) -> Iterator[None]:
    """Be the one run that writes to a folder. A killed run's claim ends with it.

    Raises:
        UserError: Another run is at work there.
        MdlError: The folder can't be made or written to.
    """
    lock = output / LOCK
    try:
        output.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise MdlError(f"--output {output} can't be written to: {error.strerror}") from error
    try:
        if try_lock(descriptor) is False:
            raise UserError(
                f"--output {output}: another run is at work there; wait for it, stop it, or name another "
                "folder"
            )
        yield
        if not os.fstat(descriptor).st_size:  # else it was there before, and is another's
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def work_of_a_run(output: Path) -> list[Path]:
    """What is in a folder under the names that a run's work has."""
    places = [*checkpoints(output), output / FINAL, output / METRICS_FILE]
    return [path for path in places if path.exists() or path.is_symlink()]


def refuse_strangers(paths: Iterable[Path]) -> None:
    """Refuse to go on where something that no run has written would be replaced.

    Raises:
        UserError: Naming it.
    """
    for path in paths:
        stranger = stranger_in(path)
        if stranger is not None:
            raise UserError(
                f"{stranger} is in the way and was not written by a run: move it elsewhere, or name another "
                "--output (nothing was removed)"
            )


def clear_run(output: Path) -> None:
    """Remove an earlier run's work from a folder; converted data and everything else stay.

    Raises:
        UserError: Something can't be removed, or isn't a run's; nothing has been removed then.
    """
    work = work_of_a_run(output)
    refuse_strangers(work)
    try:
        for path in work:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        _clear_trackers(output / "runs" / output.resolve().name)
    except OSError as error:
        raise UserError(f"--overwrite: {error.filename} can't be removed: {error.strerror}") from None


def _clear_trackers(folder: Path) -> None:
    """Remove TensorBoard's files of an earlier run, and the folders that are empty then."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name.startswith("events.out.tfevents.") or path.name == "hparams.yml":
            path.unlink()
    for path in [*sorted(folder.rglob("*"), reverse=True), folder, folder.parent]:
        with contextlib.suppress(OSError):  # not a folder, or not empty
            path.rmdir()


def clean_partials(output: Path) -> None:
    """Remove what a killed run left half-written, or half removed."""
    if not output.is_dir():
        return
    for path in output.iterdir():
        if _PARTIAL.fullmatch(path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
