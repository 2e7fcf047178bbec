"""One process at a time: a lock that is gone when its holder is gone, on local and network filesystems."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Seconds between attempts, and between two messages about waiting.
POLL_SECONDS = 0.2
MESSAGE_SECONDS = 30.0
#: A lock file that nobody has touched for so long has no living holder, where the filesystem has no locks.
STALE_SECONDS = 60.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Holder:
    """The lock, while it is held: tells those who wait how far the work is."""

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, float("-inf")
        self.note()

    def note(self, **status: Any) -> None:
        """Leave word for those who wait; at most once a second."""
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


@contextmanager
def exclusive(path: Path, waiting: Callable[[dict[str, Any]], None]) -> Iterator[Holder]:
    """Hold a lock; wait for it as long as another process has it.

    The kernel's lock on the file vanishes with the process that holds it, however that ends. Where a
    filesystem has no such locks, the file's existence is the lock, and its holder keeps touching it.

    Args:
        path: The lock's file. Its folder must exist.
        waiting: Called now and then while one waits, with what the holder says of itself.
    """
    begun = said = time.monotonic() - MESSAGE_SECONDS + 1.0
    while True:
        release = _try_lock(path)
        if release is not None:
            break
        if time.monotonic() - said >= MESSAGE_SECONDS or said == begun:
            said = time.monotonic()
            waiting(_said(path))
        time.sleep(POLL_SECONDS)
    try:
        yield Holder(path)
    finally:
        release()


def _said(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _try_lock(path: Path) -> Callable[[], None] | None:
    """A function that releases the lock, or ``None`` where another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The holder before removed the file: what is locked now may not be what has the name now.
        if os.fstat(descriptor).st_ino != os.stat(path).st_ino:
            os.close(descriptor)
            return None
    except FileNotFoundError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        if error.errno in _NO_LOCKS:
            return _try_lock_by_existence(path.with_name(path.name + ".held"))
        raise

    def release() -> None:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)

    return release


def _try_lock_by_existence(path: Path) -> Callable[[], None] | None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        if _abandoned(path):
            with contextlib.suppress(OSError):
                # Renamed first, so that of two who find it abandoned only one removes it.
                taken = path.with_name(f"{path.name}-{socket.gethostname()}-{os.getpid()}")
                os.rename(path, taken)
                taken.unlink()
        return None
    stop = threading.Event()

    def keep_alive() -> None:
        while not stop.wait(STALE_SECONDS / 6):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=keep_alive, daemon=True)
    thread.start()

    def release() -> None:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()

    return release


def _abandoned(path: Path) -> bool:
    """Whether nobody has touched the file for long, by the clock of the filesystem that it lies on."""
    probe = path.with_name(f"{path.name}-now-{socket.gethostname()}-{os.getpid()}")
    try:
        with open(probe, "wb"):
            now = os.stat(probe).st_mtime
            return now - os.stat(path).st_mtime > STALE_SECONDS
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
