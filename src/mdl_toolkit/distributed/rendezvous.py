"""The meeting of a run's processes at one start, kept apart from the starts before it.

torchrun restarts processes with the key-value store that they had before (seen in torch 2.13), where keys of
those that are gone still stand: the addresses of their sockets, and the failure that ended them. Nor can a
process tell by itself which start it belongs to: of several machines, only the one that lost a process counts
the restart (``TORCHELASTIC_RESTART_COUNT``). So the processes agree on a name for this start first.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

_PAUSE = 0.02


def meet(
    store: Store,
    rank: int,
    world_size: int,
    timeout: timedelta,
    waiting: Callable[[int], None] = lambda missing: None,
) -> tuple[Store, bool]:
    """Wait for the other processes of this start.

    Rank 0 thinks of a name. Each other process says hello with a word that no one used before, and is
    answered with the name; hellos of processes that are gone are answered as well, and no one reads that.
    All waiting is done here, in Python, where a signal is heard.

    Args:
        store: The launcher's.
        rank: Of this process.
        world_size: Number of processes.
        timeout: How long to wait for all.
        waiting: Called again and again with the number of processes that have not come, as far as is known.

    Returns:
        A part of the store that belongs to this start alone, and whether another start of the same launch
        came before it.

    Raises:
        RuntimeError: Not all came in time, or the store can't be reached.
    """
    if rank == 0:
        name, earlier = uuid.uuid4().hex, store.add("starts", 1) - 1
        store.set(f"{name}/restart", "yes" if earlier else "no")
        _welcome(store, name, world_size, timeout, waiting)
        store.set(f"{name}/all", "here")
    else:
        word = uuid.uuid4().hex
        store.set(f"hello/{store.add('hellos', 1)}", word)
        _wait_for(store, f"welcome/{word}", timeout, waiting, missing=1)
        name = store.get(f"welcome/{word}").decode()
        here = store.add(f"{name}/here", 1) + 1
        _wait_for(store, f"{name}/all", timeout, waiting, missing=world_size - here)
    return PrefixStore(name, store), store.get(f"{name}/restart") == b"yes"


def _wait_for(
    store: Store, key: str, timeout: timedelta, waiting: Callable[[int], None], missing: int
) -> None:
    until = time.monotonic() + timeout.total_seconds()
    while not store.check([key]):
        if time.monotonic() > until:
            raise RuntimeError(f"rank 0 did not answer within {timeout.total_seconds():.0f} s")
        waiting(max(1, missing))
        time.sleep(_PAUSE)


def _welcome(
    store: Store, name: str, world_size: int, timeout: timedelta, waiting: Callable[[int], None]
) -> None:
    until = time.monotonic() + timeout.total_seconds()
    heard, expected = 0, set[int]()
    while (here := store.add(f"{name}/here", 0) + 1) < world_size:
        known = store.add("hellos", 0)
        expected |= set(range(heard + 1, known + 1))
        heard = known
        # A hello's number is there a moment before its word, and without it if the process was killed then.
        for number in [number for number in expected if store.check([f"hello/{number}"])]:
            store.set(f"welcome/{store.get(f'hello/{number}').decode()}", name)
            expected.remove(number)
        if time.monotonic() > until:
            raise RuntimeError(
                f"{here} of {world_size} processes came within {timeout.total_seconds():.0f} s"
            )
        waiting(world_size - here)
        time.sleep(_PAUSE)
