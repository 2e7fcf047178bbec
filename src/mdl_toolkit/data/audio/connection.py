"""A connection to an address that was chosen beforehand, or to a proxy of the environment."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import socket
import ssl
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from mdl_toolkit.errors import printable

#: Address family, and address with port.
Address = tuple[int, tuple[str, int]]


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        host: The proxy's name or address.
        port: The proxy's port.
        headers: The headers of requests to it, which may hold a password.
    """

    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class ProxyRefusedError(Exception):
    """A proxy has refused to connect to the host.

    Args:
        status: The HTTP status of its answer.
        reason: The text beside the status.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"HTTP {status} {printable(reason[:80])}")
        self.status = status


def proxy_for(scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy for a host, by ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``.

    This machine itself is never asked through a proxy.

    Raises:
        ValueError: What the environment names is no HTTP proxy. A password in it is not repeated.
    """
    from urllib.request import getproxies_environment

    named = getproxies_environment()
    said = named.get(scheme) or named.get("all")
    if not said or _is_this_machine(host) or _is_direct(host, port, named.get("no", "")):
        return None
    parts = urlsplit(said if "://" in said else f"http://{said}")
    try:
        proxy_port = parts.port or 80
    except ValueError:
        proxy_port = 0
    if parts.scheme != "http" or not parts.hostname or not proxy_port:
        raise ValueError(f"{scheme}_proxy or all_proxy of the environment isn't of the form http://HOST:PORT")
    headers = {}
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
    return Proxy(parts.hostname, proxy_port, headers)


def _is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``no_proxy`` has a host: its name, a domain above it, its address or network, or ``*``."""
    for entry in no_proxy.lower().split(","):
        name = entry.strip().removeprefix("*.").lstrip(".")
        if not name:
            continue
        if name == "*" or host in (name, name.strip("[]")) or f"{host}:{port}" == name:
            return True
        if host.endswith(f".{name}") or f"{host}:{port}".endswith(f".{name}"):
            return True
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


class PinnedConnection(http.client.HTTPConnection):
    """A connection to a given address, whatever the host's name resolves to now.

    Args:
        scheme: ``http`` or ``https``.
        host: The name of the host.
        port: The port of the host.
        address: The address to connect to: the host's, or the proxy's.
        timeout: The number of seconds that the network may be silent.
        proxy: The proxy, if ``address`` is one's.
    """

    def __init__(
        self, scheme: str, host: str, port: int, address: Address, timeout: float, proxy: Proxy | None = None
    ) -> None:
        super().__init__(host, port, timeout=timeout)
        self._scheme, self._address, self._proxy, self._aborted = scheme, address, proxy, False
        self._raw: socket.socket | None = None
        if scheme == "https":
            self.default_port = 443

    def connect(self) -> None:
        """Connect; with TLS the certificate is checked for the host's name, through a proxy too.

        Raises:
            ProxyRefusedError: The proxy refuses.
        """
        family, address = self._address
        self._raw = self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(address)
        if self._scheme == "https":
            if self._proxy is not None:
                self._open_tunnel(self.sock, self._proxy)
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
            self._raw = self.sock
        if self._aborted:
            raise TimeoutError

    def _open_tunnel(self, sock: socket.socket, proxy: Proxy) -> None:
        name = ascii_host(self.host)
        place = f"{name}:{self.port}"
        headers = {"Host": place, **proxy.headers}
        lines = [f"CONNECT {place} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items())]
        sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        response = http.client.HTTPResponse(sock, method="CONNECT")
        try:
            response.begin()
            if response.status != 200:
                raise ProxyRefusedError(response.status, response.reason)
        finally:
            response.close()

    def abort(self) -> None:
        """End the exchange from another thread."""
        self._aborted = True
        if self._raw is not None:
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)


def ascii_host(host: str) -> str:
    """A host as it stands in a request: brackets around an IPv6 address, other alphabets encoded.

    Raises:
        ValueError: The host can't be encoded.
    """
    return f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
