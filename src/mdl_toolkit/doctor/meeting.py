"""The processes of a launch meet for the doctor: in the launcher's store, each wait within a time limit.

No process group is needed for that: who can't talk to whom is to be found out before one is trusted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from mdl_toolkit.distributed.hosts import host_name, shown_ranks
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.rendezvous import agree_on_start, open_store
from mdl_toolkit.errors import MdlError

#: Seconds between two looks into the store, and for each process that looks: one server answers them all.
_POLL, _POLL_PER_PROCESS = 0.05, 0.001


@dataclass(frozen=True)
class Meeting:
    """What the processes of a launch tell each other.

    Attributes:
        launch: The ranks of this process.
        store: The part of the launcher's store that belongs to this start.
    """

    launch: Launch
    store: Store

    def say(self, topic: str, value: Any) -> None:
        """Tell rank 0 something."""
        self.store.set(f"{topic}/{self.launch.rank}", json.dumps(value))

    def gather(self, topic: str, seconds: float) -> dict[int, Any]:
        """What the processes have said, by rank; those that say nothing within the time are left out."""
        until = time.monotonic() + seconds
        missing = set(range(self.launch.world_size))
        found: dict[int, Any] = {}
        while missing:
            for rank in [rank for rank in sorted(missing) if self.store.check([f"{topic}/{rank}"])]:
                found[rank] = json.loads(self.store.get(f"{topic}/{rank}"))
                missing.remove(rank)
            if missing and time.monotonic() > until:
                break
            time.sleep(_POLL if missing else 0.0)
        return dict(sorted(found.items()))

    def announce(self, topic: str, value: Any) -> Any:
        """On rank 0: tell all others something."""
        self.store.set(topic, json.dumps(value))
        return value

    def hear(self, topic: str, seconds: float) -> Any:
        """What rank 0 has announced.

        Raises:
            MdlError: It didn't within the time.
        """
        until = time.monotonic() + seconds
        while not self.store.check([topic]):
            if time.monotonic() > until:
                raise MdlError(f"rank 0 said nothing for {seconds:.0f} s")
            time.sleep(max(_POLL, _POLL_PER_PROCESS * self.launch.world_size))
        return json.loads(self.store.get(topic))


def meet(launch: Launch, seconds: float, waiting: Callable[[int], None]) -> Meeting:
    """Wait for the other processes.

    Raises:
        MdlError: They, or the place where they meet, could not be reached in time. It says which came.
    """
    limit = timedelta(seconds=seconds)
    came: Store | None = None
    try:
        store = open_store(launch, waiting, limit)
        came = PrefixStore("doctor", store)
        came.set(f"here/{launch.rank}", host_name())
        start = agree_on_start(store, launch, limit, waiting)
    except (RuntimeError, ValueError, OSError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        missing = _missing(came, launch) if launch.rank == 0 and came is not None else ""
        raise MdlError(f"{cause}{missing}") from None
    return Meeting(launch, start)


def _missing(came: Store, launch: Launch) -> str:
    """Which processes have not come, as far as the store can still be asked."""
    try:
        absent = [rank for rank in range(launch.world_size) if not came.check([f"here/{rank}"])]
    except RuntimeError:
        return ""
    return f"; {shown_ranks(absent)} did not come" if absent else ""


def host_identity() -> str:
    """What two processes of one host, and of no two, have in common; containers are hosts of their own."""
    parts = [host_name()]
    for place in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/net"):
        try:
            path = Path(place)
            parts.append(str(path.readlink()) if path.is_symlink() else path.read_text(encoding="ascii"))
        except OSError:
            continue
    return " ".join(part.strip() for part in parts)
