"""One process at a time: a lock that is gone when its holder is gone, on local and network filesystems."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdl_toolkit.files import try_lock

#: Seconds between attempts, and between two messages about waiting.
POLL_SECONDS = 0.2
MESSAGE_SECONDS = 30.0
#: Where the file system has no locks: a holder that has not touched its marker for so many seconds is gone.
#: All processes that share a folder must agree on it.
STALE_SECONDS = 60.0
#: What a file system without locks answers. Any other error isn't taken for that: two would hold the lock.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
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
    file system has no such locks, a second file, the marker, is the lock as long as it exists: its holder
    keeps touching it, and once that holder is gone another process takes it over.

    Args:
        path: The lock's file. Its folder must exist.
        waiting: Called now and then while this process waits, with what the holder says of itself, and the
            path of the marker as ``marker`` if that is what the process waits for.

    Raises:
        OSError: The lock's file can't be made or locked.
    """
    lock = _Lock(path)
    begun = said = time.monotonic() - MESSAGE_SECONDS + 1.0
    while not lock.acquire():
        if time.monotonic() - said >= MESSAGE_SECONDS or said == begun:
            said = time.monotonic()
            waiting(_said(path) | ({"marker": str(lock.marker.path)} if lock.marker else {}))
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
    """The kernel's lock on a file; a marker beside it where the file system has no locks.

    Attributes:
        marker: The marker; ``None`` where the file system has locks.
    """

    def __init__(self, path: Path) -> None:
        self.marker: _Marker | None = None
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock, unless another process has it.

        Raises:
            OSError: The file can't be made or locked.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if try_lock(descriptor) and self._is_named(descriptor):
                self._descriptor = descriptor
            return self._descriptor is not None
        except OSError as error:
            if error.errno == errno.EACCES:  # so some file systems say that another process has it
                return False
            if error.errno not in _NO_LOCKS:
                raise
            self.marker = _Marker(self._path.with_name(self._path.name + ".held"))
            return self.marker.acquire()
        finally:
            if self._descriptor is None:
                os.close(descriptor)

    def release(self) -> None:
        """Release the lock, and remove its file."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # nothing was written through it
                os.close(self._descriptor)
        elif self.marker is not None:
            self.marker.release()

    def _is_named(self, descriptor: int) -> bool:
        """Whether the locked file still has its name; the holder before may have removed it meanwhile.

        The number of its links doesn't tell: NFS gives a file that is open another name instead.
        """
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False


class _Marker:
    """A lock where the file system has none: a file that its holder makes, keeps touching, and removes.

    Only its time counts, not what is in it. filelock's ``SoftFileLease`` isn't used: it waits for ever for an
    empty marker, such as a process leaves that is killed before it has written its name there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> bool:
        """Make the file, unless it is there. One whose holder is gone is removed, for the next attempt."""
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            self._remove_if_abandoned()
            return False
        self._thread = threading.Thread(target=self._keep_touching, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no memory for a thread; and nobody shall wait for a marker without holder
            self._thread = None
            self.release()
            raise
        return True

    def release(self) -> None:
        """Remove the file."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _keep_touching(self) -> None:
        while not self._stop.wait(STALE_SECONDS / 6):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _remove_if_abandoned(self) -> None:
        touched = self._touched_if_abandoned()
        if touched is None:
            return
        taken = self._beside("taken")
        with contextlib.suppress(OSError):
            # Renamed first, so that of two who find it abandoned only one removes it. What the second renames
            # may be the first's new marker, or that of a holder who was only suspended: its time is newer,
            # and it is put back.
            os.rename(self.path, taken)
            if os.stat(taken).st_mtime_ns == touched:
                taken.unlink()
            else:
                os.rename(taken, self.path)

    def _touched_if_abandoned(self) -> int | None:
        """When the file was last touched, in ns, if that is long ago by the clock of its file system."""
        probe = self._beside("now")
        try:
            with open(probe, "wb"):
                now = os.stat(probe).st_mtime_ns
                touched = os.stat(self.path).st_mtime_ns
        except OSError:
            return None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
        return touched if now - touched > STALE_SECONDS * 1e9 else None

    def _beside(self, purpose: str) -> Path:
        """A file of this thread's own beside the marker."""
        own = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
        return self.path.with_name(f"{self.path.name}-{purpose}-{own}")
