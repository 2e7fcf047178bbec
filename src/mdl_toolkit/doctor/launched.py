"""The doctor on the launch: who started this process, what its host's name means, where all meet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from mdl_toolkit.distributed.environment import (
    is_slurm_task,
    is_started_by_torchrun,
    knows_local_size,
    set_here,
)
from mdl_toolkit.distributed.hosts import host_name
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.network.addresses import is_loopback, plain, resolved, with_port
from mdl_toolkit.distributed.network.interfaces import check_interfaces, interface_addresses
from mdl_toolkit.distributed.network.reach import address_remark, address_remedy, is_for_every_host
from mdl_toolkit.doctor.findings import OK, PROBLEM, WARNING, Finding
from mdl_toolkit.errors import SettingsError


def launcher(launch: Launch, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Which launcher started this process, and the variables that say so."""
    if is_slurm_task(environ):
        who = "srun"
    elif is_started_by_torchrun(environ):
        who = "accelerate launch" if "ACCELERATE_MIXED_PRECISION" in environ else "torchrun"
    else:
        who = "hand, or another launcher" if launch.world_size > 1 else "none: one process"
    variables = " ".join(f"{name}={environ[name]}" for name in set_here(environ))
    yield Finding(OK, "launch", f"{who}{f' ({variables})' if variables else ''}")
    for remark in launch.remarks:
        yield Finding(WARNING, "launch", f"accelerate config: {remark}")


def own_name(launch: Launch) -> Iterator[Finding]:
    """What this host's own name means to itself; torchrun goes by that."""
    name = host_name()
    mine = [address for addresses in interface_addresses().values() for address in addresses]
    outer = next((address for address in mine if not is_loopback(address)), None)
    remedy = f"a line for it in /etc/hosts: {outer or 'ADDRESS'} {name}"
    try:
        found = resolved(name)
    except OSError as error:
        yield Finding(
            WARNING, "own name", f"{name} can't be resolved ({error.strerror or error}), and torchrun fails",
            f"{remedy}; or --local-addr {outer or 'ADDRESS'} for torchrun",
        )  # fmt: skip
        return
    text = f"{name} is {', '.join(found)}"
    if not all(map(is_loopback, found)):
        yield Finding(OK, "own name", text)
    elif launch.nodes > 1:
        yield Finding(
            WARNING, "own name", f"{text}: on this host its own name leads to the loopback",
            f"{remedy} in place of {found[0]}; or, if this is the host that --rdzv-endpoint names, "
            "--rdzv-conf is_host=1",
        )  # fmt: skip
    else:
        yield Finding(OK, "own name", f"{text} (for several hosts it has to be an address of the network)")


def interfaces() -> Iterator[Finding]:
    """The networks of this host, and whether those that were asked for are there."""
    found = interface_addresses()
    listed = ", ".join(f"{name} {' '.join(addresses)}" for name, addresses in found.items())
    yield Finding(OK, "networks", listed or "none")
    asked = os.environ.get("GLOO_SOCKET_IFNAME")
    if asked:
        try:
            check_interfaces(asked, found)
        except SettingsError as error:
            yield Finding(PROBLEM, "networks", str(error), "ip address lists them")
    asked = os.environ.get("NCCL_SOCKET_IFNAME", "")
    # NCCL takes beginnings of names; "=" asks for whole names, "^" for all others.
    wanted = [] if asked.startswith("^") else [name for name in asked.lstrip("=").split(",") if name]
    if wanted and not any(name.startswith(one) for name in found for one in wanted):
        yield Finding(
            PROBLEM, "networks", f"NCCL_SOCKET_IFNAME={asked}: no network interface has such a name",
            "ip address lists them",
        )  # fmt: skip


def rendezvous(launch: Launch, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the address at which the processes meet means rank 0's host here."""
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    shown = with_port(address, port)
    remark = address_remark(address, launch, environ)
    if remark is not None and not knows_local_size(environ) and is_for_every_host(address):
        yield Finding(OK, "rendezvous", f"{shown}: right only where all processes are on one host")
        return
    if remark is not None:
        yield Finding(PROBLEM, "rendezvous", remark)
        return
    if launch.rank == 0 and launch.nodes > 1:
        mine = {one for addresses in interface_addresses().values() for one in addresses}
        try:
            found = resolved(address)
        except OSError:
            found = [plain(address)]
        if not any(one in mine or is_loopback(one) for one in found):
            yield Finding(
                WARNING, "rendezvous", f"{shown} ({', '.join(found)}) is none of this host's own addresses",
                f"right only behind a NAT that passes it on; else {address_remedy(environ)}",
            )  # fmt: skip
            return
    yield Finding(OK, "rendezvous", shown)
