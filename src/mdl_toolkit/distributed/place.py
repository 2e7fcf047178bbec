"""What a launcher says in the environment about this process's place among others.

torchrun, accelerate, MPI's launchers and people set these variables; people also leave them in a shell, where
the next command finds them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mdl_toolkit.errors import SettingsError

# torchrun and everything that starts its agents, then MPI's names (accelerate starts mpirun for MULTI_CPU).
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
_LOCAL_WORLD = (
    "LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE",
)  # fmt: skip
_MEETING = ("MASTER_ADDR", "MASTER_PORT")

#: Everything that tells a process that it is one of several.
VARIABLES = (*_RANK, *_WORLD, *_LOCAL_RANK, *_LOCAL_WORLD, *_MEETING)
#: Where the processes meet if nothing else is said.
DEFAULT_PORT = 29500
#: Seconds until a process says whom it waits for, and between two such lines.
WAITING_FIRST, WAITING_EVERY = 2.0, 30.0


@dataclass(frozen=True)
class Place:
    """The place of a process among those of a launch.

    Attributes:
        rank: Number of the process among all.
        world_size: Processes on all machines.
        local_rank: Number of the process on its machine.
        local_world_size: Processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def place_of(environ: Mapping[str, str] = os.environ) -> Place:
    """Read a process's place. Without a rank it is alone, whatever else is said.

    Raises:
        SettingsError: For what is no number or out of its range, all of it at once.
    """
    problems: list[str] = []

    def number(names: tuple[str, ...], low: int, default: int) -> int:
        name = _given(environ, names)
        if name is None:
            return default
        try:
            value = int(environ[name])
        except ValueError:
            problems.append(f"environment variable {name}={environ[name]}: a whole number expected")
            return default
        if value < low:
            problems.append(f"environment variable {name}={value}: at least {low} expected")
        return value

    rank, world_size = number(_RANK, 0, 0), number(_WORLD, 1, 1)
    local_world_size = number(_LOCAL_WORLD, 1, world_size)
    local_rank = number(_LOCAL_RANK, 0, rank % max(1, local_world_size))
    among = _given(environ, _RANK) is not None
    if among and not problems:
        world, local_world = _shown(environ, _WORLD), _shown(environ, _LOCAL_WORLD)
        if rank >= world_size:
            problems.append(
                f"environment variable {_shown(environ, _RANK)} of {world_size} processes ({world}): "
                f"ranks are 0 to {world_size - 1}"
            )
        if local_world_size > world_size:
            problems.append(
                f"environment variable {local_world}: at most the number of all processes ({world})"
            )
        elif local_rank >= local_world_size:
            problems.append(
                f"environment variable {_shown(environ, _LOCAL_RANK)} of {local_world_size} processes on "
                f"this machine: local ranks are 0 to {local_world_size - 1}"
            )
        if world_size > 1 and not _is_port(environ.get("MASTER_PORT") or str(DEFAULT_PORT)):
            problems.append(
                f"environment variable MASTER_PORT={environ['MASTER_PORT']}: a port from 1 to 65535 expected"
            )
    if problems:
        set_here = [name for name in VARIABLES if environ.get(name)]
        problems[-1] += f" (launchers set these; left over in this shell? unset {' '.join(set_here)})"
        raise SettingsError(problems)
    if not among or world_size == 1:
        return Place()
    return Place(rank, world_size, local_rank, local_world_size)


def is_launched(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process, which starts all of them together."""
    return "TORCHELASTIC_RUN_ID" in environ


def speaks(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process says what all on its machine could say: the first, or one without a number."""
    name = _given(environ, _LOCAL_RANK)
    return name is None or environ[name] == "0"


def waiting_line(missing: int, what: str, environ: Mapping[str, str] = os.environ) -> str:
    """A line for a person who waits, and may not know for what.

    Args:
        missing: Processes that have not come.
        what: Where they are expected, or for what.
        environ: Where this process learned of them.
    """
    others = f"{missing} other process" + ("es" if missing != 1 else "")
    if is_launched(environ):
        return f"waiting for {others} {what}"
    rank, world = _given(environ, _RANK), _given(environ, _WORLD)
    set_here = [name for name in VARIABLES if environ.get(name)]
    return (
        f"waiting for {others} {what}, from {rank}/{world} in the environment ({_shown(environ, _RANK)} "
        f"{_shown(environ, _WORLD)}); if this process is to work alone: unset {' '.join(set_here)}"
    )


def _given(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if environ.get(name)), None)


def _shown(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    name = _given(environ, names)
    return f"no {names[0]}" if name is None else f"{name}={environ[name]}"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535
