"""The network interface that Gloo talks over, chosen so that the other hosts reach this one.

By itself Gloo takes the address of the host's own name, which often is a loopback's or none at all. Told an
interface (``GLOO_SOCKET_IFNAME``), it takes that one's first address, and IPv4 before IPv6.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import psutil

from mdl_toolkit.distributed.hosts import host_name
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.network.addresses import is_link_local, is_loopback, plain, way_to
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

logger = get_logger(__name__)

#: What Gloo reads: one interface, or several with commas between.
VARIABLE = "GLOO_SOCKET_IFNAME"
#: How long the other hosts' addresses are waited for. All processes have joined, so it takes milliseconds.
_PATIENCE = 20.0


def interface_addresses() -> dict[str, list[str]]:
    """The addresses of each network interface of this host that has any, IPv4 first."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = {
        name: [plain(entry.address) for entry in entries if entry.family in families]
        for name, entries in psutil.net_if_addrs().items()
    }
    return {name: addresses for name, addresses in found.items() if addresses}


def interface_with(address: str | None, interfaces: Mapping[str, list[str]]) -> str | None:
    """The interface that has an address. All of 127.0.0.0/8 is the loopback's."""
    if address is None:
        return None
    if is_loopback(address):
        return next((name for name, own in interfaces.items() if any(map(is_loopback, own))), None)
    return next((name for name, own in interfaces.items() if address in own), None)


def choose_interface(store: Store, launch: Launch) -> str | None:
    """Tell Gloo over which interface to talk, by ``GLOO_SOCKET_IFNAME``; a person's choice wins.

    It is the one that leads to the rendezvous. Where that is the loopback, as on the first host where its own
    name means 127.0.1.1, the other hosts' addresses decide: all processes say theirs.

    Args:
        store: The store of this start; all processes have joined it.
        launch: The ranks of this process.

    Returns:
        The name of the interface, or ``None`` where Gloo is left to choose.

    Raises:
        SettingsError: The interface that was asked for isn't there.
    """
    interfaces = interface_addresses()
    own = way_to(os.environ["MASTER_ADDR"])
    store.set(f"own_address/{launch.rank}", own or "")
    if os.environ.get(VARIABLE):
        named = os.environ[VARIABLE]
        check_interfaces(named, interfaces)
    else:
        if own is not None and is_loopback(own):
            own = _way_to_other_hosts(store, launch) or own
        found = interface_with(own, interfaces)
        if found is None:
            return None
        os.environ[VARIABLE] = named = found
    first = interfaces[named.split(",")[0]][0]
    if launch.local_rank == 0 and is_link_local(first):
        logger.warning(
            f"host {host_name()}: interface {named} has no address but {first}, which is valid on one link "
            "only; if the other hosts can't connect, give the interface an address of their network",
            extra=EVERYWHERE,
        )
    return named


def check_interfaces(named: str, interfaces: Mapping[str, list[str]], variable: str = VARIABLE) -> None:
    """Raise an error where an interface that a variable names isn't there.

    Raises:
        SettingsError: It isn't there, or has no address.
    """
    missing = [name for name in named.split(",") if name not in interfaces]
    if missing:
        raise SettingsError(
            [
                f"{variable}={named}: host {host_name()} has no network interface {missing[0]} with an "
                f"address; it has {', '.join(interfaces) or 'none'}"
            ]
        )


def _way_to_other_hosts(store: Store, launch: Launch) -> str | None:
    """The address by which this host reaches one of the others; ``None`` where all lie on this very host."""
    until = time.monotonic() + _PATIENCE
    for rank in range(launch.world_size):
        while not store.check([f"own_address/{rank}"]):
            if time.monotonic() > until:
                return None
            time.sleep(0.02)
        other = store.get(f"own_address/{rank}").decode()
        if other and not is_loopback(other):
            return way_to(other)
    return None
