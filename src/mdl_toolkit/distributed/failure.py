"""The failure of one process ends the whole run at once, and its cause is the last thing printed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from mdl_toolkit.compat.torchrun import agent_serves_store
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import HostsDisagreeError, MdlError, ReplicasDifferError, Stopped, shortage
from mdl_toolkit.terminal.ending import end_process
from mdl_toolkit.terminal.interrupts import Interrupted, interrupted_anew, stop_code, stop_line
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger
from mdl_toolkit.terminal.torchrun import head_start, let_cause_end_first, report_failure

logger = get_logger(__name__)

_CLAIM, _CAUSE, _HEARD = "failure/claim", "failure/cause", "failure/heard"
#: Seconds between two looks at whether another process has failed.
INTERVAL = 1.0
#: Seconds that a process gets to end by itself once another one has failed.
GRACE = 5.0
#: How many looks in a row may fail before the store counts as lost.
_MISSES = 5

# What Gloo, NCCL and the store say when the process at the other end is gone.
_PEER_LOST = (
    "connection closed by peer", "connection reset by peer", "broken pipe", "connection refused",
    "socket timeout", "remote process exited", "ncclremoteerror", "communicator was aborted",
    "failed to recv", "failed to send", "timed out waiting", "application timeout", "nccl operation",
    "sendbytes failed", "recvbytes failed",
)  # fmt: skip


@dataclass(frozen=True)
class Failure:
    """What the first process that failed reports to the others.

    Attributes:
        rank: The rank of the process.
        node: The number of its machine.
        code: Its exit code.
        message: What went wrong.
    """

    rank: int
    node: int
    code: int
    message: str


class FailureWatch:
    """Reports a failure of this process to the others, and ends this process when another one has failed.

    A process that waits in a collective for one that is gone notices nothing for half an hour (NCCL), and
    hears no signal either. So a thread watches the group's store, and can end the process.

    Attributes:
        started: Whether this process has been in a group.
    """

    started = False

    def __init__(self, store: Store, launch: Launch) -> None:
        self.launch = launch
        self._store = PrefixStore("mdl-toolkit", store)
        self._ended = threading.Event()
        self._heard: Failure | None = None
        self._said = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="failure-watch", daemon=True)

    @property
    def node(self) -> int:
        """The number of this process's machine."""
        return self.launch.node

    def start(self) -> None:
        """Start watching."""
        FailureWatch.started = True
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; to be called when every process is known to be done."""
        self._ended.set()
        self._thread.join()

    def report(self, code: int, message: str) -> Failure | None:
        """Report to the others why this process failed.

        Returns:
            The failure of the process that failed first, if that isn't this one.
        """
        failure = Failure(self.launch.rank, self.node, code, message)
        try:
            if self._store.add(_CLAIM, 1) == 1:
                self._store.set(_CAUSE, json.dumps(asdict(failure)))
                self._wait_until_heard()
                return None
        except RuntimeError:
            return self._heard  # the store is gone: every process reports for itself what it knows
        return self.first(5.0) or failure

    def first(self, patience: float) -> Failure | None:
        """The first failure that a process has reported, after waiting for one up to ``patience`` seconds."""
        until = time.monotonic() + patience
        while True:
            try:
                if self._store.check([_CAUSE]):
                    return self._hear()
            except RuntimeError:
                return self._heard
            if time.monotonic() >= until:
                return None
            time.sleep(0.1)

    def _hear(self) -> Failure:
        failure = Failure(**json.loads(self._store.get(_CAUSE)))
        if failure.rank != self.launch.rank and self._heard is None:
            self._heard = failure
            self._store.add(_HEARD, 1)
        return failure

    def _wait_until_heard(self) -> None:
        """Wait until the others have read the report: the store may end with rank 0, or with its launcher."""
        if self.launch.rank != 0 or (agent_serves_store() and self.launch.nodes == 1):
            return
        until = time.monotonic() + GRACE
        while self._store.add(_HEARD, 0) < self.launch.world_size - 1 and time.monotonic() < until:
            time.sleep(0.1)

    def print_remote(self, failure: Failure) -> None:
        """Print the failure of another machine, once on this one; on its own it is printed already."""
        if failure.node != self.node and self.launch.local_rank == 0 and self._said.acquire(blocking=False):
            logger.error(failure.message, extra=EVERYWHERE)

    def _watch(self) -> None:
        misses = 0
        while not self._ended.wait(INTERVAL):
            try:
                failed, misses = self._store.check([_CAUSE]), 0
            except RuntimeError:
                failed, misses = False, misses + 1
            if failed or misses >= _MISSES:
                break
        else:
            return
        failure = self.first(0.0)
        if failure is not None and failure.rank == self.launch.rank:
            return
        patience = head_start() if failure is not None and failure.node == self.node else 0.0
        if self._ended.wait(max(GRACE, patience)):
            return
        if failure is None:
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            failure = Failure(-1, -1, 1, f"{self.launch.name}: lost the run's rendezvous at {where}")
        report_failure(failure.message, failure.code, follows=True)
        self.print_remote(failure)
        end_process(failure.code, exit_functions=False)


@contextlib.contextmanager
def end_together(watch: FailureWatch) -> Iterator[None]:
    """Run the work of one process; its failure ends all processes, and another's failure ends it.

    Raises:
        BaseException: The failure itself, in the process that failed first, which its message names.
        SystemExit: Another process failed first; it has printed the cause.
    """
    rank = watch.launch.rank
    try:
        yield
    except Stopped as stopped:
        watch.stop()  # all processes have agreed to stop: no failure, and one of them says so
        report_failure(str(stopped), stopped.exit_code, follows=rank != 0)
        if rank == 0:
            raise
        if watch.node == 0:
            with interrupted_anew():
                let_cause_end_first(GRACE)  # a torchrun that was told to stop itself sends no further signal
        raise SystemExit(stopped.exit_code) from None
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        when = time.time()
        first = watch.first(5.0) if is_peer_loss(error) else None
        cause, code = _cause(error, watch.launch.name)
        if first is None:
            first = watch.report(code, cause)
        if first is not None:
            report_failure(first.message, first.code, follows=True)
            watch.print_remote(first)
            if first.node == watch.node:
                let_cause_end_first()
            _end_for_sure(first.code)
            raise SystemExit(first.code) from None
        report_failure(cause, code, follows=is_peer_loss(error), when=when)  # one that is gone was earlier
        _end_for_sure(code)
        if is_peer_loss(error):
            raise MdlError(cause) from None
        if isinstance(error, MdlError):
            error.args = (cause,)
        raise


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error only means that another process is gone."""
    if isinstance(error, MdlError) or not isinstance(error, RuntimeError):
        return False
    backend = getattr(dist, "DistError", ())
    text = str(error).lower()
    return isinstance(error, backend) or any(words in text for words in _PEER_LOST)


