"""A wait in a collective of Gloo ends when its connections are shut down, and nothing else is touched."""

from __future__ import annotations

import socket

from mdl_toolkit.compat.torch_gloo import GlooConnections
from support.processes.ranks import ROOT, start_ranks

PEERS = str(ROOT / "tests" / "support" / "processes" / "peers.py")


def test_a_collective_that_waits_for_ever_raises() -> None:
    """Rank 1 never comes to the collective; rank 0 frees itself, with an error that is understood."""
    (first_code, first), _ = start_ranks([PEERS, "frees itself"], 2)
    assert first_code == 0, first
    assert first.strip().endswith("freed: GONE, the store answers")


def test_only_connections_made_in_the_block_are_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        before = socket.create_connection(("127.0.0.1", port))
        connections = GlooConnections()
        with connections.being_made():
            made = socket.create_connection(("127.0.0.1", port))
            listening = socket.create_server(("127.0.0.1", 0))
            pair = socket.socketpair()  # of another library's thread
            closed = socket.create_connection(("127.0.0.1", port))
        closed.close()
        reused = socket.create_connection(("127.0.0.1", port))  # the number of the closed one, as a rule
        assert connections.shut_down(store_port=1) == 1
        assert made.recv(1) == b"", "ended"
        for other in (before, reused, pair[0]):
            other.sendall(b"x")
        socket.create_connection(listening.getsockname()).close()
        assert GlooConnections().shut_down(store_port=1) == 0, "the caller is told that there was none"
        for one in (before, made, listening, reused, *pair):
            one.close()


def test_the_stores_connections_are_spared() -> None:
    with socket.create_server(("127.0.0.1", 0)) as store:
        connections = GlooConnections()
        with connections.being_made():
            client = socket.create_connection(store.getsockname())
            server, _ = store.accept()
        assert connections.shut_down(store_port=store.getsockname()[1]) == 0
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        client.close()
        server.close()
