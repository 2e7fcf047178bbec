"""Signs of life between the processes of a run: a thread in each, and a star of connections with rank 0.

Every process sends one each second, from a thread: long work in C that lets other threads run doesn't stop
it, and a stopped process, a suspended host or a cut link does. Rank 0 hears all of them and tells the others
what it finds; each of the others listens to rank 0. So a run of n processes has n connections for this.
Nothing here waits for anything but the next message. A connection that falls silent is replaced by a new one,
because after a pause TCP itself may wait as long again until it tries to send. Standard library only.
"""

from __future__ import annotations

import hmac
import secrets
import selectors
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from mdl_toolkit.distributed.peers.silence import Change, Silence
from mdl_toolkit.distributed.peers.wire import Wire, listen, resolved, start_connecting, until_heard

#: Seconds between two signs of life, and between two looks at who was heard.
BEAT, LOOK = 1.0, 0.25
#: Seconds until a connection that is made, or that has fallen silent, is given up for a new one.
RETRY = 5.0
#: Seconds in which rank 0 has to answer when the run begins.
WELCOME = 15.0
#: Seconds that a process which is done waits for the others to have heard it.
FAREWELL = 1.0

#: Told what has changed, and the rank of the process that has noticed it.
Told = Callable[[Change, int], None]


class Pulse(threading.Thread, ABC):
    """Sends and hears signs of life.

    Args:
        rank: The rank of this process.
        told: Called in this thread with each change; it must not wait for anything.
    """

    def __init__(self, rank: int, told: Told) -> None:
        super().__init__(name="pulse", daemon=True)
        self._rank, self._told = rank, told
        self._ending = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._beat_due = 0.0

    def run(self) -> None:
        """Send and hear until :meth:`end`."""
        while not self._ending.is_set():
            ready = self._selector.select(LOOK)
            for key, _ in ready:
                self._take(key)
            now = time.monotonic()
            if now >= self._beat_due:
                self._beat_due = now + BEAT
                self._beat(now)
            for change in self._changes(now):
                self._told(change, self._rank)

    def end(self) -> None:
        """Say that this process is done, and end the thread.

        A connection that is closed with messages unread is reset, and what was said last may be lost with it.
        So each is read until the other end, having read the farewell, closes it.
        """
        self._ending.set()
        self.join(LOOK + BEAT)
        until = time.monotonic() + FAREWELL
        lines = [line for line in self._open_lines() if line.send(bye=1)]
        while lines and time.monotonic() < until:
            until_heard(lines, LOOK)
            lines = [line for line in lines if (said := line.receive()) is not None and not _is_bye(said)]
        for line in self._open_lines():
            line.close()

    @abstractmethod
    def _take(self, key: selectors.SelectorKey) -> None: ...

    @abstractmethod
    def _beat(self, now: float) -> None: ...

    @abstractmethod
    def _changes(self, now: float) -> list[Change]: ...

    @abstractmethod
    def _open_lines(self) -> list[Wire]: ...


class Hub(Pulse):
    """The pulse of rank 0, which hears all the others.

    Args:
        timeout: Seconds of silence after which a process is given up.
        told: Called with each change.

    Attributes:
        port: Where it listens.
        token: What a process has to know to be heard.
    """

    def __init__(self, timeout: float, told: Told) -> None:
        super().__init__(0, told)
        self._timeout = timeout
        self._silence = Silence([], timeout, time.monotonic())
        self._listener = listen()
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.token = secrets.token_hex(16)
        self._lines: dict[int, Wire] = {}
        self._lost: dict[int, Change] = {}
        self._strangers: dict[Wire, float] = {}
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _take(self, key: selectors.SelectorKey) -> None:
        if key.data is None:
            self._accept()
            return
        line, rank = key.data
        if line.is_closed:
            return  # replaced by another one a moment ago
        messages = line.receive()
        if messages is None:
            self._drop(line, rank)
            return
        for message in messages:
            if rank is None:
                rank = self._greet(line, message)
                if rank is None:
                    self._drop(line, None)
                    return
            elif "bye" in message:
                self._silence.left(rank)
                self._drop(line, rank)
                return
            else:
                self._silence.heard(rank, time.monotonic())

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        line = Wire(connection)
        self._strangers[line] = time.monotonic()
        self._selector.register(line.socket, selectors.EVENT_READ, (line, None))

    def _greet(self, line: Wire, message: dict[str, Any]) -> int | None:
        """Take a new connection for the one of its process; its rank, or ``None`` for a stranger's."""
        rank, token = message.get("rank"), message.get("token")
        if not isinstance(rank, int) or not isinstance(token, str):
            return None
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        if (change := self._lost.get(rank)) is not None:
            line.send(change=change.kind, ranks=change.ranks, seconds=change.seconds)
            return None
        self._strangers.pop(line, None)
        before = self._lines.get(rank)
        self._lines[rank] = line
        self._selector.modify(line.socket, selectors.EVENT_READ, (line, rank))
        if before is not None:
            self._forget(before)
        self._silence.expect(rank, time.monotonic())
        line.send(welcome=self._timeout)
        return rank

    def _drop(self, line: Wire, rank: int | None) -> None:
        if rank is not None and self._lines.get(rank) is line:
            del self._lines[rank]
            self._silence.closed(rank, time.monotonic())
        self._forget(line)

    def _forget(self, line: Wire) -> None:
        self._strangers.pop(line, None)
        self._selector.unregister(line.socket)
        line.close()

    def _beat(self, now: float) -> None:
        self._send_all(beat=1)
        for line in [line for line, since in self._strangers.items() if now - since > WELCOME]:
            self._forget(line)

    def _send_all(self, **message: Any) -> None:
        for rank, line in list(self._lines.items()):
            if not line.send(**message):
                self._drop(line, rank)

    def _changes(self, now: float) -> list[Change]:
        found = self._silence.look(now)
        for change in found:
            self._send_all(change=change.kind, ranks=change.ranks, seconds=change.seconds)
            if change.kind in ("silent", "gone"):
                self._lost |= dict.fromkeys(change.ranks, change)
        return found

    def _open_lines(self) -> list[Wire]:
        self._listener.close()
        return list(self._lines.values())


