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
import json
import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed import rendezvous as torch_rendezvous  # type: ignore[attr-defined]

from mdl_toolkit.compat.torchrun import agent_id, agent_serves_store
from mdl_toolkit.distributed.environment import DEFAULT_PORT, ProcessRank, adopt_slurm_task
from mdl_toolkit.distributed.hosts import host_name, rank_on_host
from mdl_toolkit.distributed.network.addresses import bare, is_loopback, resolved, with_port
from mdl_toolkit.distributed.network.interfaces import interface_addresses
from mdl_toolkit.distributed.network.reach import refusal
from mdl_toolkit.errors import MdlError, SettingsError

#: How long the processes of a run wait for each other at its start.
JOIN_TIMEOUT = timedelta(minutes=10)
#: Seconds between two looks into the store, and between two attempts to connect to it.
_POLL_SECONDS, _CONNECT_SECONDS = 0.02, 0.2

#: Called again and again with the number of processes that have not come yet, as far as it is known.
Waiting = Callable[[int], None]


class NotComeError(MdlError, RuntimeError):
    """Some processes of a run did not come to join the others in time."""


def export_address(launch: ProcessRank) -> str:
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


def open_store(launch: ProcessRank, waiting: Waiting, timeout: timedelta | None = None) -> Store:
    """The launcher's key-value store, or one of our own in rank 0.

    torch's own client prints a stack of warnings for each attempt and hears no signal, so it is made only
    when something listens at the address. Its server would wait for the others in the same way;
    :func:`agree_on_start` does that.

    Args:
        launch: The ranks of this process.
        waiting: Called while waiting for something to listen at the address.
        timeout: How long to wait for it; :data:`JOIN_TIMEOUT` if it is ``None``.

    Raises:
        OSError: Nothing listens there.
        RuntimeError: What listens there is no store, or this process can't listen there.
    """
    timeout = timeout or JOIN_TIMEOUT
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    by_agent = agent_serves_store()
    if launch.rank != 0 or by_agent:
        _wait_for_listener(address, port, waiting, timeout)
    if by_agent:
        store: Store = next(torch_rendezvous("env://", launch.rank, launch.world_size, timeout=timeout))[0]
    else:
        # The server listens on all interfaces. Its own process doesn't need the address that the others have
        # for it, which may be another machine's or none at all, left over in a shell: the client would wait
        # for it.
        store = TCPStore(
            "127.0.0.1" if launch.rank == 0 else address,
            port,
            launch.world_size,
            is_master=launch.rank == 0,
            timeout=timeout,
            wait_for_workers=False,
            multi_tenant=True,
        )
    store.set_timeout(timeout)
    return store


def ids_of_launch(launch: ProcessRank, store: Store | None = None) -> list[str]:
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


def serves_here(launch: ProcessRank) -> bool:
    """Whether the store is on this host, and may be gone when this process ends."""
    if not agent_serves_store():
        return launch.rank == 0
    own = {address for addresses in interface_addresses().values() for address in addresses}
    try:
        return any(is_loopback(address) or address in own for address in resolved(os.environ["MASTER_ADDR"]))
    except OSError:
        return False


def agree_on_start(
    store: Store,
    launch: ProcessRank,
    timeout: timedelta,
    waiting: Waiting = lambda _: None,
    *,
    problem: Exception | None = None,
) -> Store:
    """Wait for the other processes, and agree with them on an id of this start.

    Rank 0 draws a random id. Each other process writes a join request that holds a random token of its own,
    and rank 0 replies to each token with the id. Requests of processes that are gone are replied to as well,
    and nobody reads those replies. All waiting is done here, in Python, where a signal is heard.

    Args:
        store: The launcher's store.
        launch: The ranks of this process.
        timeout: How long to wait for all of them.
        waiting: Called while waiting, with the number of processes that are missing; what it raises ends the
            waiting.
        problem: Why this process can't take part. It is raised as soon as rank 0 is there.

    Returns:
        A part of the store that belongs to this start alone.

    Raises:
        NotComeError: Not all came in time.
        RuntimeError: The store can't be reached.
        SettingsError: Two processes have the same rank, or were told different numbers of processes.
    """
    if launch.rank == 0:
        start = _lead(store, launch, timeout, waiting)
    else:
        start = _follow(store, launch, timeout, waiting, problem)
    return PrefixStore(start, store)


def _lead(store: Store, launch: ProcessRank, timeout: timedelta, waiting: Waiting) -> str:
    """On rank 0: draw an id of this start and wait until all have it."""
    start = uuid.uuid4().hex
    store.set("rank_0", host_name())
    tokens = _reply_to_requests(store, start, launch, timeout, waiting)
    store.set("requests_over", str(store.add("join_requests", 0)))
    store.set("rank_0", "")
    store.set(f"{start}/complete", json.dumps(tokens))
    return start


