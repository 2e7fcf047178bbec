"""Addresses of either family, the interface that Gloo is given, and what is said of a wrong address."""

from __future__ import annotations

import os
import re
import socket
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.network import interfaces, reach
from mdl_toolkit.distributed.network.addresses import (
    bare,
    is_link_local,
    is_loopback,
    plain,
    resolved,
    way_to,
    with_port,
)
from mdl_toolkit.distributed.network.interfaces import choose_interface, interface_with
from mdl_toolkit.distributed.network.reach import address_remark, address_remedy, refusal
from mdl_toolkit.distributed.rendezvous import export_address
from mdl_toolkit.errors import SettingsError

#: Two hosts with one process each, as the second one sees it.
FIRST, SECOND = Launch(0, 2, 0, 1), Launch(1, 2, 0, 1)
ONE_HOST = Launch(1, 2, 1, 2)
HOST = {
    "lo": ["127.0.0.1", "::1"],
    "docker0": ["172.17.0.1"],
    "eth0": ["10.0.0.1", "10.0.0.9", "fd00::1", "fe80::1"],
    "ib0": ["fd11::1"],
}


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests set is taken back."""
    for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "to be removed")
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("node-a", "node-a:29500"),
        ("10.0.0.1", "10.0.0.1:29500"),
        ("fd00::1", "[fd00::1]:29500"),
        ("fe80::1%eth0", "[fe80::1%eth0]:29500"),
    ],
)
def test_a_host_and_its_port(host: str, shown: str):
    assert with_port(host, 29500) == shown
    assert bare(f"[{host}]") == bare(f" {host}") == host


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("10.0.0.1", "10.0.0.1"), ("FD00:0::1", "fd00::1"), ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1"), ("Node-A.Example", "Node-A.Example"), ("", ""),
    ],
)  # fmt: skip
def test_one_form_of_an_address(address: str, form: str):
    assert plain(address) == form


def test_kinds_of_addresses():
    assert all(map(is_loopback, ("127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("10.0.0.1", "fd00::1", "localhost")))
    assert is_link_local("fe80::1%eth0") and is_link_local("169.254.1.1") and not is_link_local("fd00::1")


def test_names_that_are_none():
    for name in ("a..b", "x" * 64 + ".example"):
        with pytest.raises(OSError, match="no name of a host"):
            resolved(name)
        assert way_to(name) is None
        assert isinstance(refusal(name, 29500, 1.0), OSError)


def test_the_way_to_oneself_and_to_no_one():
    assert way_to("127.0.0.1") == "127.0.0.1" and way_to("::ffff:127.0.0.1") == "127.0.0.1"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert refusal("127.0.0.1", port, 5.0) is None
    assert isinstance(refusal("127.0.0.1", port, 5.0), ConnectionRefusedError)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.0.0.1", "eth0"), ("10.0.0.9", "eth0"), ("fd00::1", "eth0"), ("fd11::1", "ib0"),
        ("127.0.1.1", "lo"), ("::1", "lo"), ("192.0.2.1", None), (None, None),
    ],
)  # fmt: skip
def test_an_interface_is_found_by_any_of_its_addresses(address: str | None, name: str | None):
    assert interface_with(address, HOST) == name


def _choose(
    monkeypatch: pytest.MonkeyPatch, launch: Launch, ways: dict[str, str], others: dict[int, str]
) -> str | None:
    """What is chosen on a host whose ways to other hosts are these."""
    store: Any = HashStore()
    for rank, address in others.items():
        store.set(f"own_address/{rank}", address)
    monkeypatch.setattr(interfaces, "interface_addresses", lambda: HOST)
    monkeypatch.setattr(interfaces, "way_to", ways.get)
    monkeypatch.setenv("MASTER_ADDR", "node-a")
    return choose_interface(store, launch)


def test_the_interface_that_leads_to_the_rendezvous(monkeypatch: pytest.MonkeyPatch):
    assert _choose(monkeypatch, SECOND, {"node-a": "fd11::1"}, {}) == "ib0"
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"


def test_a_persons_choice_wins_and_must_be_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "docker0")
    assert _choose(monkeypatch, SECOND, {"node-a": "10.0.0.1"}, {}) == "docker0"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    with pytest.raises(SettingsError, match=r"GLOO_SOCKET_IFNAME=eth7: .* it has lo, docker0, eth0, ib0"):
        _choose(monkeypatch, SECOND, {"node-a": "10.0.0.1"}, {})


def test_the_first_host_goes_by_the_others_where_its_own_name_is_the_loopback(
    monkeypatch: pytest.MonkeyPatch,
):
    """Debian's hosts file: Gloo would tell the others to connect to 127.0.0.1."""
    ways = {"node-a": "127.0.0.1", "10.0.0.2": "10.0.0.1"}
    assert _choose(monkeypatch, FIRST, ways, {1: "10.0.0.2"}) == "eth0"


