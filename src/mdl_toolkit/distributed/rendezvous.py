"""The rendezvous of a run's processes: how they find each other when they start.

Every process finds the key-value store of the run at ``MASTER_ADDR:MASTER_PORT`` (:func:`open_store`); then
all of them agree on an id for this start (:func:`agree_on_start`), under which all further keys stand. The
process group is made with that part of the store (``group.py``).

The id is needed because torchrun restarts processes with the store that they had before (seen in torch 2.13),
which still has the keys of the processes that are gone: the addresses of their sockets, and the failure that
ended them. Nor can a process tell by itself which start it belongs to: of several machines, only the one that
lost a process counts the restart (``TORCHELASTIC_RESTART_COUNT``), and none counts it when a machine comes.
What all starts of a launch have in common, the launch's ids, is told by :func:`ids_of_launch`.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed import rendezvous as torch_rendezvous  # type: ignore[attr-defined]

from mdl_toolkit.compat.torchrun import agent_id, agent_serves_store
from mdl_toolkit.distributed.environment import DEFAULT_PORT, adopt_slurm_task
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.network.addresses import bare, with_port
from mdl_toolkit.distributed.network.reach import refusal
from mdl_toolkit.errors import SettingsError

#: How long the processes of a run wait for each other at its start.
JOIN_TIMEOUT = timedelta(minutes=10)
#: Seconds between two looks into the store, and between two attempts to connect to it.
_POLL_SECONDS, _CONNECT_SECONDS = 0.02, 0.2

#: Called again and again with the number of processes that have not come yet, as far as it is known.
Waiting = Callable[[int], None]


def export_address(launch: Launch) -> str:
    """Set the environment variables that torch and accelerate read, and return the rendezvous's address.

    Raises:
        SettingsError: Where there are several machines and no ``MASTER_ADDR``.
    """
    adopt_slurm_task()  # its rendezvous; a program of one's own has not come by the command line
    # MPI's launchers name the ranks in their own way; the rendezvous and accelerate read these.
    numbers = (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size)
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), numbers, strict=True):
        os.environ[name] = str(value)
    os.environ["MASTER_PORT"] = os.environ.get("MASTER_PORT") or str(DEFAULT_PORT)
    if launch.nodes == 1 and not os.environ.get("MASTER_ADDR"):
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    if not os.environ.get("MASTER_ADDR"):
        raise SettingsError(
            ["several machines, but MASTER_ADDR is not set: set it to the address of rank 0's machine"]
        )
    os.environ["MASTER_ADDR"] = bare(os.environ["MASTER_ADDR"])
    return with_port(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])


def open_store(launch: Launch, waiting: Waiting, timeout: timedelta = JOIN_TIMEOUT) -> Store:
    """The launcher's key-value store, or one of our own in rank 0.

    torch's own client prints a stack of warnings for each attempt and hears no signal, so it is made only
    when something listens at the address. Its server would wait for the others in the same way;
    :func:`agree_on_start` does that.

    Raises:
        OSError: Nothing listens at the address within the time.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    by_agent = agent_serves_store()
    if launch.rank != 0:
        _wait_for_listener(address, port, waiting, timeout)
    if by_agent:
        store: Store = next(torch_rendezvous("env://", launch.rank, launch.world_size, timeout=JOIN_TIMEOUT))[
            0
        ]
    else:
        # The server listens on all interfaces. Its own process doesn't need the address that the others have
        # for it, which may be another machine's or none at all, left over in a shell: the client would wait
        # for it.
        store = TCPStore(
            "127.0.0.1" if launch.rank == 0 else address,
            port,
            launch.world_size,
            is_master=launch.rank == 0,
            timeout=JOIN_TIMEOUT,
            wait_for_workers=False,
            multi_tenant=True,
        )
    store.set_timeout(JOIN_TIMEOUT)
    return store