def _follow(
    store: Store, launch: ProcessRank, timeout: timedelta, waiting: Waiting, problem: Exception | None
) -> str:
    """On another rank: ask for the id of this start, and wait until all have it."""
    token = uuid.uuid4().hex
    request = {"token": token, "rank": launch.rank, "of": launch.world_size, "host": host_name()}
    store.set(f"join_request/{store.add('join_requests', 1)}", json.dumps(request))
    _wait_for_key(store, f"reply/{token}", timeout, waiting)
    start = store.get(f"reply/{token}").decode()
    if problem is not None:
        raise problem
    store.set(f"{start}/present/{launch.rank}", token)
    store.add(f"{start}/joined", 1)
    _wait_for_key(store, f"{start}/complete", timeout, waiting)
    if json.loads(store.get(f"{start}/complete")).get(str(launch.rank)) != token:
        raise SettingsError(
            [f"another process has rank {launch.rank} too: give each process a RANK of its own"]
        )
    return start


def ready_processes(store: Store) -> dict[int, str]:
    """The hosts of the processes that have come to join, by rank.

    One that has been killed since counts as well, until its successor comes.
    """
    over = int(store.get("requests_over")) if store.check(["requests_over"]) else 0
    ready = {0: store.get("rank_0").decode()} if store.check(["rank_0"]) else {}
    for number in range(over + 1, store.add("join_requests", 0) + 1):
        if (request := _request(store, number)) is not None:
            ready[request["rank"]] = request["host"]
    return {rank: host for rank, host in ready.items() if host}


def _request(store: Store, number: int) -> dict[str, Any] | None:
    """A join request; it is counted a moment before it is there, and never is if its process was killed."""
    if not store.check([f"join_request/{number}"]):
        return None
    request: dict[str, Any] = json.loads(store.get(f"join_request/{number}"))
    return request


def _reply_to_requests(
    store: Store, start: str, launch: ProcessRank, timeout: timedelta, waiting: Waiting
) -> dict[int, str]:
    """On rank 0: reply to all join requests with the start's id until every process has joined.

    Returns:
        The token of each other rank.
    """
    until = time.monotonic() + timeout.total_seconds()
    tokens: dict[int, str] = {}
    seen, counted, open_requests = 0, 0, set[int]()
    while len(tokens) < launch.world_size - 1:
        made = store.add("join_requests", 0)
        open_requests |= set(range(seen + 1, made + 1))
        seen = made
        for number in sorted(open_requests):
            if (request := _request(store, number)) is not None:
                _check_request(request, launch)
                store.set(f"reply/{request['token']}", start)
                open_requests.remove(number)
        if (joined := store.add(f"{start}/joined", 0)) != counted:
            counted = joined
            tokens = _tokens(store, start, launch.world_size)
        if time.monotonic() > until:
            came = f"{len(tokens) + 1} of {launch.world_size} processes came"
            raise NotComeError(f"{came} within {shown(timeout)}")
        waiting(launch.world_size - 1 - len(tokens))
        time.sleep(_POLL_SECONDS)
    return tokens


def _tokens(store: Store, start: str, world_size: int) -> dict[int, str]:
    """The tokens of the ranks that have joined; of two processes with one rank, that of the later."""
    there = [rank for rank in range(1, world_size) if store.check([f"{start}/present/{rank}"])]
    return {rank: store.get(f"{start}/present/{rank}").decode() for rank in there}


def _check_request(request: dict[str, Any], launch: ProcessRank) -> None:
    """Compare what another process was told of the launch. torchrun's agents have agreed on that themselves.

    Raises:
        SettingsError: It was told another number of processes.
    """
    if request["of"] != launch.world_size and not agent_serves_store():
        raise SettingsError(
            [
                f"{rank_on_host(request['rank'], request['host'])} was started as one of {request['of']} "
                f"processes, {launch.name} as one of {launch.world_size}: give all the same WORLD_SIZE"
            ]
        )


def _wait_for_key(store: Store, key: str, timeout: timedelta, waiting: Waiting) -> None:
    until = time.monotonic() + timeout.total_seconds()
    while not store.check([key]):
        if time.monotonic() > until:
            raise NotComeError(f"not all processes came within {shown(timeout)}")
        waiting(1)
        time.sleep(_POLL_SECONDS)


def shown(time_span: timedelta) -> str:
    """A time span for a message."""
    seconds = time_span.total_seconds()
    return f"{seconds / 60:g} minutes" if seconds > 60 else f"{seconds:g} s"


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
