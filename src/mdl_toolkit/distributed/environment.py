"""Rank and world size of this process, from the environment variables that its launcher has set.

torchrun, accelerate and MPI's launchers set these variables; what Slurm says is read in ``slurm.py``. People
set them too, and also leave them in a shell, where the next command finds them: so they are checked before
any command begins. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from mdl_toolkit.distributed.hosts import host_name, rank_on_host
from mdl_toolkit.distributed.slurm import TASK, slurm_variables
from mdl_toolkit.errors import SettingsError

# torchrun and everything that starts its agents, then MPI's names (accelerate starts mpirun for MULTI_CPU).
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
_LOCAL_WORLD = (
    "LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE",
)  # fmt: skip
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")

#: All variables that tell a process that it is one of several.
VARIABLES = (*_RANK, *_WORLD, *_LOCAL_RANK, *_LOCAL_WORLD, *_ADDRESS)
#: Port of the rendezvous where ``MASTER_PORT`` is not set.
DEFAULT_PORT = 29500


@dataclass(frozen=True)
class ProcessRank:
    """Which of a launch's processes this one is. The defaults are those of a process without a launcher.

    Attributes:
        rank: Number of the process among all, from 0.
        world_size: Number of processes on all machines.
        local_rank: Number of the process on its machine, from 0.
        local_world_size: Number of processes on this machine.
        group_rank: Number of this machine, from 0, as torchrun or Slurm counts; ``None`` without them.
        group_world_size: Number of machines, as they count; ``None`` without them.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    group_rank: int | None = None
    group_world_size: int | None = None

    @property
    def name(self) -> str:
        """This process as messages name it: ``rank 3 (host node-b)``."""
        return rank_on_host(self.rank, host_name())

    @property
    def nodes(self) -> int:
        """The number of machines; where none has told it, as if each had as many processes as this one."""
        return self.group_world_size or max(1, self.world_size // self.local_world_size)

    @property
    def node(self) -> int:
        """The number of this machine; where none has told it, as if all had equally many processes."""
        return self.rank // self.local_world_size if self.group_rank is None else self.group_rank


def adopt_slurm_task(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables of a launcher where Slurm alone has started this process, as one of several tasks."""
    environ.update(_of_slurm(environ))


def _of_slurm(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that Slurm's stand for. A launcher's own win; srun itself sets PMI's for some MPIs."""
    name = _first_set(environ, _RANK)
    if name is None or (name == "PMI_RANK" and environ[name] == environ.get(TASK)):
        return slurm_variables(environ)
    return {}


def process_rank(environ: Mapping[str, str] = os.environ) -> ProcessRank:
    """Read the rank of this process. Without a rank variable it is alone, whatever the others say.

    Raises:
        SettingsError: Where a variable is not a number, is out of its range, or contradicts another one; all
            such problems at once.
    """
    environ = {**environ, **_of_slurm(environ)}
    problems: list[str] = []

    def number(names: tuple[str, ...], low: int, default: int) -> int:
        name = _first_set(environ, names)
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
    groups = (_of_launcher(environ, name) for name in ("GROUP_RANK", "GROUP_WORLD_SIZE"))
    found = ProcessRank(rank, world_size, local_rank, local_world_size, *groups)
    has_rank = _first_set(environ, _RANK) is not None
    if has_rank and not problems:
        problems = _contradictions(found, environ)
    if problems:
        problems[-1] += (
            f" (launchers set these; left over in this shell? unset {' '.join(set_here(environ))})"
        )
        raise SettingsError(problems)
    return found if has_rank and world_size > 1 else ProcessRank()


def _of_launcher(environ: Mapping[str, str], name: str) -> int | None:
    """A number that torchrun and Slurm alone tell; ``None`` where neither of them started this process."""
    counted = is_started_by_torchrun(environ) or is_slurm_task(environ)
    text = environ.get(name, "") if counted else ""
    return int(text) if text.isascii() and text.isdecimal() else None


def _contradictions(found: ProcessRank, environ: Mapping[str, str]) -> list[str]:
    """Contradictions between numbers that are each in their range."""
    problems = []
    world, local_world = _assignment(environ, _WORLD), _assignment(environ, _LOCAL_WORLD)
    if found.rank >= found.world_size:
        problems.append(
            f"environment variable {_assignment(environ, _RANK)} of {found.world_size} processes ({world}): "
            f"ranks are 0 to {found.world_size - 1}"
        )
    if found.local_world_size > found.world_size:
        problems.append(f"environment variable {local_world}: at most the number of all processes ({world})")
    elif found.local_rank >= found.local_world_size:
        problems.append(
            f"environment variable {_assignment(environ, _LOCAL_RANK)} of {found.local_world_size} processes "
            f"on this machine: local ranks are 0 to {found.local_world_size - 1}"
        )
    if found.world_size > 1 and not _is_port(environ.get("MASTER_PORT") or str(DEFAULT_PORT)):
        problems.append(
            f"environment variable MASTER_PORT={environ['MASTER_PORT']}: a port from 1 to 65535 expected"
        )
    return problems


def is_started_by_torchrun(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process; it starts all processes of a machine together."""
    return "TORCHELASTIC_RUN_ID" in environ


def knows_local_size(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher has said how many processes this machine has; else it may have any number."""
    return _first_set(environ, _LOCAL_WORLD) is not None


def is_first_on_machine(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process has local rank 0, or none: it prints what concerns its whole machine."""
    name = _first_set(environ, _LOCAL_RANK)
    return name is None or environ[name] == "0"


def is_slurm_task(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a task of srun, one of several, and no other launcher has numbered it."""
    if is_started_by_torchrun(environ):
        return False
    name = _first_set(environ, _RANK)
    if name is not None and (name not in ("RANK", "PMI_RANK") or environ[name] != environ.get(TASK)):
        return False
    try:
        return bool(slurm_variables(environ))
    except SettingsError:
        return True


def has_gpu_to_itself(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether Slurm shows each task its own GPUs alone (``--gpus-per-task``), numbered from 0."""
    return is_slurm_task(environ) and bool(environ.get("SLURM_GPUS_PER_TASK"))


def set_here(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the variables that are set."""
    return [
        *([TASK] if is_slurm_task(environ) else []),
        *(name for name in VARIABLES if environ.get(name)),
    ]


def shown_rank(environ: Mapping[str, str] = os.environ) -> str:
    """Rank and world size and the variables that say so, for a message."""
    if is_slurm_task(environ):
        return f"srun ({TASK}={environ[TASK]} of {slurm_variables(environ)['WORLD_SIZE']} tasks)"
    rank, world = _first_set(environ, _RANK), _first_set(environ, _WORLD)
    return f"{rank}/{world} in the environment ({_assignment(environ, _RANK)} {_assignment(environ, _WORLD)})"


def _first_set(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if environ.get(name)), None)


def _assignment(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    name = _first_set(environ, names)
    return f"no {names[0]}" if name is None else f"{name}={environ[name]}"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535
