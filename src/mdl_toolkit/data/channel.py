"""Processes of our own at the end of a socket: started clean, ended for sure, their end told in words.

They are new ones: a fork would inherit another library's threads, locks and devices. Messages are an object
and raw bytes; neither shared memory nor semaphores are needed, which ``/dev/shm`` may have no room for.
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

from mdl_toolkit.terminal.interrupts import STOP_SIGNALS

HEADER = struct.Struct("<QQ")
_CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from mdl_toolkit.data.channel import stay_with; stay_with({parent}); "
    "from {module} import main; main({arguments})"
)
#: "Send me this signal when my parent ends", of prctl(2).
_PR_SET_PDEATHSIG = 1


class Child:
    """A process that runs ``main(socket, *arguments)`` of a module until the socket closes.

    It hears none of the signals that ask a command to end: those are this process's to act on.

    Args:
        module: Name of the module.
        arguments: Further ones of its ``main``.
        share: File descriptors that it inherits.

    Raises:
        OSError: It can't be started.

    Attributes:
        socket: This end of the connection.
        process: The process.
    """

    def __init__(self, module: str, arguments: Sequence[int] = (), share: Sequence[int] = ()) -> None:
        ours, theirs = socket.socketpair()
        package = str(Path(__file__).resolve().parents[2])
        path = [package, *(entry for entry in sys.path if isinstance(entry, str) and entry != package)]
        numbers = ", ".join(map(str, (theirs.fileno(), *arguments)))
        code = _CODE.format(path=path, parent=os.getpid(), module=module, arguments=numbers)
        # BLAS threads of their own would fight over the cores that the processes already fill.
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
        """For a process whose socket has closed: what became of it, in words, and its exit code."""
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
        # One that waits for a disk that has gone may hear nothing; the kernel ends it when it can.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        self.socket.close()


def stay_with(parent: int) -> None:
    """In the child: be killed with the parent, even while stopped or stuck. On Linux; elsewhere do nothing.

    A child that listens sees its socket close, too; this is for one that can't listen any more. The kernel
    goes by the thread that has started the child, so that has to live as long as the child is to.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def hush_libraries() -> None:
    """Let remarks that C libraries print go nowhere; what Python says still comes out.

    An MP3 decoder complains of each frame that a seek has left without the bytes before it, though such
    frames are decoded for the sake of those after them and thrown away.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


class Notes:
    """A line for each of some processes that says what it is at; it outlives the process."""

    #: Bytes of a line.
    SIZE = 512

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._file: Any = os.fdopen(os.memfd_create("mdl-notes"), "w+b")  # no disk to be full
        else:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)

    def fileno(self) -> int:
        """File descriptor, for :func:`note` in another process."""
        return int(self._file.fileno())

    def read(self, place: int) -> str:
        """A process's last line; empty where it is at nothing."""
        data = os.pread(self.fileno(), self.SIZE, place * self.SIZE)
        return data.partition(b"\0")[0].decode("utf-8", "ignore")

    def close(self) -> None:
        """Let go of the memory."""
        self._file.close()


def note(fd: int, place: int, text: str) -> None:
    """Say in the file of :class:`Notes` what this process is at."""
    data = text.encode("utf-8", "replace")[: Notes.SIZE - 1].ljust(Notes.SIZE, b"\0")
    os.pwrite(fd, data, place * Notes.SIZE)


def _plain(size: int) -> memoryview:
    return memoryview(bytearray(size))


def receive(
    connection: socket.socket, allocate: Callable[[int], memoryview] = _plain
) -> tuple[Any, memoryview] | None:
    """The next message: an object and raw bytes. ``None`` where the other side has closed.

    Args:
        connection: The socket.
        allocate: Makes the memory for so many raw bytes.
    """
    head = _read(connection, _plain(HEADER.size))
    if head is None:
        return None
    sizes = HEADER.unpack(head)
    said, body = _read(connection, _plain(sizes[0])), _read(connection, allocate(sizes[1]))
    if said is None or body is None:
        return None
    return pickle.loads(said), body  # noqa: S301 -- from a process that this one has started, by their own socket


def send(connection: socket.socket, value: Any, parts: Sequence[Any] = ()) -> None:
    """Send an object and raw bytes."""
    said = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    connection.sendall(HEADER.pack(len(said), sum(len(part) for part in parts)) + said)
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
