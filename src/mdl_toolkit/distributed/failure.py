"""The failure of one process ends the whole run at once, and its cause is the last thing printed.

A process that is lost without a word is missed by the others (``peers/``), and that ends the run too.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import torch
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from mdl_toolkit.compat.torch_gloo import GlooConnections
from mdl_toolkit.distributed.hosts import host_name
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.peers.launcher import Launcher
from mdl_toolkit.distributed.peers.reports import GRACE, Failure, Reports
from mdl_toolkit.distributed.peers.silence import Loss
from mdl_toolkit.distributed.peers.troubles import Trouble, first_line, is_peer_loss, trouble_of
from mdl_toolkit.distributed.peers.watch import Exchange, Peers
from mdl_toolkit.errors import (
    HostsDisagreeError,
    MdlError,
    PeerLostError,
    ReplicasDifferError,
    Stopped,
    shortage,
)
from mdl_toolkit.terminal.ending import end_process
from mdl_toolkit.terminal.interrupts import Interrupted, current, interrupted_anew, stop_code, stop_line
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger
from mdl_toolkit.terminal.torchrun import head_start, let_cause_end_first, report_failure

logger = get_logger(__name__)

#: Seconds between two looks at whether another process has failed.
INTERVAL = 1.0
#: Seconds that a process gets to come to an exchange, where it is freed, once another one is lost; and that
#: the others then wait at most for rank 0, which may be writing a large checkpoint to a slow disk.
REACH, LINGER = 60.0, 600.0
#: How many looks in a row may fail before the store counts as lost.
_MISSES = 5


class FailureWatch:
    """Reports a failure of this process to the others, and ends this process when another one has failed.

    A process that waits in a collective for one that is gone notices nothing for half an hour, and hears no
    signal either. So threads watch the group's store, the signs of life of the others and the launcher, and
    can end the process.

    Args:
        store: The store of the group.
        launch: The launch.
        connections: The connections of the group, to be shut down when a process is lost.

    Attributes:
        started: Whether this process has been in a group.
        peers: The other processes; ``None`` until :meth:`watch_peers`.
        left: What is left of the run's work when a process is lost; it ends the message.
    """

    started = False

    def __init__(self, store: Store, launch: Launch, connections: GlooConnections | None = None) -> None:
        self.launch, self.left = launch, ""
        self.peers: Peers | None = None
        self._reports = Reports(PrefixStore("mdl-toolkit", store), launch)
        self._connections = connections or GlooConnections()
        self._ended, self._caught = threading.Event(), threading.Event()
        self._said = threading.Lock()
        self._launcher = Launcher()
        self._held = 0
        self._thread = threading.Thread(target=self._watch, name="failure-watch", daemon=True)

    @property
    def node(self) -> int:
        """The number of this process's machine."""
        return self.launch.node

    def start(self) -> None:
        """Start watching."""
        FailureWatch.started = True
        self._thread.start()
        threading.Thread(target=self._watch_launcher, name="launcher-watch", daemon=True).start()

    def watch_peers(self, ranks: Exchange, timeout: float) -> None:
        """Watch the signs of life of the others; every process calls it at the same point.

        Args:
            ranks: The processes.
            timeout: Seconds of silence after which a process is given up.
        """
        self.peers = Peers(ranks, self.launch, timeout, self._end_after_loss)

    def stop(self) -> None:
        """Stop watching; to be called when every process is known to be done."""
        self._ended.set()
        if self.peers is not None:
            self.peers.end()
        self._thread.join(INTERVAL + 1)

    def report(self, code: int, message: str) -> Failure | None:
        """Report to the others why this process failed.

        Returns:
            The failure of the process that failed first, if that isn't this one.
        """
        return self._reports.report(code, message, self._lost())

    def first(self, patience: float) -> Failure | None:
        """The first failure that a process has reported, after waiting for one up to ``patience`` seconds."""
        return self._reports.first(patience, self._lost())

    def _lost(self) -> Loss | None:
        return self.peers.loss if self.peers is not None else None

    def let_cause_end_first(self, at_most: float = math.inf) -> None:
        """Let the launcher see the process with the cause end before this one; not where it is gone.

        Args:
            at_most: Seconds after which it waits no longer.
        """
        if not self._launcher.is_gone:
            let_cause_end_first(at_most)

    def print_remote(self, failure: Failure) -> None:
        """Print the failure of another machine, once on this one; on its own it is printed already."""
        if failure.node != self.node and self.speaks and self._said.acquire(blocking=False):
            logger.error(failure.message, extra=EVERYWHERE)

    @property
    def speaks(self) -> bool:
        """Whether this process prints what concerns its whole machine."""
        return self.peers.speaks() if self.peers is not None else self.launch.local_rank == 0

    def is_loss(self, error: BaseException) -> bool:
        """Whether an error of this process only means that another one is lost."""
        if isinstance(error, KeyboardInterrupt) and error.__context__ is not None:
            # A launcher that has seen another process end tells this one to stop, which it is about to do.
            error = error.__context__
        known = self.peers is not None and self.peers.loss is not None
        return (
            isinstance(error, PeerLostError) or is_peer_loss(error) or (known and type(error) is RuntimeError)
        )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within the block this process is saving: the loss of another one doesn't end it."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def caught(self) -> Failure | None:
        """Find out what a lost peer was lost for.

        Returns:
            The failure that a process has reported; ``None`` where none has, and this process is to say
            itself what it knows. Processes other than rank 0 wait until that one has saved.
        """
        self._caught.set()
        until = time.monotonic() + GRACE
        while (failure := self.first(0.0)) is None and time.monotonic() < until:
            if self.peers is None or self.peers.loss_within(0.1) is not None:
                break
        loss = self.peers.loss if self.peers is not None else None
        if failure is None and self.peers is not None and loss is not None and 0 not in loss.ranks:
            self.peers.wait_for_main(LINGER)
        return failure or self.first(0.5)

    def loss_cause(self, error: BaseException | None) -> tuple[str, int]:
        """The line for a lost peer, as far as this process knows about it, and the exit code."""
        return f"{self._loss(error)}{self.left}", PeerLostError.exit_code

    def _loss(self, error: BaseException | None) -> str:
        if self.peers is not None and self.peers.loss is not None:
            return self.peers.message()
        own = self.launch.name
        detail = f" ({first_line(error)})" if error is not None else ""
        if error is not None and trouble_of(error) is Trouble.UNREACHABLE:
            return (
                f"{own}: another process of the run can't be reached: is its host up, and the network "
                f"between them?{detail}"
            )
        if self.peers is not None and self.peers.hears:
            return (
                f"{own}: a connection to another process of the run was closed, and that process is alive: "
                f"does a firewall end connections?{detail}"
            )
        return (
            f"{own}: another process of the run ended without an error message; it may have been killed, "
            f"by the machine's out-of-memory killer for example{detail}"
        )

    def _end_after_loss(self, loss: Loss) -> None:
        """Free the main thread from its collective; end the process where it doesn't end itself."""
        if loss.gone and self.first(INTERVAL) is not None:
            return  # it has said why, and that ends this process
        freed = self._connections.shut_down(int(os.environ["MASTER_PORT"]))
        until = time.monotonic() + (REACH if freed and not torch.cuda.is_available() else GRACE)
        while time.monotonic() < until:
            if self._held:
                until = max(until, time.monotonic() + GRACE)
            if self._ended.wait(0.1) or self._caught.is_set():
                return
        cause, code = self.loss_cause(None)
        report_failure(cause, code, follows=True)
        if self.speaks:
            logger.error(cause, extra=EVERYWHERE)
        end_process(code, exit_functions=False)

    def _watch(self) -> None:
        misses = 0
        while not self._ended.wait(INTERVAL):
            if self._launcher.is_gone or self._reports.silent:
                return  # the store has gone with it
            try:
                failed, misses = self._reports.are_there(), 0
            except RuntimeError:
                failed, misses = False, misses + 1
                if self.peers is not None and self.peers.hears:
                    # It has gone with the launcher of another host. The processes still hear each other, and
                    # each further attempt would print a stack of C++.
                    self._reports.silent = True
                    return
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
        while self._held:
            time.sleep(0.1)
        if failure is None:
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            failure = Failure(
                -1,
                -1,
                PeerLostError.exit_code,
                f"{self.launch.name}: nothing answers any more at {where}, where the processes of the run "
                "meet: rank 0's launcher has ended, or its host can't be reached",
            )
        report_failure(failure.message, failure.code, follows=True)
        self.print_remote(failure)
        end_process(failure.code, exit_functions=False)

    def _watch_launcher(self) -> None:
        """Ask this process to stop, as a signal does, when its launcher alone was killed."""
        while not self._ended.wait(INTERVAL):
            if self._launcher.is_gone:
                if self.launch.local_rank == 0:
                    logger.warning(
                        f"host {host_name()}: the launcher of this run is gone; its processes save and "
                        "stop, as after SIGTERM",
                        extra=EVERYWHERE,
                    )
                os.kill(os.getpid(), signal.SIGTERM)
                return


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
                watch.let_cause_end_first(
                    GRACE
                )  # a torchrun that was told to stop itself sends no further signal
        raise SystemExit(stopped.exit_code) from None
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        when, lost = time.time(), watch.is_loss(error)
        with _undisturbed() if lost else contextlib.nullcontext():
            first = watch.caught() if lost else None
        cause, code = watch.loss_cause(error) if lost else _cause(error, watch.launch.name)
        if first is None:
            first = watch.report(code, cause)
        if first is not None:
            report_failure(first.message, first.code, follows=True)
            watch.print_remote(first)
            if first.node == watch.node:
                watch.let_cause_end_first()
            _end_for_sure(first.code)
            raise SystemExit(first.code) from None
        report_failure(cause, code, follows=lost, when=when)  # one that is gone was earlier
        _end_for_sure(code)
        told = _with_cause(error, cause) if not lost else PeerLostError(cause)
        if told is error:
            raise
        raise (told if not lost or watch.speaks else SystemExit(code)) from None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Within the block a first signal does nothing: this process is ending already."""
    listener = current()
    with listener.answered_by(lambda _: None) if listener is not None else contextlib.nullcontext():
        yield


def _with_cause(error: BaseException, cause: str) -> BaseException:
    """The error to end with: the same one, but for those whose own words say nothing to a person."""
    if trouble_of(error) is Trouble.DISAGREE:
        return HostsDisagreeError([cause])
    if isinstance(error, MdlError):
        error.args = (cause,)
    return error


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
    if trouble_of(error) is Trouble.DISAGREE:
        return (
            f"{name}: the processes of the run disagree about what they exchange: were all started with the "
            f"same options, data and versions? ({first_line(error)})"
        ), HostsDisagreeError.exit_code
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        return f"{name}: {stop_line(number)}", stop_code(number)
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        return f"{name}: left with exit code {error.code}", code
    if isinstance(error, HostsDisagreeError | ReplicasDifferError):  # every process finds it
        return str(error), error.exit_code
    if isinstance(error, MdlError):
        text = str(error)  # what keeps a process from joining is said with its name
        return text if text.startswith(f"{name}: ") else f"{name}: {text}", error.exit_code
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
