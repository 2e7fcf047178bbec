"""Which processes of a run are there already and which are missed, in words."""

from __future__ import annotations

from collections.abc import Mapping

from mdl_toolkit.distributed.hosts import shown_ranks


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
