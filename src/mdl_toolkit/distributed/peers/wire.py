"""Connections that carry signs of life: lines of JSON over TCP, never waited for. Standard library only."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
from collections.abc import Iterable, Iterator
from typing import Any

#: The longest line that is read: what is longer comes from another program.
_LONGEST = 1 << 20


class Wire:
    """One end of a connection that sends and receives messages and never blocks.

    Args:
        connection: A socket; it may still be connecting.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._pending = b""

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self.socket.fileno() < 0

    def send(self, **message: Any) -> bool:
        """Send a message, if the connection takes it at once.

        Returns:
            Whether the connection can be used further. A full one can: the other end is not reading, and
            what was to be said is out of date when it does.
        """
        data = json.dumps(message).encode() + b"\n"
        try:
            return self.socket.send(data) == len(data)
        except BlockingIOError:
            return True
        except OSError:
            return False

    def receive(self) -> list[dict[str, Any]] | None:
        """All messages that have come; ``None`` where the connection was closed or broken.

        Messages that came with its end are given first.
        """
        closed = False
        try:
            while chunk := self.socket.recv(65536):
                self._pending += chunk
                if len(self._pending) > _LONGEST:
                    return None
            closed = True
        except BlockingIOError:
            pass
        except OSError:
            closed = True
        *lines, self._pending = self._pending.split(b"\n")
        if closed and not lines:
            return None
        try:
            found = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return found if all(isinstance(message, dict) for message in found) else None

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.socket.close()


def listen() -> socket.socket:
    """A socket that listens on a free port of all interfaces, for IPv6 too where the system has it."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def until_heard(lines: Iterable[Wire], seconds: float) -> None:
    """Wait until something has come over one of some connections, up to some seconds.

    ``select.select`` would refuse a process that has more than 1024 files open.
    """
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line.socket, selectors.EVENT_READ)
        selector.select(seconds)


def start_connecting(address: str, port: int) -> socket.socket | None:
    """A socket that is about to connect; ``None`` if it can't.

    Args:
        address: An address of numbers: no name is looked up here, which could take long.
        port: The port.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect((address, port))
    except BlockingIOError:
        return connection
    except OSError:
        connection.close()
        return None
    return connection


def resolved(names: Iterable[str]) -> Iterator[str]:
    """The addresses of some host names, in order, each once; names that nobody knows are left out.

    A name is looked up when the addresses of those before it have been tried: that may take long.
    """
    found: set[str] = set()
    for name in names:
        with contextlib.suppress(OSError, UnicodeError):  # a host may call itself what can be no name
            for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
                if (address := str(entry[4][0])) not in found:
                    found.add(address)
                    yield address