def test_processes_of_one_machine_talk_over_its_loopback(monkeypatch: pytest.MonkeyPatch):
    for launch in (Launch(0, 2, 0, 2), FIRST):  # also where one machine plays two
        monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
        assert _choose(monkeypatch, launch, {"node-a": "127.0.0.1"}, {1: "127.0.0.1"}) == "lo"


def test_without_a_way_gloo_is_left_to_choose(monkeypatch: pytest.MonkeyPatch):
    assert _choose(monkeypatch, SECOND, {}, {}) is None
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_brackets_and_ports(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASTER_ADDR", "[fd00::1]")
    assert export_address(SECOND) == "[fd00::1]:29500"
    assert os.environ["MASTER_ADDR"] == "fd00::1"


@pytest.mark.parametrize(
    ("address", "means", "launch", "said"),
    [
        ("localhost", ["127.0.0.1"], SECOND, "localhost leads host .* to itself"),
        ("localhost", ["127.0.0.1"], FIRST, "localhost leads host .* to itself"),
        ("127.0.0.1", ["127.0.0.1"], FIRST, "127.0.0.1 leads host .* to itself"),
        ("node-b", ["127.0.1.1"], SECOND, r"node-b leads host .* to itself \(127.0.1.1\)"),
        ("node-a", ["127.0.1.1"], FIRST, None),
        ("localhost", ["127.0.0.1"], ONE_HOST, None),
        ("node-a", None, SECOND, "can't resolve the name node-a"),
        ("node-a", None, FIRST, None),
        ("10.9.9.9", ["10.9.9.9"], SECOND, r"no network of host .* leads to 10\.9\.9\.9"),
        ("10.0.0.1", ["10.0.0.1"], SECOND, None),
    ],
)
def test_what_is_wrong_with_an_address(
    monkeypatch: pytest.MonkeyPatch, address: str, means: list[str] | None, launch: Launch, said: str | None
):
    def addresses(_: str) -> list[str]:
        if means is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return means

    monkeypatch.setattr(reach, "resolved", addresses)
    monkeypatch.setattr(reach, "way_to", {"10.0.0.1": "10.0.0.2", "node-a": "10.0.0.2"}.get)
    remark = address_remark(address, launch, {"LOCAL_WORLD_SIZE": str(launch.local_world_size)})
    if said is None:
        assert remark is None
    else:
        assert remark is not None and remark.endswith("an address of it that all other hosts can reach")
        assert re.search(said, remark)


def test_without_the_number_of_processes_a_host_has_it_is_only_supposed():
    """``RANK`` and ``WORLD_SIZE`` alone, as they are left over in a shell or set by hand on two hosts."""
    remark = address_remark("127.0.0.1", ONE_HOST, {"RANK": "1", "WORLD_SIZE": "2"})
    assert remark is not None and "; if the processes are on several hosts, rank 0's host has" in remark


def test_the_remedy_is_the_launchers():
    assert "MASTER_ADDR" in address_remedy({})
    assert "--local-addr" in address_remedy({"TORCHELASTIC_RUN_ID": "x"})
    accelerate = {"TORCHELASTIC_RUN_ID": "x", "ACCELERATE_MIXED_PRECISION": "no"}
    assert "main_process_ip" in address_remedy(accelerate)


def test_an_interface_with_a_link_local_address_alone_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setitem(HOST, "wlan0", ["fe80::7"])
    assert _choose(monkeypatch, SECOND, {"node-a": "fe80::7"}, {}) == "wlan0"
    assert "interface wlan0 has no address but fe80::7" in caplog.text
