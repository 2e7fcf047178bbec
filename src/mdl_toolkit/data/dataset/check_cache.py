"""The results of checking folders, kept in the user's cache: a folder is checked once.

Nothing is written into the folder itself, which may be read-only or someone else's. A result is kept by the
files' paths, sizes and times, so that a folder is checked again when they change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.lock import exclusive, yield_to_first_process
from mdl_toolkit.files import atomic_file
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

#: Has to be raised when other things are checked.
_VERSION = 2


@dataclass(frozen=True)
class CheckResult:
    """What checking a folder has found.

    Attributes:
        problem: What is wrong with it, for a person; ``None`` where nothing is.
        facts: What was read on the way: arrays of numbers by name; empty where something is wrong.
    """

    problem: str | None
    facts: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def known_result(files: Iterable[Path]) -> CheckResult | None:
    """The result for these files; ``None`` where they were not checked, or have changed since."""
    place = _place(files)
    return _read(place) if place is not None else None


def check_once(files: Iterable[Path], check: Callable[[], CheckResult]) -> CheckResult:
    """Check files unless that was done; of several processes that ask, one does it, the others wait.

    Where nothing can be kept, each process checks for itself.
    """
    files = list(files)
    place = _place(files)
    if place is None:
        return check()
    result = _read(place)
    if result is not None:
        return result
    yield_to_first_process()
    with ExitStack() as stack:
        with contextlib.suppress(OSError):  # without a lock several check, and find the same
            stack.enter_context(exclusive(place.with_suffix(".lock"), _waiting(files[0].parent)))
        result = _read(place)
        if result is None:
            result = check()
            _write(place, result)
    return result


def _waiting(folder: Path) -> Callable[[dict[str, Any]], None]:
    def message(status: dict[str, Any]) -> None:
        marker = f" (by the process that holds {status['marker']})" if "marker" in status else ""
        logger.info(f"waiting: {folder} is being checked{marker}")

    return message


def _place(files: Iterable[Path]) -> Path | None:
    """Where the result for some files is kept."""
    folder = _cache_folder()
    if folder is None:
        return None
    try:
        states = [(os.path.realpath(path), path.stat()) for path in files]
    except OSError:
        return None
    identity = [_VERSION, *((name, state.st_size, state.st_mtime_ns) for name, state in states)]
    return folder / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]}.npz"


def _cache_folder() -> Path | None:
    """The user's cache, else a folder of the user's own among the temporary ones."""
    places = [os.environ.get("XDG_CACHE_HOME", ""), os.path.join(os.path.expanduser("~"), ".cache")]
    for place in places:
        if os.path.isabs(place):
            folder = Path(place, "mdl-toolkit", "checked")
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                if os.access(folder, os.W_OK):
                    return folder
    with contextlib.suppress(OSError):
        folder = Path(tempfile.gettempdir(), f"mdl-toolkit-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
            return folder
    return None


def _read(place: Path) -> CheckResult | None:
    try:
        with np.load(place, allow_pickle=False) as stored:
            facts = {name: stored[name] for name in stored.files}
        problem = str(facts.pop("problem"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return CheckResult(problem or None, facts)


def _write(place: Path, result: CheckResult) -> None:
    with contextlib.suppress(OSError), atomic_file(place, "wb") as stream:
        arrays: dict[str, Any] = {**result.facts, "problem": np.array(result.problem or "")}
        np.savez_compressed(stream, **arrays)
