"""The names of hosts and processes in messages: ``rank 3 (host node-b)``. Standard library only."""

from __future__ import annotations

import socket


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
