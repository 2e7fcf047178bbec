"""Signs of life over real connections: who is heard, who is missed, and who is a stranger."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from mdl_toolkit.distributed.peers import pulse
from mdl_toolkit.distributed.peers.pulse import Hub, Spoke
from mdl_toolkit.distributed.peers.silence import REOPEN, Change
from mdl_toolkit.distributed.peers.wire import resolved

Heard = list[tuple[str, tuple[int, ...], int]]


class Star:
    """A hub and some spokes in one process.

    Attributes:
        told: What each of them was told, by rank: kind, processes, and who noticed it.
    """

    def __init__(self, timeout: float) -> None:
        self.told: dict[int, Heard] = {0: []}
        self.hub = Hub(timeout, self._note(0))
        self.hub.start()
        self.spokes: dict[int, Spoke] = {}

    def _note(self, rank: int) -> Callable[[Change, int], None]:
        return lambda change, by: self.told[rank].append((change.kind, change.ranks, by))

    def join(self, rank: int) -> Spoke:
        """Let a process join."""
        self.told[rank] = []
        spoke = Spoke(rank, self.hub.port, self.hub.token, self._note(rank))
        assert spoke.connect(["127.0.0.1"])
        spoke.start()
        self.spokes[rank] = spoke
        return spoke

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to be so."""
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, self.told
            time.sleep(0.02)


def die(one: Hub | Spoke) -> None:
    """End as a killed process does: the system closes its connections."""
    one._ending.set()
    one.join()
    for key in list(one._selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()


def freeze(one: Hub | Spoke) -> None:
    """Do nothing any more, as a stopped process does: the system keeps its connections."""
    one._ending.set()
    one.join()


@pytest.fixture
def star(monkeypatch: pytest.MonkeyPatch) -> Iterator[Star]:
    """Three processes; what is silent for 6 s is lost."""
    monkeypatch.setattr(pulse, "BEAT", 0.2)
    made = Star(timeout=6.0)
    for rank in (1, 2):
        made.join(rank)
    yield made
    for one in (*made.spokes.values(), made.hub):
        if not one._ending.is_set():
            one.end()


def test_a_killed_process_is_missed_by_all(star: Star) -> None:
    die(star.spokes[1])
    star.until(lambda: star.told[0] and star.told[2])
    assert star.told[0] == [("gone", (1,), 0)] and star.told[2] == [("gone", (1,), 0)]


def test_a_killed_main_process_is_missed_by_all(star: Star) -> None:
    die(star.hub)
    star.until(lambda: star.told[1] and star.told[2])
    assert star.told[1] == [("gone", (0,), 1)] and star.told[2] == [("gone", (0,), 2)]
    assert star.spokes[1].main_ended.is_set()


def test_a_frozen_process_is_waited_for_and_then_given_up(star: Star) -> None:
    freeze(star.spokes[2])
    star.until(lambda: len(star.told[0]) == 2 and len(star.told[1]) == 2)
    assert star.told[0] == star.told[1] == [("quiet", (2,), 0), ("silent", (2,), 0)]


def test_a_frozen_main_process_is_given_up_by_each(star: Star) -> None:
    freeze(star.hub)
    star.until(lambda: len(star.told[1]) == 2)
    assert star.told[1] == [("quiet", (0,), 1), ("silent", (0,), 1)]


def test_who_leaves_is_not_missed(star: Star) -> None:
    star.spokes[1].end()
    star.hub.end()
    star.until(star.spokes[2].main_ended.is_set)
    star.spokes[2].end()
    time.sleep(REOPEN + 0.5)
    assert star.told == {0: [], 1: [], 2: []}


def test_a_connection_that_is_cut_is_made_again(star: Star) -> None:
    """A firewall that forgets a connection ends it on both sides, and both processes are alive."""
    line = star.hub._lines[1]
    line.socket.shutdown(socket.SHUT_RDWR)
    star.until(lambda: star.hub._lines.get(1) not in (None, line))
    time.sleep(REOPEN + 0.5)
    assert star.told == {0: [], 1: [], 2: []}


def test_a_connection_that_falls_silent_is_replaced(star: Star, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause of the network TCP may wait as long again; a new connection doesn't."""
    monkeypatch.setattr(pulse, "RETRY", 0.5)
    line = star.hub._lines[1]
    monkeypatch.setattr(line, "send", lambda **message: True)  # it arrives nowhere
    star.until(lambda: star.hub._lines.get(1) not in (None, line))
    time.sleep(REOPEN + 0.5)
    assert star.told == {0: [], 1: [], 2: []}


def test_strangers_are_not_heard(star: Star) -> None:
    for said in (b'{"rank": 1, "token": "guess"}\n', b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"[1]\n", b"\xff\n"):
        with socket.create_connection(("127.0.0.1", star.hub.port), timeout=10) as stranger:
            stranger.sendall(said)
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(100) == b""
    assert star.told == {0: [], 1: [], 2: []} and star.hub.is_alive()


def test_who_was_given_up_hears_that_it_was(star: Star) -> None:
    """A process that was stopped for long, and goes on."""
    freeze(star.spokes[2])
    star.until(lambda: ("silent", (2,), 0) in star.told[0])
    again = Spoke(2, star.hub.port, star.hub.token, star._note(2))
    star.told[2].clear()
    again.connect(["127.0.0.1"], patience=2.0)
    assert star.told[2] == [("silent", (2,), 0)]


def test_where_nobody_answers_it_isn_t_connected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        spoke = Spoke(1, deaf.getsockname()[1], "token", lambda change, by: None)
        assert not spoke.connect(["no-such-host.invalid", "127.0.0.1"], patience=0.5)


def test_a_process_may_have_many_files_open() -> None:
    """More than ``select`` can wait for: those of its data, or the connections of a run of many processes."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2000:
        pytest.skip("no process may have so many files open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, limits[1]))
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        star = Star(timeout=6.0)
        spoke = star.join(1)
        spoke.end()
        star.hub.end()
    finally:
        for descriptor in many:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert star.told == {0: [], 1: []}


def test_what_can_be_no_name_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system lets a host call itself so; and a name is looked up only where it is needed."""
    assert list(resolved(["a" * 64, "a..b", "127.0.0.1", "127.0.0.1"])) == ["127.0.0.1"]
    first = next(addresses := resolved(["127.0.0.1", "slow"]))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *what, **how: pytest.fail("looked up"))
    assert first == "127.0.0.1"
    addresses.close()  # type: ignore[attr-defined]
