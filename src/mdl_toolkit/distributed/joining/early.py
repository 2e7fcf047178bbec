"""A process that ends before it has joined the others says so to those who wait for it.

It may have been given a wrong option, miss its data, or be stopped while it converts. Where all processes
are on one host, torchrun ends the others when it sees that one has failed. Elsewhere nobody would: they would
wait for a process that doesn't come. So it leaves a notice in the launch's store (``notices.py``). Only then
torch is imported here.
"""

from __future__ import annotations

import os
import signal as signals
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from mdl_toolkit.distributed.environment import ProcessRank, is_started_by_torchrun, process_rank
from mdl_toolkit.errors import MdlError
from mdl_toolkit.terminal.interrupts import Interrupted, stop_code

#: How long a process that ends waits for the store to be there and for the others to hear of it, together:
#: they may still be importing torch. A process that a signal has stopped has less time.
PATIENCE_SECONDS, _PATIENCE_AFTER_SIGNAL = 15.0, 5.0

_state = {"joins": False}


def begin_joining() -> None:
    """From now on the others are told of this process's end by what joins them (``meeting.py``)."""
    _state["joins"] = True


def has_begun_joining() -> bool:
    """Whether :func:`begin_joining` was called."""
    return _state["joins"]


@contextmanager
def told_to_others() -> Iterator[None]:
    """Within the block this process gets ready to join others, maybe again; if that fails, they are told."""
    _state["joins"] = False
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        tell_others(error)
        raise


def code_of(error: BaseException) -> int:
    """The exit code of a command that an error ends."""
    if isinstance(error, KeyboardInterrupt):
        return stop_code(error.number if isinstance(error, Interrupted) else signals.SIGINT)
    return error.exit_code if isinstance(error, MdlError) else 1


def tell_others(error: BaseException, *, across_hosts: bool = False) -> None:
    """Tell the processes that wait for this one why it doesn't come. A signal ends the telling.

    Does nothing where this process is alone, has begun to join, or its launcher ends the others.

    Args:
        error: What ends this process.
        across_hosts: Whether processes only wait for each other where they are on several hosts.
    """
    if has_begun_joining():
        return
    signal = isinstance(error, KeyboardInterrupt)
    with suppress(Exception, KeyboardInterrupt):  # nothing here may hide what ends this process
        process = process_rank()
        if across_hosts and process.nodes == 1:
            return
        if is_to_tell(process, signal=signal) and not _torch_is_half_loaded():
            begin_joining()
            cause = str(error) if isinstance(error, MdlError) else f"{type(error).__name__}: {error}"
            if signal:
                cause = str(error) or "stopped by SIGINT"
            _tell(process, cause, code_of(error), signal)


def is_to_tell(process: ProcessRank, *, signal: bool) -> bool:
    """Whether the others would wait for this process in vain if it ended without a word.

    Args:
        process: This process.
        signal: Whether a signal ends it. torchrun passes signals on to all processes of its host: one tells.
    """
    if process.world_size == 1 or not is_started_by_torchrun():
        return process.world_size > 1
    if process.local_world_size == process.world_size:
        return False
    if signal:
        return process.local_rank == 0
    # If torchrun starts its processes again, it ends this attempt on all hosts.
    count, last = (os.environ.get(f"TORCHELASTIC_{name}") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return count == last


def _torch_is_half_loaded() -> bool:
    """Whether importing torch was broken off, by a signal for example: it can't be imported again then."""
    return "torch" not in sys.modules and any(name.startswith("torch.") for name in sys.modules)


def _tell(process: ProcessRank, cause: str, code: int, signal: bool) -> None:
    from mdl_toolkit.compat.torchrun import agent_serves_store
    from mdl_toolkit.distributed.joining.notices import Notices, notice_of
    from mdl_toolkit.distributed.rendezvous import export_address, open_store, serves_here

    patience = _PATIENCE_AFTER_SIGNAL if signal else PATIENCE_SECONDS
    until = time.monotonic() + patience
    with suppress(MdlError, RuntimeError, ValueError, OSError):  # it can't be reached: nobody waits there
        export_address(process)
        store = open_store(process, lambda _: None, timedelta(seconds=patience))
        notices = Notices(store, agent_serves_store())
        number = notices.leave(notice_of(process, cause, code, signal))
        if number is not None and serves_here(process):
            # torchrun ends those on this host.
            here = process.local_world_size if is_started_by_torchrun() else 1
            notices.wait_until_heard(number, process.world_size - here, until)
