"""A sum over all processes of a launch, as a training step makes it, within a time limit."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from mdl_toolkit.distributed.launch import Launch

#: How long it may take in all.
SECONDS = 60.0
_COUNT, _ROUNDS = 1 << 20, 5


def exchange(store: Store, launch: Launch) -> dict[str, Any]:
    """Join a group over Gloo or NCCL, sum 4 MiB a few times, and leave it.

    Returns:
        ``backend``, ``milliseconds`` of one sum, and ``fault``, which is empty where all is well.
    """
    from mdl_toolkit.distributed.failure import FailureWatch
    from mdl_toolkit.distributed.group import choose_device

    said: dict[str, Any] = {"backend": "", "milliseconds": 0.0, "fault": "no answer"}
    # A group that is left in the middle of something may end the process in the interpreter's clearing up.
    FailureWatch.started = True
    # Else NCCL ends the process, with a report of its own, when the time is over.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")

    def work() -> None:
        try:
            device = choose_device(launch)
            said["backend"] = "nccl" if device.type == "cuda" else "gloo"
            said["milliseconds"] = _sum(store, launch, device, said["backend"])
            said["fault"] = ""
        except Exception as error:  # every library's own; it is told as a finding
            said["fault"] = (str(error).splitlines() or [type(error).__name__])[0]

    thread = threading.Thread(target=work, name="doctor-exchange", daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        said["fault"] = f"not finished within {SECONDS:.0f} s"
    return dict(said)


def _sum(store: Store, launch: Launch, device: Any, backend: str) -> float:
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=timedelta(seconds=SECONDS / 2),
        device_id=device if backend == "nccl" else None,
    )
    try:
        numbers = torch.zeros(_COUNT, device=device)
        start = 0.0
        for turn in range(_ROUNDS + 1):  # the first one opens the connections
            if turn == 1:
                start = time.monotonic()
            numbers.fill_(1.0)
            dist.all_reduce(numbers)
            if float(numbers[-1]) != launch.world_size:
                raise RuntimeError(f"a sum over {launch.world_size} processes gave {float(numbers[-1]):g}")
        return (time.monotonic() - start) * 1000 / _ROUNDS
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
