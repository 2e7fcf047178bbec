"""Checkpoints on disk: written beside, flushed, renamed whole. Only complete ones are ever read.

What is written, and in which order, is in ``checkpointer.py``. A checkpoint is complete when it has a
``complete.json`` and all files have the sizes and SHA-256 digests that it lists.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import MdlError
from mdl_toolkit.files import PARTIAL_PREFIX, atomic_folder, sha256_of, storage_cause, write_json
from mdl_toolkit.training.checkpoints.output import foreign_file_in
from mdl_toolkit.training.checkpoints.state import COMPLETE, RUN_STATE, checkpoints, step_of


@contextlib.contextmanager
def new_checkpoint(output: Path, step: int) -> Iterator[Path]:
    """Give a folder to fill; it becomes ``checkpoint-N``, with ``complete.json``, when the block ends well.

    Args:
        output: The folder of the run.
        step: N, the number of steps made.

    Raises:
        MdlError: It could not be written (disk full, no permission). What was there before is intact.
    """
    target = output / f"checkpoint-{step}"
    if (foreign := foreign_file_in(target)) is not None:
        raise MdlError(
            f"{target} could not be saved: {foreign} is in the way and was not written by a run; move it "
            "elsewhere, then resume with --resume-from-checkpoint true"
        )
    try:
        with atomic_folder(target) as folder:
            yield folder
            write_json(folder / COMPLETE, {"files": _listing(folder)})
    except Exception as error:
        if (cause := storage_cause(error)) is None:
            raise
        newest = newest_complete(output)
        rest = f"{newest} is intact" if newest else "there was no checkpoint before it"
        raise MdlError(
            f"{target} could not be saved: {cause}; {rest}. Make room, then resume with "
            "--resume-from-checkpoint true"
        ) from error


def why_incomplete(checkpoint: Path, *, digests: bool = True) -> str | None:
    """Why a checkpoint is not complete; ``None`` for one that is.

    Sizes are compared before any digest is computed, so a cut file is found at once.

    Args:
        checkpoint: The folder.
        digests: Whether to read all of its files. Without that a large checkpoint takes no time.
    """
    try:
        listed = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))["files"]
        for name, expected in listed.items():
            size = (checkpoint / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes instead of {expected['bytes']}"
        for name, expected in listed.items() if digests else ():
            if sha256_of(checkpoint / name) != expected["sha256"]:
                return f"{name} has changed since it was written"
        return None if RUN_STATE in listed else f"{RUN_STATE} is not listed"
    except OSError as error:
        return f"{Path(str(error.filename)).name} can't be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{COMPLETE} is not readable"


def newest_complete(output: Path) -> Path | None:
    """The newest checkpoint of a run that is complete, as its digests show."""
    return next((path for path in reversed(checkpoints(output)) if why_incomplete(path) is None), None)


def prune(output: Path, keep: int | None, newest: Path) -> None:
    """Remove old checkpoints, but none with a file that no run has written.

    Args:
        output: The folder of the run.
        keep: The number of checkpoints to keep; ``None`` keeps all.
        newest: The checkpoint that was just written. It stays, and only older ones are removed.
    """
    if keep is None:
        return
    older = [path for path in checkpoints(output) if step_of(path) < step_of(newest)]
    older = [path for path in older if foreign_file_in(path) is None]
    for path in older[: max(0, len(older) - (keep - 1))]:
        # Renamed first, so that a kill in between leaves no half checkpoint under its name.
        doomed = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
        with contextlib.suppress(OSError):
            path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
