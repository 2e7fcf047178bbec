"""Names and addresses of hosts, of IPv4 and IPv6 alike. Standard library only."""

from __future__ import annotations

import ipaddress
import socket


def bare(host: str) -> str:
    """A host's name or address without the brackets that an IPv6 address has beside a port."""
    host = host.strip()
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def with_port(host: str, port: int | str) -> str:
    """A host and a port for a message: ``node-a:29500``, ``[fd00::1]:29500``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain(address: str) -> str:
    """An address in its one form: without a zone (``%eth0``), and IPv4 where it is written as IPv6.

    A text that is no address stays as it is.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def is_loopback(address: str) -> bool:
    """Whether an address leads every host to itself: ``127.0.1.1``, ``::1``."""
    try:
        return ipaddress.ip_address(plain(address)).is_loopback
    except ValueError:
        return False


def is_link_local(address: str) -> bool:
    """Whether an address counts on one link alone: ``fe80::1``, ``169.254.3.4``."""
    try:
        return ipaddress.ip_address(plain(address)).is_link_local
    except ValueError:
        return False


def resolved(host: str) -> list[str]:
    """The addresses of a host, in the order in which they are tried, each once.

    Raises:
        OSError: The name can't be resolved.
    """
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # an empty label, or one of more than 63 characters
        raise OSError(f"no name of a host ({error})") from None
    return list(dict.fromkeys(plain(str(entry[4][0])) for entry in found))


def way_to(host: str) -> str | None:
    """The address of this host that it would use to reach another one, or ``None`` where no way leads there.

    Nothing is sent: connecting a datagram socket only asks the kernel's routes.
    """
    try:
        found = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)
                return plain(str(probe.getsockname()[0]))
        except OSError:
            continue
    return None