class Spoke(Pulse):
    """The pulse of any other process, which hears rank 0.

    Args:
        rank: The rank of this process.
        port: The port of the :class:`Hub`.
        token: Its token.
        told: Called with each change, be it told by rank 0 or that rank 0 itself is lost.

    Attributes:
        connected: Whether rank 0 has answered.
        main_ended: Set when rank 0 has said that it is done, or is lost itself.
    """

    def __init__(self, rank: int, port: int, token: str, told: Told) -> None:
        super().__init__(rank, told)
        self._port, self._token = port, token
        self._address = ""
        self._silence: Silence | None = None
        self._heard = 0.0
        self._line: Wire | None = None
        self._attempt: Wire | None = None
        self._attempted = 0.0
        self._over = False
        self.connected = False
        self.main_ended = threading.Event()

    def connect(self, names: Sequence[str], patience: float = WELCOME) -> bool:
        """Connect with rank 0 at the first of some names or addresses where it answers; it does so once.

        Returns:
            Whether it has answered.
        """
        until = time.monotonic() + patience
        for address in resolved(names):
            try:
                connection = socket.create_connection((address, self._port), timeout=RETRY)
            except OSError:
                continue
            self._address = address
            line = Wire(connection)
            self._attempt = line
            self._hello(line)
            while self._attempt is not None and time.monotonic() < until:
                until_heard([line], LOOK)
                self._read(line)
            if self._line is not None:
                self.connected = True
                return True
            self._give_up_attempt()
        return False

    def _hello(self, line: Wire) -> None:
        line.send(rank=self._rank, token=self._token)

    def _take(self, key: selectors.SelectorKey) -> None:
        line: Wire = key.data
        if line == self._attempt and key.events & selectors.EVENT_WRITE:
            if line.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._give_up_attempt()
                return
            self._selector.modify(line.socket, selectors.EVENT_READ, line)
            self._hello(line)
        elif line in (self._line, self._attempt):
            self._read(line)

    def _read(self, line: Wire) -> None:
        messages = line.receive()
        now = time.monotonic()
        if messages is None:
            if line is self._attempt:
                self._give_up_attempt()
            else:
                self._line_closed(now)
            return
        for message in messages:
            self._heard = now
            if self._silence is not None:
                self._silence.heard(0, now)
            if "welcome" in message:
                self._welcomed(line, float(message["welcome"]), now)
            elif "change" in message:
                change = Change(message["change"], tuple(message["ranks"]), float(message["seconds"]))
                self._told(change, 0)
            elif "bye" in message:
                self._over = True
                if self._silence is not None:
                    self._silence.left(0)
                self._line_closed(now)
                return

    def _welcomed(self, line: Wire, timeout: float, now: float) -> None:
        if self._line is not None:
            self._forget(self._line)
        if self._silence is None:
            self._silence = Silence([0], timeout, now)
            self._selector.register(line.socket, selectors.EVENT_READ, line)
        self._line, self._attempt = line, None

    def _line_closed(self, now: float) -> None:
        if self._line is not None:
            self._forget(self._line)
        self._line = None
        if self._over:
            self.main_ended.set()
        elif self._silence is not None:
            self._silence.closed(0, now)

    def _forget(self, line: Wire) -> None:
        if self._silence is not None:
            self._selector.unregister(line.socket)
        line.close()

    def _give_up_attempt(self) -> None:
        if self._attempt is not None:
            self._forget(self._attempt)
            self._attempt = None

    def _beat(self, now: float) -> None:
        if self._line is not None and not self._line.send(beat=1):
            self._line_closed(now)

    def _changes(self, now: float) -> list[Change]:
        assert self._silence is not None
        self._reconnect(now)
        found = self._silence.look(now)
        if any(change.kind in ("gone", "silent") for change in found):
            self._over = True
            self.main_ended.set()
        return found

    def _reconnect(self, now: float) -> None:
        """Begin a new connection where there is none, or the one that there is has fallen silent."""
        if self._over or (self._line is not None and now - self._heard < RETRY):
            return
        if self._attempt is not None:
            if now - self._attempted < RETRY:
                return
            self._give_up_attempt()
        connection = start_connecting(self._address, self._port)
        if connection is not None:
            self._attempt, self._attempted = Wire(connection), now
            events = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.register(connection, events, self._attempt)

    def _open_lines(self) -> list[Wire]:
        return [] if self._line is None else [self._line]


def _is_bye(messages: Sequence[dict[str, Any]]) -> bool:
    return any("bye" in message for message in messages)
