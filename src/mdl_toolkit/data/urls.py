"""Fetch a URL that stands in somebody's CSV: http(s) only, bounded, and never from inside the own network.

The host's name is resolved once, its addresses are checked, and the connection goes to a checked address: a
name that resolves otherwise a moment later changes nothing. Redirects are followed one by one and checked
alike. Proxies of the environment are not used, because they would resolve names themselves.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from mdl_toolkit import __version__
from mdl_toolkit.errors import DataError
from mdl_toolkit.options import printable

MAX_REDIRECTS = 5
_BLOCK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: Not public, though not every version of Python says so.
_SPECIAL = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("64:ff9b:1::/48"))


@dataclass(frozen=True)
class UrlLimits:
    """Bounds of one fetch.

    Attributes:
        timeout: Seconds for all of it: name, connection, redirects, body.
        max_bytes: Of the body.
        allow_private: Also fetch from private, loopback and link-local addresses.
    """

    timeout: float = 30.0
    max_bytes: int = 200 << 20
    allow_private: bool = False


def is_url(source: str) -> bool:
    """Whether a cell names something by a scheme (``http://…``, ``file://…``) rather than a path."""
    head, mark, _ = source.partition("://")
    return bool(mark) and head.replace("+", "").replace("-", "").replace(".", "").isalnum()


def fetch(url: str, limits: UrlLimits) -> bytes:
    """The body of a URL.

    Raises:
        DataError: With what was refused or failed. Passwords in the URL are not repeated.
    """
    deadline = time.monotonic() + limits.timeout
    for _ in range(MAX_REDIRECTS + 1):
        answer = _request(url, limits, deadline)
        if isinstance(answer, bytes):
            return answer
        url = answer
    raise DataError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects")


def shown(url: str) -> str:
    """A URL for a message: without user, password and query, which can hold secrets."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return printable(url[:80])
    return printable(f"{parts.scheme}://{host}{port}{parts.path}"[:200])


def _request(url: str, limits: UrlLimits, deadline: float) -> bytes | str:
    """One request: the body, or where it is redirected to."""
    parts = _checked_parts(url)
    host = str(parts.hostname)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = _resolve(host, port, limits, deadline, url)
    connection = _Pinned(parts.scheme, host, port, address, max(0.01, deadline - time.monotonic()))
    # A server that sends a byte now and then never trips a socket's own time limit: this ends it.
    watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), connection.abort)
    watchdog.daemon = True
    watchdog.start()
    try:
        return _exchange(connection, parts, url, limits, deadline)
    except DataError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline or isinstance(error, TimeoutError):
            raise _too_slow(url, limits) from error
        raise DataError(f"{shown(url)}: can't be fetched ({error or type(error).__name__})") from error
    finally:
        watchdog.cancel()
        connection.close()


def _exchange(
    connection: _Pinned, parts: SplitResult, url: str, limits: UrlLimits, deadline: float
) -> bytes | str:
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    headers = {"User-Agent": f"mdl-toolkit/{__version__}", "Accept-Encoding": "identity"}
    connection.request("GET", target, headers=headers)
    response = connection.getresponse()
    if response.status in _REDIRECTS:
        return urljoin(url, response.getheader("Location") or "")
    if response.status != 200:
        raise DataError(f"{shown(url)}: HTTP {response.status} {response.reason}")
    packing = response.getheader("Content-Encoding", "identity")
    if packing not in ("identity", ""):
        raise DataError(f"{shown(url)}: sent with Content-Encoding {packing[:20]}, which was not asked for")
    length = response.length
    if length is not None and length > limits.max_bytes:
        raise _too_large(url, limits, length)
    body = bytearray()
    while block := response.read1(_BLOCK):
        body += block
        if len(body) > limits.max_bytes:
            raise _too_large(url, limits, None)
        if time.monotonic() >= deadline:
            raise _too_slow(url, limits)
    if length is not None and len(body) != length:
        if time.monotonic() >= deadline:
            raise _too_slow(url, limits)
        raise DataError(f"{shown(url)}: cut short, {len(body)} of {length} bytes came")
    return bytes(body)


def _checked_parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise DataError(f"{url[:80]!r}: not a URL ({error})") from error
    if parts.scheme not in ("http", "https"):
        raise DataError(f"{shown(url)}: only http and https URLs are fetched")
    if not parts.hostname or any(c.isspace() or ord(c) < 32 for c in url):
        raise DataError(f"{url[:80]!r}: not a URL with a host and without blanks")
    return parts


def _resolve(
    host: str, port: int, limits: UrlLimits, deadline: float, url: str
) -> tuple[int, tuple[str, int]]:
    """Family and address to connect to; all of the host's addresses must be allowed."""
    found: list[tuple[int, tuple[str, int]]] = []
    problem: list[Exception] = []

    def look_up() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found.append((int(family), (str(address[0]), port)))
        except (OSError, UnicodeError) as error:
            problem.append(error)

    # The system's resolver knows no time limit.
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if thread.is_alive():
        raise _too_slow(url, limits)
    if problem or not found:
        raise DataError(f"{shown(url)}: no address found for host {host}")
    if not limits.allow_private:
        for _, (address, _) in found:
            if not is_public(address):
                raise DataError(
                    f"{shown(url)}: {host} is at {address}, an address inside a private network or this "
                    "machine; say --allow-private-urls if it is meant"
                )
    return found[0]


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)


class _Pinned(http.client.HTTPConnection):
    """A connection to a given address, whatever the host's name resolves to now."""

    def __init__(
        self, scheme: str, host: str, port: int, address: tuple[int, tuple[str, int]], timeout: float
    ) -> None:
        super().__init__(host, port, timeout=timeout)
        self._scheme, self._address, self._aborted = scheme, address, False
        self._raw: socket.socket | None = None
        if scheme == "https":
            self.default_port = 443

    def connect(self) -> None:
        """Connect to the pinned address; with TLS the certificate is checked for the host's name."""
        family, address = self._address
        self._raw = self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(address)
        if self._scheme == "https":
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
            self._raw = self.sock
        if self._aborted:
            raise TimeoutError

    def abort(self) -> None:
        """End the exchange from another thread."""
        self._aborted = True
        if self._raw is not None:
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)


def _too_slow(url: str, limits: UrlLimits) -> DataError:
    return DataError(f"{shown(url)}: not fetched within {limits.timeout:g} s; --url-timeout gives it longer")


def _too_large(url: str, limits: UrlLimits, length: int | None) -> DataError:
    size = f"{length / 2**20:.1f}" if length is not None else "more"
    return DataError(
        f"{shown(url)}: {size} MiB where {limits.max_bytes / 2**20:g} are allowed; --url-max-mib allows more"
    )