def ids_of_launch(launch: Launch, store: Store | None = None) -> list[str]:
    """What this process knows its launch by; the processes' ids together are those of the launch.

    They are the id of the host's agent, where it can be told from others, and an id that the launch's
    processes agree on in the store that torchrun serves. Hosts come and go in one launch, and with the first
    host goes the store, so neither alone would do. What torchrun did not start is never started again by it,
    and gets an id that no other process has.

    Args:
        launch: How this process was launched.
        store: The launcher's store, if this process is connected to it already.
    """
    agent = agent_id()
    ids = [agent] if agent is not None else []
    if agent_serves_store() and (store is not None or agent is None):
        with contextlib.suppress(RuntimeError, ValueError, OSError):
            store = store or open_store(launch, lambda _: None)
            ids.append(f"store:{store.compare_set('launch', '', uuid.uuid4().hex).decode()}")
    return ids or [uuid.uuid4().hex]


def agree_on_start(
    store: Store, rank: int, world_size: int, timeout: timedelta, waiting: Waiting = lambda _: None
) -> Store:
    """Wait for the other processes, and agree with them on an id of this start.

    Rank 0 draws a random id. Each other process writes a join request that holds a random token of its own,
    and rank 0 replies to each token with the id. Requests of processes that are gone are replied to as well,
    and nobody reads those replies. All waiting is done here, in Python, where a signal is heard.

    Args:
        store: The launcher's store.
        rank: The rank of this process.
        world_size: The number of processes.
        timeout: How long to wait for all of them.
        waiting: Called while waiting.

    Returns:
        A part of the store that belongs to this start alone.

    Raises:
        RuntimeError: Not all came in time, or the store can't be reached.
    """
    if rank == 0:
        start = uuid.uuid4().hex
        _reply_to_requests(store, start, world_size, timeout, waiting)
        store.set(f"{start}/complete", "yes")
    else:
        token = uuid.uuid4().hex
        store.set(f"join_request/{store.add('join_requests', 1)}", token)
        _wait_for_key(store, f"reply/{token}", timeout, waiting, missing=1)
        start = store.get(f"reply/{token}").decode()
        joined = store.add(f"{start}/joined", 1) + 1
        _wait_for_key(store, f"{start}/complete", timeout, waiting, missing=world_size - joined)
    return PrefixStore(start, store)


def _reply_to_requests(
    store: Store, start: str, world_size: int, timeout: timedelta, waiting: Waiting
) -> None:
    """On rank 0: reply to all join requests with the start's id until every process has joined."""
    until = time.monotonic() + timeout.total_seconds()
    seen, open_requests = 0, set[int]()
    while (joined := store.add(f"{start}/joined", 0) + 1) < world_size:
        made = store.add("join_requests", 0)
        open_requests |= set(range(seen + 1, made + 1))
        seen = made
        # A request is counted a moment before its token is there, and never has one if the process was
        # killed in that moment.
        for number in [number for number in open_requests if store.check([f"join_request/{number}"])]:
            store.set(f"reply/{store.get(f'join_request/{number}').decode()}", start)
            open_requests.remove(number)
        if time.monotonic() > until:
            raise RuntimeError(
                f"{joined} of {world_size} processes came within {timeout.total_seconds():.0f} s"
            )
        waiting(world_size - joined)
        time.sleep(_POLL_SECONDS)


def _wait_for_key(store: Store, key: str, timeout: timedelta, waiting: Waiting, missing: int) -> None:
    until = time.monotonic() + timeout.total_seconds()
    while not store.check([key]):
        if time.monotonic() > until:
            raise RuntimeError(f"rank 0 did not answer within {timeout.total_seconds():.0f} s")
        waiting(max(1, missing))
        time.sleep(_POLL_SECONDS)


def _wait_for_listener(address: str, port: int, waiting: Waiting, timeout: timedelta) -> None:
    """Wait until something listens at an address.

    Raises:
        OSError: Nothing does.
    """
    until = time.monotonic() + timeout.total_seconds()
    while (reason := refusal(address, port, 5.0)) is not None:
        if time.monotonic() > until:
            raise reason
        waiting(1)
        time.sleep(_CONNECT_SECONDS)
