"""Child processes of our own, at the end of a socket.

Each is a new interpreter: a fork would inherit other libraries' threads, locks and devices. It ends with its
parent, be that killed, and a parent learns how it ended. A message is an object and raw bytes; no shared
memory and no semaphores are used, for which ``/dev/shm`` may have no room.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<QQ")
_CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from mdl_toolkit.data.child_process import end_with_parent; end_with_parent({parent}); "
    "from {module} import main; main({arguments})"
)
#: The option of prctl(2) by which the kernel signals a process when its parent ends.
_PR_SET_PDEATHSIG = 1


class ChildProcess:
    """A process that runs ``main(socket, *arguments)`` of a module until the socket closes.

    It doesn't get the signals that ask a command to end: those are this process's to act on.

    Args:
        module: The name of the module.
        arguments: What its ``main`` gets after the socket's file descriptor.
        share: File descriptors that the process inherits.

    Raises:
        OSError: The process can't be started.

    Attributes:
        socket: This end of the connection.
        process: The process.
    """

    def __init__(self, module: str, arguments: Sequence[int] = (), share: Sequence[int] = ()) -> None:
        from mdl_toolkit.terminal.interrupts import STOP_SIGNALS  # a child imports this file, and needs none

        ours, theirs = socket.socketpair()
        package = str(Path(__file__).resolve().parents[2])
        path = [package, *(entry for entry in sys.path if isinstance(entry, str) and entry != package)]
        numbers = ", ".join(map(str, (theirs.fileno(), *arguments)))
        code = _CODE.format(path=path, parent=os.getpid(), module=module, arguments=numbers)
        # The processes fill the cores by themselves: threads of BLAS would only be in each other's way.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # a child inherits the mask
        try:
            self.process = subprocess.Popen(  # noqa: S603 -- this interpreter, with code of this package
                [sys.executable, "-S", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *share),
                env=environment,
            )
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.socket = ours

    def how_it_ended(self) -> tuple[str, int | None]:
        """How a process whose socket has closed ended: in words, and its exit code."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "has closed its connection", None
        if code >= 0:
            return f"ended with code {code}", code
        try:
            name = f" ({signal.Signals(-code).name})"
        except ValueError:
            name = ""
        return f"was killed by signal {-code}{name}", code

    def is_stopped(self) -> bool:
        """Whether someone has stopped it (SIGSTOP), so that it neither works nor ends."""
        if not hasattr(os, "waitid"):
            return False
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return False

    def close(self) -> None:
        """End it, whatever it is doing."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads from it
        self.process.kill()
        # A process that waits for a disk that has gone can't be killed yet; the kernel ends it when it can.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        self.socket.close()


def end_with_parent(parent: int) -> None:
    """In the child: be killed with the parent, even while stopped or stuck. On Linux; elsewhere do nothing.

    A child that reads from its socket sees it close, too; this is for one that can't read any more. The
    kernel goes by the thread that has started the child: it must live as long as the child is to live.

    Args:
        parent: The parent's process id. Where it has gone already, this process ends.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def silence_libraries() -> None:
    """Drop what C libraries print to the standard error stream; what Python prints there still comes out.

    An MP3 decoder complains of each frame that a seek has left without the bytes before it, though such
    frames are decoded for the sake of those after them and thrown away.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


class StatusLines:
    """A line for each of several workers that says what it is doing; a line outlives its process."""

    #: Bytes of a line.
    SIZE = 512

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._file: Any = os.fdopen(os.memfd_create("mdl-status"), "w+b")  # no disk to be full
        else:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in close

    def fileno(self) -> int:
        """File descriptor, for :func:`set_status` in another process."""
        return int(self._file.fileno())

    def read(self, place: int) -> str:
        """The last line of a worker; empty where it is doing nothing."""
        data = os.pread(self.fileno(), self.SIZE, place * self.SIZE)
        return data.partition(b"\0")[0].decode("utf-8", "ignore")

    def close(self) -> None:
        """Free the memory."""
        self._file.close()


def set_status(fd: int, place: int, text: str) -> None:
    """Write a worker's line.

    Args:
        fd: The file descriptor of :class:`StatusLines`.
        place: The worker's number.
        text: What it is doing; empty for nothing.
    """
    data = text.encode("utf-8", "replace")[: StatusLines.SIZE - 1].ljust(StatusLines.SIZE, b"\0")
    os.pwrite(fd, data, place * StatusLines.SIZE)


def _new_memory(size: int) -> memoryview:
    return memoryview(bytearray(size))


def receive(
    connection: socket.socket, allocate: Callable[[int], memoryview] = _new_memory
) -> tuple[Any, memoryview] | None:
    """The next message: an object and raw bytes. ``None`` where the other side has closed.

    Args:
        connection: The socket.
        allocate: Makes the memory for so many raw bytes.
    """
    head = _read(connection, _new_memory(_HEADER.size))
    if head is None:
        return None
    sizes = _HEADER.unpack(head)
    pickled, body = _read(connection, _new_memory(sizes[0])), _read(connection, allocate(sizes[1]))
    if pickled is None or body is None:
        return None
    return pickle.loads(pickled), body  # noqa: S301 -- from a process that this one has started, by their own socket


def send(connection: socket.socket, value: Any, parts: Sequence[Any] = ()) -> None:
    """Send an object and raw bytes, which are given in parts."""
    pickled = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    connection.sendall(_HEADER.pack(len(pickled), sum(len(part) for part in parts)) + pickled)
    for part in parts:
        connection.sendall(part)


def _read(connection: socket.socket, buffer: memoryview) -> memoryview | None:
    done = 0
    while done < len(buffer):
        count = connection.recv_into(buffer[done:])
        if not count:
            return None
        done += count
    return buffer
