"""Whether the launcher that started this process is still there. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mdl_toolkit.distributed.environment import is_started_by_torchrun

#: A script that starts the program may stand between it and the launcher, and another one.
_BETWEEN = 8


class Launcher:
    """torchrun's agent, or accelerate's, if one started this process.

    It is the nearest process above this one that was not itself told to be one of a launch. Without such a
    launcher there is none to miss: a person's shell may end before the run that it started.

    Args:
        environ: The environment of this process.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._parents: list[tuple[int, int]] = []
        if not is_started_by_torchrun(environ):
            return
        child, run_id = os.getpid(), environ["TORCHELASTIC_RUN_ID"]
        for _ in range(_BETWEEN):
            parent = _parent_of(child)
            if parent <= 1:
                return
            self._parents.append((child, parent))
            if f"TORCHELASTIC_RUN_ID={run_id}" not in _environment_of(parent):
                return
            child = parent

    @property
    def is_gone(self) -> bool:
        """Whether it has ended: a process between it and this one, or this one, has another parent now."""
        return any(_parent_of(child) != parent for child, parent in self._parents)


def _parent_of(process: int) -> int:
    if process == os.getpid():
        return os.getppid()
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _environment_of(process: int) -> list[str]:
    """The environment that a process was started with; nothing where the system doesn't say."""
    try:
        return Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
