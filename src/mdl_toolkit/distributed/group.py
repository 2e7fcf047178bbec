"""The process group of a run: joining it, exchanging numbers and objects, and ending together.

The group is made here and not by ``accelerate.PartialState`` because a run needs two backends at once (NCCL
for tensors on GPUs, Gloo for numbers on the host), Gloo wherever there is no GPU, whatever the config says,
and a failure that reaches every process. ``PartialState`` then takes over the finished group, for the
trackers.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from mdl_toolkit.compat.torch_gloo import GlooConnections
from mdl_toolkit.distributed.environment import has_gpu_to_itself
from mdl_toolkit.distributed.failure import FailureWatch, end_together
from mdl_toolkit.distributed.hosts import host_name, rank_on_host
from mdl_toolkit.distributed.joining.meeting import meet, meeting, why_not_joined
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.network.addresses import with_port
from mdl_toolkit.distributed.network.interfaces import choose_interface
from mdl_toolkit.distributed.network.reach import with_remark
from mdl_toolkit.distributed.peers.troubles import is_peer_loss
from mdl_toolkit.distributed.peers.watch import PEER_TIMEOUT
from mdl_toolkit.distributed.rendezvous import JOIN_TIMEOUT, export_address, ids_of_launch
from mdl_toolkit.distributed.stops import stops_passed_on
from mdl_toolkit.distributed.waiting import WaitingMessage
from mdl_toolkit.errors import MdlError, SettingsError
from mdl_toolkit.gpu import require_usable_gpu

T = TypeVar("T")

#: How long a process waits in a collective, if ``--peer-timeout`` isn't longer: longer than one process takes
#: to write a merged 7B model.
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)


class Ranks:
    """The processes of a run, seen from one of them.

    All exchanges go over the host (Gloo): no call waits for a GPU, and every process must make the same calls
    in the same order.

    Attributes:
        rank: The number of this process; rank 0 prints and writes.
        world_size: The number of processes.
        local_rank: The number of this process on its machine.
        local_world_size: The number of processes on this machine.
        device: The device of this process, which no other process uses.
        launch_ids: What the launch is known by. An attempt that the launcher has started again has one of
            these ids in common with the one before, and with no attempt of another launch.
        hosts: The names of the processes' hosts, in order of rank.
    """

    def __init__(
        self,
        launch: Launch,
        device: torch.device,
        group: dist.ProcessGroup | None = None,
        launch_ids: Collection[str] = (),
        watch: FailureWatch | None = None,
    ) -> None:
        self.rank, self.world_size = launch.rank, launch.world_size
        self.local_rank, self.local_world_size = launch.local_rank, launch.local_world_size
        self.device, self._nodes = device, launch.nodes
        self._group, self._watch = group, watch
        told = self.gather_objects((host_name(), tuple(launch_ids)))
        self.hosts: tuple[str, ...] = tuple(host for host, _ in told)
        self.launch_ids = frozenset(each for _, ids in told for each in ids)

    def name(self, rank: int) -> str:
        """A process as messages name it: ``rank 3 (host node-b)``."""
        return rank_on_host(rank, self.hosts[rank] if rank < len(self.hosts) else host_name())

    def is_loss(self, error: BaseException) -> bool:
        """Whether an error of an exchange only means that another process is gone or can't be reached."""
        return self._watch is not None and self._watch.is_loss(error)

    @property
    def peer_is_lost(self) -> bool:
        """Whether another process is known to be lost: the next exchange will fail."""
        return (
            self._watch is not None and self._watch.peers is not None and self._watch.peers.loss is not None
        )

    @contextlib.contextmanager
    def saving_alone(self) -> Iterator[None]:
        """Within the block this process saves without the others, and isn't ended for the loss of one."""
        with self._watch.held() if self._watch is not None else contextlib.nullcontext():
            yield

    def tell_after_loss(self, left: str) -> None:
        """Say what is left of the run's work; it ends the message about the lost process."""
        if self._watch is not None:
            self._watch.left = left

    @property
    def prefix(self) -> str:
        """What a message of this process alone begins with: its name and a colon; nothing in a run of one."""
        return f"{self.name(self.rank)}: " if self.world_size > 1 else ""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """The number of machines."""
        return self._nodes

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum each number over the processes, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """The largest of each number over the processes."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any process."""
        return self._reduce([float(flag)], dist.ReduceOp.MAX)[0] > 0

    def barrier(self) -> None:
        """Wait until every process has reached this call."""
        self._reduce([0.0], dist.ReduceOp.SUM)

    def broadcast_object(self, value: T) -> T:
        """The value of rank 0, on every process."""
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group, device=torch.device("cpu"))
        return box[0]

    def gather_objects(self, value: T) -> list[T]:
        """The values of all processes in order of rank, on every process."""
        if self._group is None:
            return [value]
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value, group=self._group)
        return box

    def _reduce(self, values: Sequence[float], operation: Any) -> list[float]:
        numbers = torch.tensor(list(values), dtype=torch.float64)
        if self._group is not None:
            dist.all_reduce(numbers, operation, group=self._group)
        return [float(number) for number in numbers.tolist()]


