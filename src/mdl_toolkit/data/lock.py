"""One process at a time: a lock that is gone when its holder is gone, on local and network filesystems."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_toolkit.files import try_lock

if TYPE_CHECKING:
    from filelock import SoftFileLease

#: Seconds between attempts, and between two messages about waiting.
POLL_SECONDS = 0.2
MESSAGE_SECONDS = 30.0
#: Where the file system has no locks: a holder on another machine that has shown no sign of life for so many
#: seconds is gone. All processes that share a folder must agree on it.
STALE_SECONDS = 60.0
_HEAD_START_SECONDS = 0.3


class Holder:
    """A lock that is held: its file tells the processes that wait how far the work is."""

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, float("-inf")
        self.note()

    def note(self, **status: Any) -> None:
        """Write the progress for the processes that wait; at most once a second."""
        if status:
            now = time.monotonic()
            if now - self._last < 1.0:
                return
            self._last = now
        value = {"host": socket.gethostname(), "pid": os.getpid(), **status}
        with contextlib.suppress(OSError), open(self._path, "r+b", buffering=0) as stream:
            text = json.dumps(value).encode()
            stream.write(text)
            stream.truncate(len(text))


def yield_to_first_process() -> None:
    """Give the first process of a machine a head start, so that it is the one that works and shows progress.

    Called before :func:`exclusive` where all processes of a launch ask for the same work.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(_HEAD_START_SECONDS)


@contextmanager
def exclusive(path: Path, waiting: Callable[[dict[str, Any]], None]) -> Iterator[Holder]:
    """Hold a lock; wait for it as long as another process has it.

    The kernel's lock on the file vanishes with the process that holds it, however that ends. Where a
    file system has no such locks, a second file is the lock as long as it exists: its holder keeps touching
    it, and once that holder is gone another process takes it over.

    Args:
        path: The lock's file. Its folder must exist.
        waiting: Called now and then while this process waits, with what the holder says of itself.
    """
    lock = _Lock(path)
    begun = said = time.monotonic() - MESSAGE_SECONDS + 1.0
    while not lock.acquire():
        if time.monotonic() - said >= MESSAGE_SECONDS or said == begun:
            said = time.monotonic()
            waiting(_said(path))
        time.sleep(POLL_SECONDS)
    try:
        yield Holder(path)
    finally:
        lock.release()


def _said(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class _Lock:
    """The kernel's lock on a file; a lease beside it where the file system has no locks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._lease: SoftFileLease | None = None

    def acquire(self) -> bool:
        """Take the lock, unless another process has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = try_lock(descriptor)
            if locked is None:
                return self._acquire_lease()
            if locked and self._is_named(descriptor):
                self._descriptor = descriptor
            return self._descriptor is not None
        finally:
            if self._descriptor is None:
                os.close(descriptor)

    def release(self) -> None:
        """Release the lock, and remove its file."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        if self._descriptor is not None:
            os.close(self._descriptor)
        elif self._lease is not None:
            self._lease.release()

    def _is_named(self, descriptor: int) -> bool:
        """Whether the locked file still has its name; the holder before may have removed it meanwhile.

        The number of its links doesn't tell: NFS gives a file that is open another name instead.
        """
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _acquire_lease(self) -> bool:
        from filelock import SoftFileLease, Timeout

        if self._lease is None:  # kept between attempts: it remembers since when the holder is silent
            held = self._path.with_name(self._path.name + ".held")
            self._lease = SoftFileLease(
                held, lease_duration=STALE_SECONDS, heartbeat_interval=STALE_SECONDS / 6
            )
        try:
            self._lease.acquire(blocking=False)
        except Timeout:
            return False
        return True
