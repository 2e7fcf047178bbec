"""One process of a run that talks, fails or stops: ``python peers.py WHAT [RANK]``."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import torch

from mdl_toolkit.distributed import group
from mdl_toolkit.distributed.failure import leave_group
from mdl_toolkit.distributed.group import joined
from mdl_toolkit.distributed.launch import read_launch
from mdl_toolkit.errors import DataError, MdlError, Stopped
from mdl_toolkit.terminal.console import messages_on_console


def talk(ranks: Any) -> None:
    assert ranks.sum([1.0, ranks.rank]) == [ranks.world_size, ranks.world_size - 1]
    assert ranks.max([ranks.rank, -ranks.rank]) == [ranks.world_size - 1, 0]
    assert ranks.any(ranks.rank == 1) and not ranks.any(False)
    assert ranks.broadcast_object({"rank": ranks.rank}) == {"rank": 0}
    assert ranks.gather_objects(f"r{ranks.rank}") == [f"r{rank}" for rank in range(ranks.world_size)]
    from accelerate import PartialState

    state = PartialState()
    assert state.num_processes == ranks.world_size and state.process_index == ranks.rank
    assert state.is_main_process == ranks.is_main


def fail(ranks: Any, chosen: int) -> None:
    if ranks.rank == chosen:
        raise DataError("train.csv row 17 (a.wav): is empty")


def frees_itself() -> None:
    """Wait in a collective that rank 1 never comes to, and be freed by a thread."""
    import threading

    import torch.distributed as dist
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from mdl_toolkit.compat.torch_gloo import GlooConnections
    from mdl_toolkit.distributed.peers.troubles import trouble_of

    launch, connections = read_launch(), GlooConnections()
    port = int(os.environ["MASTER_PORT"])
    store = TCPStore("127.0.0.1", port, 2, launch.rank == 0)
    with connections.being_made():
        dist.init_process_group("gloo", store=store, rank=launch.rank, world_size=2)
    dist.barrier()
    if launch.rank == 1:
        store.wait(["freed"])
        os._exit(0)
    threading.Timer(1.0, connections.shut_down, (port,)).start()
    try:
        dist.barrier()
    except RuntimeError as error:
        trouble = trouble_of(error)
        assert trouble is not None, error
        store.set("freed", "yes")
        print(f"freed: {trouble.name}, the store answers", flush=True)
        os._exit(0)


def main(what: str, chosen: int) -> None:
    if what == "a GPU on one" and os.environ["RANK"] == str(chosen):
        group.choose_device = lambda launch: torch.device("cuda", 0)
    if what == "frees itself":
        frees_itself()
    with joined(read_launch()) as ranks:
        ranks.barrier()
        if what == "talk":
            talk(ranks)
        elif what == "fail":
            fail(ranks, chosen)
            ranks.barrier()
        elif what == "fail while another is busy":
            fail(ranks, chosen)
            time.sleep(600)
        elif what == "all fail":
            fail(ranks, ranks.rank)
        elif what == "bug":
            assert ranks.rank != chosen, "something is wrong here"
            ranks.barrier()
        elif what == "killed":
            if ranks.rank == chosen:
                os.kill(os.getpid(), signal.SIGKILL)
            ranks.barrier()
        elif what == "stop":
            raise Stopped(signal.SIGTERM, "stopped at step 3")
    print("done")


if __name__ == "__main__":
    try:
        with messages_on_console():
            main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    except MdlError as error:  # as the command line does
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        leave_group()