def leave_group() -> None:
    """End a process that has been in a group, without the interpreter's own clearing up; else do nothing.

    Call it in the ``finally`` of all that the process does: the exception that ends it gives the exit code,
    and a traceback where it is no ``SystemExit``. The reason is in ``terminal/ending.py``.
    """
    if not FailureWatch.started:
        return
    kind, error, traceback = sys.exc_info()
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif kind is not None and error is not None:
        code = 1
        sys.excepthook(kind, error, traceback)
    end_process(code, exit_functions=True)


def _cause(error: BaseException, name: str) -> tuple[str, int]:
    """The line for a failure of the process of this name, and its exit code."""
    if is_peer_loss(error):
        detail = (str(error).splitlines() or [""])[0]
        return (
            f"{name}: another process of the run ended without an error message; it may have been "
            f"killed, by the machine's out-of-memory killer for example ({detail})"
        ), 1
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        return f"{name}: {stop_line(number)}", stop_code(number)
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        return f"{name}: left with exit code {error.code}", code
    if isinstance(error, HostsDisagreeError | ReplicasDifferError):  # every process finds it
        return str(error), error.exit_code
    if isinstance(error, MdlError):
        return f"{name}: {error}", error.exit_code
    return f"{name}: {shortage(error) or f'{type(error).__name__}: {error}'}", 1


def _end_for_sure(code: int) -> None:
    """End the process soon even if the teardown of a broken group hangs."""
    seconds = 20 if torch.cuda.is_available() else 10
    timer = threading.Timer(seconds, end_process, (code,), {"exit_functions": False})
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:
        # There is no memory, or no process id, for another thread. A signal needs neither; only the exit code
        # is the signal's then.
        signal.alarm(seconds)
