"""Checkpoints on disk: written beside, flushed, renamed whole; complete ones alone are ever read.

``checkpoint-N/`` holds the trained tensors (as ``checkpoint/export.py`` writes them),
``optimizer.safetensors``, ``run_state.json`` (where the run stands) and ``complete.json`` (every other file's
size and sha256). No pickle. There is no random state to keep: dropout is seeded by step and micro-batch, see
``train/loop.py``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import MdlError, ModelError, UserError
from mdl_toolkit.files import PARTIAL_PREFIX, atomic_folder, storage_cause, write_json

RUN_STATE, OPTIMIZER, COMPLETE = "run_state.json", "optimizer.safetensors", "complete.json"
FINAL, LOCK = "final", ".lock"
_NAME = re.compile(r"checkpoint-(\d{1,12})")
_CHUNK = 1 << 20


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
            if _sha256(checkpoint / name) != expected["sha256"]:
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
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def prune(output: Path, keep: int | None, newest: Path) -> None:
    """Remove old checkpoints.

    Args:
        output: The run's folder.
        keep: Number of checkpoints that stay; ``None``: all.
        newest: The one just written whole: it stays, and only older ones are removed.
    """
    if keep is None:
        return
    older = [path for path in checkpoints(output) if step_of(path) < step_of(newest)]
    for path in older[: max(0, len(older) - (keep - 1))]:
        # Renamed first, so that a kill in between leaves no half checkpoint under its name.
        doomed = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
        with contextlib.suppress(OSError):
            path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


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
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--output {output}: another run is at work there; wait for it, stop it, or name another "
                "folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
        lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def holds_run(output: Path) -> bool:
    """Whether a folder has a run's work in it."""
    return bool(checkpoints(output)) or (output / FINAL).exists() or (output / "metrics.jsonl").exists()


def clear_run(output: Path) -> None:
    """Remove an earlier run's work from a folder; converted data and foreign files stay.

    Raises:
        UserError: Something can't be removed.
    """
    try:
        for path in [*checkpoints(output), output / FINAL]:
            if path.exists():
                shutil.rmtree(path)
        (output / "metrics.jsonl").unlink(missing_ok=True)
        shutil.rmtree(output / "runs", ignore_errors=True)
    except OSError as error:
        raise UserError(f"--overwrite: {error.filename} can't be removed: {error.strerror}") from None


def clean_partials(output: Path) -> None:
    """Remove what a killed run left half-written."""
    if not output.is_dir():
        return
    for path in output.iterdir():
        if path.name.startswith(PARTIAL_PREFIX):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
