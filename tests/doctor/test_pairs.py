"""Sockets of our own between hosts: what works, and in which words what doesn't."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from mdl_toolkit.doctor import pairs


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "LIMIT", 0.5)


def test_a_sample_comes_back_over_either_family():
    secret = os.urandom(pairs.SECRET)
    listener = pairs.EchoServer(secret)
    places = [(0, "127.0.0.1", listener.port)]
    if socket.has_dualstack_ipv6():
        places.append((1, "::1", listener.port))
    answers = pairs.ask_all(places * 40, secret)
    listener.close()
    assert len(answers) == 40 * len(places) and {answer.fault for answer in answers} == {""}
    assert all(answer.milliseconds > 0 for answer in answers)


def test_who_does_not_know_the_secret_is_told_nothing():
    listener = pairs.EchoServer(os.urandom(pairs.SECRET))
    (answer,) = pairs.ask_all([(3, "127.0.0.1", listener.port)], os.urandom(pairs.SECRET))
    listener.close()
    assert answer.rank == 3 and answer.fault.startswith("the connection broke")


def test_a_closed_port_and_a_name_that_is_none():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    secret = os.urandom(pairs.SECRET)
    closed, unknown = pairs.ask_all([(1, "127.0.0.1", port), (2, "no-such-host.invalid", port)], secret)
    assert closed.fault == "Connection refused" and unknown.fault


def test_large_packets_that_get_lost_are_told_from_a_closed_port(soon: None):
    """What a path with too small an MTU does: connections open, and then nothing comes back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answers = pairs.ask_all([(1, "127.0.0.1", server.getsockname()[1])], os.urandom(pairs.SECRET))
    assert "don't come back within" in answers[0].fault and "MTU" in answers[0].fault


def test_other_bytes_are_noticed(soon: None):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                taken = 0
                while taken < pairs.SECRET + pairs.SAMPLE:
                    taken += len(connection.recv(1 << 20))
                connection.sendall(bytes(pairs.SAMPLE))

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match="other bytes"):
            pairs.talk_to("127.0.0.1", server.getsockname()[1], os.urandom(pairs.SECRET))
        thread.join()


def test_asking_many_hosts_is_bounded():
    assert pairs.longest(2) <= 10 and pairs.longest(100) <= 20 and pairs.longest(1000) <= 200