@contextlib.contextmanager
def joined(
    launch: Launch, problem: MdlError | None = None, peer_timeout: float = PEER_TIMEOUT
) -> Iterator[Ranks]:
    """Join the other processes and end with them: when one fails, all end at once with its cause.

    The device of this process is set before the group exists, so that nothing lands on another's GPU.

    Args:
        launch: The ranks of this process.
        problem: Why this process can't take part. The others are told of it, and it is raised.
        peer_timeout: Seconds of silence after which a process is given up; rank 0's counts for all.

    Yields:
        The processes of the run.

    Raises:
        SettingsError: More processes on a machine than it has GPUs, or GPUs that torch can't use.
        MdlError: The others could not be reached.
        SystemExit: Another process has ended before it joined; the cause is printed.
    """
    device = choose_device(launch)
    if launch.world_size == 1:
        if problem is not None:
            raise problem
        yield Ranks(launch, device, launch_ids=ids_of_launch(launch))
        return
    connections = GlooConnections()
    store, launch_ids = _meet_all(launch, device, problem)
    watch = FailureWatch(store, launch, connections)
    watch.start()
    with end_together(watch), stops_passed_on(store):
        timeout = max(COLLECTIVE_TIMEOUT, 2 * datetime.timedelta(seconds=peer_timeout))
        group = _make_group(store, launch, device, connections, timeout)
        _register_with_accelerate(device)
        ranks = Ranks(launch, device, group, launch_ids, watch)
        watch.watch_peers(ranks, peer_timeout)
        yield ranks
        ranks.barrier()
    watch.stop()
    dist.destroy_process_group()


def choose_device(launch: Launch) -> torch.device:
    """The device of this process: the GPU of its local rank, or the CPU if none is there or wanted."""
    if launch.use_cpu or not torch.cuda.is_available():
        require_usable_gpu(launch.use_cpu)
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if has_gpu_to_itself():
        torch.cuda.set_device(0)
        return torch.device("cuda", 0)
    if launch.local_world_size > count:
        raise SettingsError(
            [
                f"{launch.local_world_size} processes were started on a machine with {count} GPU(s): start "
                f"one for each GPU (--nproc-per-node {count}), or hide the GPUs (CUDA_VISIBLE_DEVICES='') to "
                "train on the CPU"
            ]
        )
    torch.cuda.set_device(launch.local_rank)
    return torch.device("cuda", launch.local_rank)


def _meet_all(
    launch: Launch, device: torch.device, problem: MdlError | None = None
) -> tuple[Store, Sequence[str]]:
    """Wait for all processes; the store of this start, and what this process knows its launch by.

    Args:
        launch: The ranks of this process.
        device: Its device.
        problem: Why this process can't take part; the others are told, and it is raised.
    """
    environ = dict(os.environ)  # before it is completed: what the person or the launcher has set
    address = export_address(launch)
    message = WaitingMessage(f"at {address}", environ)
    if launch.rank != 0:
        message.others = lambda: "rank 0"
    waiting = with_remark(message, launch, environ)
    with meeting(launch, address):
        store, launch_ids = meet(launch, message, waiting, problem)
        _require_one_kind(store, launch, device)
    return store, launch_ids


def _make_group(
    store: Store,
    launch: Launch,
    device: torch.device,
    connections: GlooConnections,
    timeout: datetime.timedelta,
) -> dist.ProcessGroup | None:
    """Make the default process group; the group for exchanges over the host.

    All processes have met. One that can't make the group would be waited for as long as a collective is, so
    this is done where the failure of one ends all.

    Args:
        store: The store of this start.
        launch: The ranks of this process.
        device: Its device.
        connections: Takes note of Gloo's connections.
        timeout: How long a process waits in a collective.

    Raises:
        MdlError: It can't be made.
        RuntimeError: Another process is gone.
    """
    gpu = device.type == "cuda"
    try:
        choose_interface(store, launch)
        # Who waits in a store keeps all others from this connection with it: the watch needs one of its own.
        own_store = store.clone()  # type: ignore[attr-defined]
        # Of NCCL no note is taken: its threads abort the process when a connection ends.
        with contextlib.nullcontext() if gpu else connections.being_made():
            dist.init_process_group(
                "nccl" if gpu else "gloo",
                store=PrefixStore("group", own_store),
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=timeout,
                device_id=device if gpu else None,
            )
        group: dist.ProcessGroup | None = dist.group.WORLD
        if gpu:
            with connections.being_made():
                group = dist.new_group(backend="gloo", timeout=timeout)
        return group
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, MdlError) or is_peer_loss(error):
            raise
        address = with_port(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])
        raise why_not_joined(error, launch, address) from error


def _require_one_kind(store: Store, launch: Launch, device: torch.device) -> None:
    """Refuse hosts of which some compute on GPUs and others don't: each would wait for a group of its own.

    Raises:
        SettingsError: On every process; the message names one of each kind.
    """
    store.set(f"device/{device.type}", launch.name)
    store.add("device", 1)
    until = time.monotonic() + JOIN_TIMEOUT.total_seconds()
    while store.add("device", 0) < launch.world_size and time.monotonic() < until:
        time.sleep(0.02)
    found = {
        kind: store.get(f"device/{kind}").decode()
        for kind in ("cuda", "cpu")
        if store.check([f"device/{kind}"])
    }
    store.add("device/seen", 1)
    if len(found) == 1:
        return
    until = time.monotonic() + 5.0
    while launch.rank == 0 and store.add("device/seen", 0) < launch.world_size and time.monotonic() < until:
        time.sleep(0.02)  # without torchrun's agent the store ends with rank 0
    raise SettingsError(
        [
            f"{found['cuda']} computes on a GPU and {found['cpu']} on the CPU: all processes of a run need "
            "the same kind of device. Look at nvidia-smi there, or hide the GPUs of all hosts "
            "(CUDA_VISIBLE_DEVICES='')"
        ]
    )


def _register_with_accelerate(device: torch.device) -> None:
    """Let accelerate take over the group, because its trackers write on the main process alone."""
    # Sharding is ours: with these, PartialState would start DeepSpeed or change the group's backends.
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        os.environ.pop(name, None)
    # Else PartialState would choose a number of threads, with a warning, from a count that may be unknown.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    from accelerate import PartialState

    PartialState(cpu=device.type == "cpu")
