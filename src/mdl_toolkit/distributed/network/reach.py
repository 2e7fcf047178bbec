"""Why the processes of a run may not find each other, seen from one of them. Standard library only."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Mapping

from mdl_toolkit.compat.torchrun import agent_serves_store
from mdl_toolkit.distributed.environment import is_started_by_torchrun, knows_local_size
from mdl_toolkit.distributed.hosts import host_name
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.network.addresses import is_loopback, resolved, way_to, with_port
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger

logger = get_logger(__name__)

#: Seconds until a process that waits for the others looks for the reason.
_LOOKS_AFTER = 5.0


def address_remark(address: str, launch: Launch, environ: Mapping[str, str] = os.environ) -> str | None:
    """What is wrong with the rendezvous's address as this host understands it; ``None`` if nothing is.

    Args:
        address: ``MASTER_ADDR``.
        launch: The ranks of this process.
        environ: The environment in which this process learned of the others.
    """
    counted = knows_local_size(environ)
    on_first = launch.node == 0 if counted else launch.rank == 0
    try:
        found = resolved(address)
    except OSError as error:
        if on_first:
            return None  # it serves the rendezvous, and needs no name for itself
        return (
            f"host {host_name()} can't resolve the name {address} ({error.strerror or error}); "
            f"{address_remedy(environ)}"
        )
    if all(map(is_loopback, found)):
        if (counted and launch.nodes == 1) or (on_first and not is_for_every_host(address)):
            return None  # its own name means something else on the other hosts: Debian's 127.0.1.1
        where = "" if counted else "if the processes are on several hosts, "
        return f"{address} leads host {host_name()} to itself ({found[0]}); {where}{address_remedy(environ)}"
    if not on_first and way_to(address) is None:
        return (
            f"no network of host {host_name()} leads to {address} ({', '.join(found)}); "
            f"{address_remedy(environ)}"
        )
    return None


def is_for_every_host(address: str) -> bool:
    """Whether an address means each host itself wherever it is read: ``localhost``, ``::1``."""
    return is_loopback(address) or address.lower().partition(".")[0] == "localhost"


def address_remedy(environ: Mapping[str, str] = os.environ) -> str:
    """How to give the processes another address for their rendezvous, with the launcher at hand."""
    wanted = "an address of it that all other hosts can reach"
    if not is_started_by_torchrun(environ):
        return f"rank 0's host has to be named by MASTER_ADDR, on every host: {wanted}"
    if "ACCELERATE_MIXED_PRECISION" in environ:
        return f"rank 0's host has to be named by main_process_ip, in every host's config: {wanted}"
    return f"start torchrun on rank 0's host with --local-addr and {wanted}"


def with_remark(
    waiting: Callable[[int], None], launch: Launch, environ: Mapping[str, str]
) -> Callable[[int], None]:
    """Let a process that waits for others also say, once, why they may not find each other.

    Args:
        waiting: What is called while waiting, with the number of processes that are missing.
        launch: The ranks of this process.
        environ: The environment in which this process learned of the others.
    """
    due = time.monotonic() + _LOOKS_AFTER

    def wait(missing: int) -> None:
        nonlocal due
        waiting(missing)
        if time.monotonic() >= due:
            due = math.inf
            remark = _remark(launch, environ)
            if remark is not None:
                logger.warning(remark, extra=EVERYWHERE)

    return wait


def _remark(launch: Launch, environ: Mapping[str, str]) -> str | None:
    if launch.local_rank != 0 and knows_local_size(environ):
        return None  # another process of this host says it
    address = os.environ["MASTER_ADDR"]
    if launch.rank == 0:
        return None if agent_serves_store() else address_remark(address, launch, environ)
    if refusal(address, int(os.environ["MASTER_PORT"]), 2.0) is None:
        return None  # it is reached: other processes are missing
    return address_remark(address, launch, environ)


def refusal(address: str, port: int, seconds: float) -> OSError | None:
    """Try to connect to a host, over each of its addresses in turn.

    Args:
        address: A name or address, of either family.
        port: The port.
        seconds: How long an attempt may take.

    Returns:
        ``None`` if something listens there, or why not.
    """
    try:
        socket.create_connection((address, port), timeout=seconds).close()
    except UnicodeError as error:
        return OSError(f"{with_port(address, port)}: no name of a host ({error})")
    except OSError as error:
        return error
    return None
