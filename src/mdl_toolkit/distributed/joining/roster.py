"""Which processes of a run are there already and which are missed, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def roster(ready: Mapping[int, str], world_size: int) -> str:
    """Who is ready and who is missing: ``ready: host node-a (ranks 0, 1); missing: ranks 2, 3``.

    Args:
        ready: The host of each rank that is there.
        world_size: The number of processes of the run.
    """
    hosts: dict[str, list[int]] = {}
    for rank in sorted(ready):
        hosts.setdefault(ready[rank], []).append(rank)
    there = ", ".join(f"host {host} ({shown_ranks(ranks)})" for host, ranks in hosts.items())
    missing = [rank for rank in range(world_size) if rank not in ready]
    return f"ready: {there or 'none'}; missing: {shown_ranks(missing) if missing else 'none'}"


def shown_ranks(ranks: Collection[int]) -> str:
    """Ranks as messages list them: ``rank 3``, ``ranks 0, 1``, ``ranks 0 to 7, 12``."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [
        f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run))  # two are as short as a range
        for run in runs
    ]
    return f"rank{'s' if len(ranks) != 1 else ''} {', '.join(parts)}"
