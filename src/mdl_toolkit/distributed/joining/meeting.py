"""The processes of a run meet: each waits for all others, and hears of those that have ended instead."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from torch.distributed import Store  # type: ignore[attr-defined]

from mdl_toolkit.compat.torchrun import agent_serves_store
from mdl_toolkit.distributed.environment import ProcessRank
from mdl_toolkit.distributed.hosts import host_name
from mdl_toolkit.distributed.joining.early import PATIENCE_SECONDS, begin_joining, code_of, is_to_tell
from mdl_toolkit.distributed.joining.notices import Notices, OtherEnded, notice_of
from mdl_toolkit.distributed.joining.roster import roster
from mdl_toolkit.distributed.peers.troubles import Trouble, trouble_of
from mdl_toolkit.distributed.rendezvous import (
    JOIN_TIMEOUT,
    NotComeError,
    Waiting,
    agree_on_start,
    ids_of_launch,
    open_store,
    ready_processes,
    serves_here,
)
from mdl_toolkit.distributed.waiting import WaitingMessage
from mdl_toolkit.errors import MdlError, PeerLostError, SettingsError
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger
from mdl_toolkit.terminal.torchrun import let_cause_end_first, report_failure

logger = get_logger(__name__)

#: How long a process at whose end the store goes waits until all have heard of what ends it, where that is
#: not its own failure.
_HEAR_SECONDS = 5.0


def meet(
    launch: ProcessRank, message: WaitingMessage, waiting: Waiting, problem: MdlError | None = None
) -> tuple[Store, Sequence[str]]:
    """Wait for all processes of the run; whatever ends the waiting of this one is told to the others.

    Args:
        launch: The ranks of this process.
        message: What says now and then who is missing.
        waiting: Called while waiting, with the number of processes that are missing.
        problem: Why this process can't take part; the others are told, and it is raised.

    Returns:
        The store of this start, and what this process knows its launch by (``ids_of_launch``).

    Raises:
        OtherEnded: Another process has ended before it joined.
        MdlError: The problem; or the others did not come.
    """
    store = open_store(launch, waiting)
    notices = Notices(store, agent_serves_store())
    message.others = lambda: _missing(ready_processes(store), launch.world_size)

    def wait(missing: int) -> None:
        notices.raise_first()
        waiting(missing)

    try:
        if problem is not None and launch.node > 0:
            raise problem
        launch_ids = ids_of_launch(launch, store)
        # Where rank 0 is on this host it has most likely found the same, and speaks for both.
        start = agree_on_start(store, launch, JOIN_TIMEOUT, wait, problem=problem)
    except OtherEnded as ended:
        if serves_here(launch):  # the store may go with this process
            there = set(ready_processes(store)) - {ended.notice.rank}
            notices.wait_until_heard(ended.number, len(there), time.monotonic() + _HEAR_SECONDS)
        raise
    except BaseException as error:
        named = _with_name(error, store, launch)
        _tell(notices, store, launch, named)
        raise named from None
    if launch.rank == 0:
        notices.forget()
    return start, launch_ids


@contextmanager
def meeting(launch: ProcessRank, address: str) -> Iterator[None]:
    """Within the block this process meets the others; what goes wrong there is said in a line.

    Args:
        launch: The ranks of this process.
        address: Where they meet.

    Raises:
        MdlError: They could not be met.
        SystemExit: Another process has ended before it joined; the cause is printed.
    """
    begin_joining()
    try:
        yield
    except OtherEnded as ended:
        _end_as(ended)
    except MdlError as error:
        report_failure(str(error), error.exit_code)
        raise
    except (RuntimeError, ValueError, OSError) as error:
        failure = why_not_joined(error, launch, address)
        report_failure(str(failure), failure.exit_code)
        raise failure from error


def why_not_joined(error: Exception, launch: ProcessRank, address: str) -> MdlError:
    """The error for what torch or the system says where a process can't join.

    Args:
        error: What they say.
        launch: The ranks of this process.
        address: Where the processes meet.
    """
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    said = f"{cause} {type(error).__name__}".lower()
    port = os.environ.get("MASTER_PORT")
    if launch.rank == 0 and "eaddrinuse" in said:
        return SettingsError(
            [
                f"MASTER_PORT={port}: another program listens there, perhaps another run; give all processes "
                "of this one a free port"
            ]
        )
    if launch.rank == 0 and ("eacces" in said or "permission denied" in said):
        return SettingsError(
            [f"MASTER_PORT={port}: this user may not listen there ({cause}); give a port above 1023"]
        )
    what = f"{launch.name}: could not join the other processes of the run"
    if trouble_of(error) is Trouble.GONE:
        return PeerLostError(
            f"{what}: the store at {address} was there and is gone: rank 0 or its launcher has ended "
            f"meanwhile; what it printed says why ({cause})"
        )
    if isinstance(error, OSError):
        return MdlError(
            f"{what}: nothing answers at {address} ({cause}). Check that rank 0 is started there, that "
            "MASTER_ADDR and MASTER_PORT are the same on all hosts, and that no firewall closes the port"
        )
    return MdlError(
        f"{what} at {address}: {cause}. Check that no other program listens there, and that all processes "
        "have the same version of torch"
    )


def _missing(ready: dict[int, str], world_size: int) -> str:
    return f"{world_size - len(ready)} of {world_size} processes ({roster(ready, world_size)})"


def _with_name(error: BaseException, store: Store, launch: ProcessRank) -> BaseException:
    """An error of the waiting, with the name of this process, and who is missing where they did not come."""
    if isinstance(error, NotComeError):
        who = f"{error}"
        with suppress(RuntimeError):
            who += f": {roster(ready_processes(store), launch.world_size)}"
        error.args = (
            f"{launch.name}: could not join the other processes of the run: {who}. What the missing ones "
            "have printed says more; start all of them within that time",
        )
    elif isinstance(error, MdlError):
        error.args = (f"{launch.name}: {error}",)
    return error


def _tell(notices: Notices, store: Store, launch: ProcessRank, error: BaseException) -> None:
    signal = isinstance(error, KeyboardInterrupt)
    if signal and not is_to_tell(launch, signal=True):
        return
    with suppress(RuntimeError, KeyboardInterrupt):
        number = notices.leave(notice_of(launch, str(error) or type(error).__name__, code_of(error), signal))
        if number is not None and serves_here(launch):
            others, patience = launch.world_size - 1, PATIENCE_SECONDS
            if signal or isinstance(error, NotComeError):  # whoever isn't there yet need not be waited for
                others, patience = len(ready_processes(store)) - 1, _HEAR_SECONDS
            notices.wait_until_heard(number, others, time.monotonic() + patience)


def _end_as(ended: OtherEnded) -> NoReturn:
    """End because of another process: with its cause and its exit code."""
    notice = ended.notice
    report_failure(notice.message, notice.code, follows=True)
    if ended.prints:
        logger.error(notice.message, extra=EVERYWHERE)
    if notice.host == host_name():
        let_cause_end_first()
    raise SystemExit(notice.code) from None
