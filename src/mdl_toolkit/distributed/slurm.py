"""Tasks that ``srun`` has started, as the processes of one run: ``srun mdl-toolkit train`` needs no launcher.

Slurm tells a task its number in variables of its own. A batch script and the shell of an allocation have some
of them too (``SLURM_PROCID=0``, ``SLURM_NTASKS=8``), though they run once; a task is told from them by the
step that it belongs to. Standard library only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

from mdl_toolkit.errors import SettingsError

#: What says which task this is; without it a process is none.
TASK = "SLURM_PROCID"
_TASKS = "SLURM_STEP_NUM_TASKS"
# Step ids from here on are no steps that srun made: batch scripts, shells of allocations, what the daemon
# itself starts (slurm.h, SLURM_MAX_NORMAL_STEP_ID).
_FIRST_SPECIAL_STEP = 0xFFFFFFF0
# Ports below those that systems hand out by themselves (32768 and above on Linux).
_LOWEST_PORT, _PORTS = 20000, 10000
# Steps of one job that run side by side get ports far from each other, and from those of the next jobs.
_STEP_STRIDE = 1009
_BRACKETS = re.compile(r"\[([^\]]*)\]")


def slurm_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What torchrun would tell this process, from what Slurm has told it.

    Args:
        environ: The environment of the process.

    Returns:
        ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``GROUP_RANK``, ``GROUP_WORLD_SIZE``,
        and, unless they are set, ``MASTER_ADDR`` and ``MASTER_PORT``; nothing where srun has not started this
        process as one of several tasks.

    Raises:
        SettingsError: Slurm gave tasks to the nodes in turn; a run needs them node by node.
    """
    world_size, rank = _number(environ, _TASKS), _number(environ, TASK)
    step = _number(environ, "SLURM_STEP_ID", "SLURM_STEPID")
    if world_size is None or world_size < 2 or rank is None or step is None or step >= _FIRST_SPECIAL_STEP:
        return {}
    found = {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    tasks = tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node, local_rank = _number(environ, "SLURM_NODEID"), _number(environ, "SLURM_LOCALID")
    if tasks and node is not None and local_rank is not None and node < len(tasks):
        if rank != sum(tasks[:node]) + local_rank:
            raise SettingsError(
                [
                    f"{TASK}={rank} is task {local_rank} of node {node}: Slurm gave tasks to the nodes in "
                    "turn, and a run needs them node by node; add --distribution=block to srun"
                ]
            )
        found |= {"LOCAL_RANK": str(local_rank), "LOCAL_WORLD_SIZE": str(tasks[node])}
        found |= {"GROUP_RANK": str(node), "GROUP_WORLD_SIZE": str(len(tasks))}
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or ""
    first = "127.0.0.1" if len(tasks) == 1 else next(hosts_of(nodes), "")
    if first and not environ.get("MASTER_ADDR"):
        found["MASTER_ADDR"] = first
    job = _number(environ, "SLURM_JOB_ID", "SLURM_JOBID")
    if job is not None and not environ.get("MASTER_PORT"):
        found["MASTER_PORT"] = str(_LOWEST_PORT + (job + _STEP_STRIDE * step) % _PORTS)
    return found


def tasks_per_node(text: str) -> list[int]:
    """Read ``2(x3),1`` as ``[2, 2, 2, 1]``; a text that is none of the kind as an empty list."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part.strip())
        if match is None:
            return []
        found += [int(match[1])] * int(match[2] or 1)
    return found


def hosts_of(nodes: str) -> Iterator[str]:
    """The names of nodes that Slurm writes as ``node[01-03,7],gpu-a[2-3]``, in their order."""
    for group in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        pieces = _BRACKETS.split(group)  # by turns plain text and what stood in brackets
        choices = [_choices(piece) if place % 2 else [piece] for place, piece in enumerate(pieces)]
        yield from map("".join, itertools.product(*choices))


def _choices(ranges: str) -> Iterator[str]:
    """Numbers of a list such as ``01-03,7``; those of a range keep its zeros."""
    for part in ranges.split(","):
        low, dash, high = part.partition("-")
        if dash and low.isdecimal() and high.isdecimal():
            yield from (str(number).zfill(len(low)) for number in range(int(low), int(high) + 1))
        else:
            yield part


def _number(environ: Mapping[str, str], *names: str) -> int | None:
    """The first of some variables that is a number."""
    return next((int(environ[name]) for name in names if environ.get(name, "").isdecimal()), None)
