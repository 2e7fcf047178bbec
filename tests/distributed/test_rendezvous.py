"""Processes of one start find each other, whatever the starts before have left in the launcher's store."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from mdl_toolkit.distributed import rendezvous
from mdl_toolkit.distributed.environment import ProcessRank
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.rendezvous import NotComeError, agree_on_start, ids_of_launch

SOON = timedelta(seconds=20)


def _start(port: int, world_size: int) -> list[Store]:
    """Let as many threads, each with a connection of its own, join."""
    met: dict[int, Store] = {}

    def join(rank: int) -> None:
        met[rank] = agree_on_start(
            TCPStore("127.0.0.1", port, timeout=SOON), ProcessRank(rank, world_size), SOON
        )

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [met[rank] for rank in range(world_size)]


@pytest.fixture
def server() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=SOON)


def test_each_start_has_a_store_of_its_own(server: TCPStore):
    first = _start(server.port, 3)
    first[0].set("cause", "rank 1 failed")
    assert all(store.get("cause") == b"rank 1 failed" for store in first)
    second = _start(server.port, 3)
    second[0].set("after", "the failure")
    assert all(store.get("after") == b"the failure" for store in second)
    assert not any(store.check(["cause"]) for store in second)


def test_requests_of_killed_processes_hold_no_one_up(server: TCPStore):
    """One was killed before it had written its token, one before it read the reply."""
    server.add("join_requests", 2)
    gone = {"token": "of a process that is gone", "rank": 1, "of": 4, "host": "a"}
    server.set("join_request/2", json.dumps(gone))
    stores = _start(server.port, 4)
    stores[3].set("met", "yes")
    assert all(store.get("met") == b"yes" for store in stores)


def test_who_does_not_come_is_waited_for_no_longer_than_told(server: TCPStore):
    with pytest.raises(NotComeError, match=r"1 of 2 processes came within 0\.1 s"):
        agree_on_start(server, ProcessRank(0, 2), timedelta(seconds=0.1))


def test_while_it_waits_it_says_for_how_many(server: TCPStore):
    missing: list[int] = []

    def waiting(count: int) -> None:
        missing.append(count)
        if len(missing) == 3:
            others.start()

    def join(rank: int) -> None:
        agree_on_start(TCPStore("127.0.0.1", server.port, timeout=SOON), ProcessRank(rank, 3), SOON)

    second = threading.Thread(target=join, args=(1,))
    others = threading.Thread(target=lambda: (second.start(), join(2)))
    agree_on_start(server, ProcessRank(0, 3), SOON, waiting)
    others.join()
    second.join()
    assert missing[:3] == [2, 2, 2] and missing == sorted(missing, reverse=True)


@pytest.mark.parametrize("agent", ["host:/tmp/agent", None])
@pytest.mark.parametrize("served", [True, False])
def test_what_a_launch_is_known_by(
    server: TCPStore, monkeypatch: pytest.MonkeyPatch, agent: str | None, served: bool
) -> None:
    """By its agent and its store; an agent without files is asked for its store by a lone process, too."""
    monkeypatch.setattr(rendezvous, "agent_id", lambda: agent)
    monkeypatch.setattr(rendezvous, "agent_serves_store", lambda: served)
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(server.port))):
        monkeypatch.setenv(name, value)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("TORCHELASTIC_USE_AGENT_STORE", str(served))):
        monkeypatch.setenv(name, value)
    met = [set(ids_of_launch(Launch(), server)) for _ in range(2)]
    alone = [set(ids_of_launch(Launch())) for _ in range(2)]
    assert all((agent in ids) == (agent is not None) for ids in (*met, *alone))
    assert bool(met[0] & met[1]) == bool(alone[0] & alone[1]) == (served or agent is not None)
    assert len(met[0]) == (2 if served and agent else 1) and len(alone[0]) == 1
    if served and not agent:
        assert met[0] == alone[0]
