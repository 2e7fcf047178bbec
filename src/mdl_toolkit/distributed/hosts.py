"""The names of hosts and processes in messages: ``rank 3 (host node-b)``. Standard library only."""

from __future__ import annotations

import socket
from collections.abc import Collection


def host_name() -> str:
    """The name of this host, as ``hostname`` prints it."""
    return socket.gethostname() or "unknown"


def rank_on_host(rank: int, host: str) -> str:
    """A process as messages name it.

    Args:
        rank: The rank of the process.
        host: The name of its host.
    """
    return f"rank {rank} (host {host})"


def shown_ranks(ranks: Collection[int]) -> str:
    """Ranks as messages list them: ``rank 3``, ``ranks 0, 1``, ``ranks 0 to 7, 12``; at most eight pieces."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [
        f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run))  # two are as short as a range
        for run in runs[:8]
    ]
    listed = ", ".join([*parts, "…"] if len(runs) > 8 else parts)
    return f"rank{'s' if len(ranks) != 1 else ''} {listed}"
