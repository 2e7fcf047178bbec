"""Two hosts on one machine: network namespaces with addresses, host names and ports of their own.

Needs ``ip`` (iproute2), ``unshare`` (util-linux) and the right to make namespaces; a test that asks for hosts
is skipped, saying why, where one of them is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_PREFIX = "mdl-hosts-"
ADDRESSES = ("10.0.0.1", "10.0.0.2")
#: Addresses of hosts that know IPv6 alone.
ADDRESSES_6 = ("fd00:6d64::1", "fd00:6d64::2")
#: What Debian writes into a host's own hosts file for its own name.
DEBIANS_OWN = "127.0.1.1"


@dataclass(frozen=True)
class Host:
    """One of the two.

    Attributes:
        name: Its host name; both hosts know the address of both names.
        address: Its address; ``10.0.0.1`` is that of the first.
        prefix: Words to put before a command to run it there.
        cable: The name of its network interface.
    """

    name: str
    address: str
    prefix: tuple[str, ...]
    cable: str

    def ip(self, *words: str) -> None:
        """Change the host's network: what comes after ``ip``."""
        subprocess.run([*self.prefix, "ip", *words], check=True, capture_output=True)

    def unplug(self) -> None:
        """Take out the cable: what is sent to or from this host gets lost from now on."""
        self.ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        """Put the cable in again."""
        self.ip("link", "set", self.cable, "up")


@contextmanager
def two_hosts(
    folder: Path,
    names: tuple[str, str] = ("host-a", "host-b"),
    domain: str = "",
    addresses: tuple[str, str] = ADDRESSES,
    own: str = "",
) -> Iterator[tuple[Host, Host]]:
    """Make two hosts joined by a cable, and take them away again.

    Args:
        folder: For the hosts files that they see as ``/etc/hosts``.
        names: Their host names.
        domain: Where given, the names with it are known too.
        addresses: Their addresses, of IPv4 or IPv6; they have no others but the loopback's.
        own: The address that each host's file gives for its own name, where it is another than all others
            have for it.
    """
    for program in ("ip", "unshare", "mount", "hostname"):
        if shutil.which(program) is None:
            pytest.skip(f"two hosts on one machine need the program {program!r}, which is not installed")
    _sweep()
    key = uuid.uuid4().hex[:6]
    spaces = [f"{_PREFIX}{os.getpid()}-{key}-{letter}" for letter in "ab"]
    cables = [f"mdl{key}{letter}" for letter in "ab"]
    try:
        for space in spaces:
            _permitted("ip", "netns", "add", space)
        _permitted(
            "ip", "link", "add", cables[0], "netns", spaces[0], "type", "veth",
            "peer", "name", cables[1], "netns", spaces[1],
        )  # fmt: skip
        hosts = []
        for space, cable, name, address in zip(spaces, cables, names, addresses, strict=True):
            # Without `nodad` an IPv6 address can't be used for the first second or two.
            length = ("/64", "nodad") if ":" in address else ("/24",)
            for words in (
                ("address", "add", f"{address}{length[0]}", "dev", cable, *length[1:]),
                ("link", "set", cable, "up"),
                ("link", "set", "lo", "up"),
            ):
                _permitted("ip", "-netns", space, *words)
            known = dict(zip(names, addresses, strict=True)) | ({name: own} if own else {})
            hosts_file = folder / f"hosts-{key}-{name}"
            hosts_file.write_text(_hosts_file(known, domain))
            hosts.append(Host(name, address, _inside(space, hosts_file, name), cable))
        _permitted(*hosts[0].prefix, "true")
        yield hosts[0], hosts[1]
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


def _hosts_file(known: dict[str, str], domain: str) -> str:
    return "127.0.0.1 localhost\n::1 localhost ip6-localhost\n" + "".join(
        f"{address} {f'{name}.{domain}' if domain else ''} {name}\n" for name, address in known.items()
    )


def _sweep() -> None:
    """Take away what a test run that was killed has left."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for space in (line.split()[0] for line in listed.splitlines() if line.startswith(_PREFIX)):
        owner = space.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


def _inside(space: str, hosts_file: Path, name: str) -> tuple[str, ...]:
    """Words that run a command in a namespace under its own host name; the process id stays the same."""
    script = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'
    enter = ("ip", "netns", "exec", space, "unshare", "--mount", "--uts", "--", "sh", "-c", script, "sh")
    return (*enter, str(hosts_file), name)


def _permitted(*words: str) -> None:
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode:
        pytest.skip(
            f"network namespaces are not permitted here: {' '.join(words[:4])} … {done.stderr.strip()}"
        )
