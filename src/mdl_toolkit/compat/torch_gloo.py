"""Ending the wait in a collective of Gloo whose other end will never answer."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

#: The kinds of address that Gloo's connections have. A thread of another library may make a socket meanwhile.
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class GlooConnections:
    """The connections of Gloo's process groups in this process.

    A thread in a collective of Gloo can't be called back: ``abort`` and ``shutdown`` of its process groups do
    nothing (torch 2.10 to 2.13; public ways that were tried: these two, ``destroy_process_group``, which
    waits for the collective, and ``set_timeout``, which counts for later calls alone). But its connections
    are sockets of this process, and a socket that is shut down makes the collective raise at once. They are
    found as the sockets that appeared while the groups were made. Fall-back: where none is found, as with
    ``TORCH_GLOO_LAZY_INIT`` or off Linux, :meth:`shut_down` says so, and the process has to be ended.
    """

    def __init__(self) -> None:
        self._found: dict[int, int] = {}

    @contextlib.contextmanager
    def being_made(self) -> Iterator[None]:
        """Within the block process groups are made, and no connections but theirs and the store's."""
        before = _sockets()
        yield
        self._found |= {fd: inode for fd, inode in _sockets().items() if before.get(fd) != inode}

    def shut_down(self, store_port: int) -> int:
        """End every connection, so that collectives raise ``RuntimeError``.

        A socket that listens is left alone: Gloo's thread would abort the process.

        Args:
            store_port: The port of the group's store, which may have taken new connections meanwhile.

        Returns:
            The number of connections that were ended.
        """
        now, ended = _sockets(), 0
        for fd, inode in self._found.items():
            if now.get(fd) != inode:
                continue  # closed meanwhile, and its number may be another file's
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
                if connection.family not in _FAMILIES:
                    continue
                if store_port not in (connection.getpeername()[1], connection.getsockname()[1]):
                    connection.shutdown(socket.SHUT_RDWR)
                    ended += 1
        return ended


def _sockets() -> dict[int, int]:
    """The sockets of this process: their inodes by their descriptors."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError, ValueError):
                about = os.fstat(int(name))
                if stat.S_ISSOCK(about.st_mode):
                    found[int(name)] = about.st_ino
    return found
