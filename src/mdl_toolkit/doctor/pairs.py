"""Whether each pair of hosts can talk: sockets of our own, all at once, within a few seconds whatever fails.

Each host listens at a port that the system chooses, as Gloo and NCCL do, and connects to each other one. What
is sent is more than fits into a packet: a path that loses large packets opens connections, then hangs.
"""

from __future__ import annotations

import hmac
import os
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

#: Seconds for a connection, and again for what is sent over it.
LIMIT = 5.0
#: What is sent there and back, in bytes.
SAMPLE = 256 << 10
#: Connections tried at a time.
_AT_A_TIME = 64
#: Bytes by which the launch knows its own.
SECRET = 32


@dataclass(frozen=True)
class Talk:
    """How it went to talk to a host.

    Attributes:
        rank: The process that was asked.
        fault: What went wrong, or nothing.
        milliseconds: How long the sample took to it and back.
    """

    rank: int
    fault: str
    milliseconds: float


class EchoServer:
    """Answers other hosts of the launch on a port of its own, in threads, until it is closed.

    Args:
        secret: What those who may talk to it begin with, 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        if socket.has_dualstack_ipv6():
            self._server = socket.create_server(
                ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512
            )
        else:
            self._server = socket.create_server(("", 0), backlog=512)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, name="doctor-listener", daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(LIMIT)
                if hmac.compare_digest(_receive(connection, SECRET), self._secret):
                    connection.sendall(_receive(connection, SAMPLE))
            except OSError:
                return


def talk_to(address: str, port: int, secret: bytes) -> float:
    """Send a sample to a host's listener and take it back.

    Returns:
        Milliseconds from the open connection to the last byte.

    Raises:
        OSError: The reason why it doesn't work, in words.
    """
    try:
        connection = socket.create_connection((address, port), timeout=LIMIT)
    except TimeoutError:
        raise OSError(f"no connection within {LIMIT:.0f} s") from None
    except OSError as error:
        raise OSError(error.strerror or str(error)) from None
    sample = os.urandom(SAMPLE)
    with connection:
        start = time.monotonic()
        try:
            connection.sendall(secret + sample)
            returned = _receive(connection, SAMPLE)
        except TimeoutError:
            raise OSError(
                f"a connection opens, but {SAMPLE >> 10} KiB don't come back within {LIMIT:.0f} s: large "
                "packets are lost (MTU)"
            ) from None
        except OSError as error:
            raise OSError(f"the connection broke ({error.strerror or error})") from None
        milliseconds = (time.monotonic() - start) * 1000
    if returned != sample:
        raise OSError("other bytes came back than were sent")
    return milliseconds


def ask_all(places: Sequence[tuple[int, str, int]], secret: bytes) -> list[Talk]:
    """Talk to several hosts at once.

    Args:
        places: Rank, address and port of each.
        secret: What the launch's listeners know it by.
    """

    def ask(place: tuple[int, str, int]) -> Talk:
        rank, address, port = place
        try:
            return Talk(rank, "", talk_to(address, port, secret))
        except OSError as error:
            return Talk(rank, str(error), 0.0)

    with ThreadPoolExecutor(max_workers=_AT_A_TIME) as threads:
        return list(threads.map(ask, places))


def longest(hosts: int) -> float:
    """Seconds that asking may take for so many hosts if none of them answers."""
    return 2 * LIMIT * (1 + hosts // _AT_A_TIME)


def _receive(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes, within the time limit in all."""
    until = time.monotonic() + LIMIT
    pieces = bytearray()
    while len(pieces) < count:
        connection.settimeout(max(0.01, until - time.monotonic()))
        piece = connection.recv(min(65536, count - len(pieces)))
        if not piece:
            raise OSError("closed by the other end")
        pieces += piece
    return bytes(pieces)
