"""A signal to one process reaches all processes of a run, whatever they are doing.

The processes agree to stop at each step and at each batch of an evaluation. Elsewhere one of them may work on
while the one that was told waits in a collective, where it hears no signal: while the model is loaded, a slow
row is read, or ``final/`` is written. So a thread of the process that was told puts the signal into the
group's store, and a thread of each other process sends it to its own process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from mdl_toolkit.terminal.interrupts import Listener, current

_SIGNAL = "signal"
#: Seconds between two looks.
INTERVAL = 1.0
#: Seconds after which a process passes its signal on if it is still at work. A launcher that has seen another
#: process end sends one, too, and this process is about to end for the same cause then.
PATIENCE = 3.0


@contextlib.contextmanager
def stops_passed_on(store: Store) -> Iterator[None]:
    """Within the block, pass on the first signal of this process, and hear that of another one.

    Args:
        store: The store of the group.
    """
    ended, listener = threading.Event(), current()
    if listener is not None:
        watched = PrefixStore("stops", store)
        thread = threading.Thread(
            target=_watch, args=(watched, listener, ended), name="stop-watch", daemon=True
        )
        thread.start()
    try:
        yield
    finally:
        ended.set()  # the thread isn't waited for: the store may be out of reach


def _watch(store: Store, listener: Listener, ended: threading.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the store is gone, and its loss is noticed elsewhere
        while not ended.wait(INTERVAL):
            if (number := listener.asked) is not None:
                if not ended.wait(PATIENCE):
                    store.set(_SIGNAL, str(number))
                return
            if store.check([_SIGNAL]) and not ended.is_set():
                listener.hear(int(store.get(_SIGNAL)))
                return
