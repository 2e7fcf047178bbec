"""Fetch a URL that stands in somebody's CSV: http(s) only, bounded, and never from inside the own network.

The host's name is resolved once, its addresses are checked, and the connection goes to a checked address: a
name that resolves otherwise a moment later changes nothing. Redirects are followed one by one and checked
alike.

A proxy of the environment resolves names itself. So a name is resolved and checked here as well before the
proxy is asked; one that can't be resolved here is refused, since nothing is known of it. What remains is a
name that answers differently here and there; whoever runs the proxy can close that gap, we can't.

What may pass by itself is tried again, with growing pauses or after the time that the server asks for, all
within the time that one URL may take: HTTP 429 and some of 5xx, connections that fail or are cut, and name
servers that are busy.
"""

from __future__ import annotations

import http.client
import ipaddress
import random
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from mdl_toolkit import __version__
from mdl_toolkit.data.audio.connection import (
    Address,
    PinnedConnection,
    Proxy,
    ProxyRefusedError,
    ascii_host,
    proxy_for,
)
from mdl_toolkit.errors import DataError, printable
from mdl_toolkit.settings import ConvertOptions

MAX_REDIRECTS = 5
_BLOCK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
#: HTTP statuses that may be gone a moment later.
_PASSING = (429, 500, 502, 503, 504)
#: How often a URL is tried, and the seconds before the second time; each further pause is twice as long.
ATTEMPTS = 4
BACK_OFF = 0.5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: Networks that aren't public, which some versions of Python don't know.
_SPECIAL = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("64:ff9b:1::/48"))


@dataclass(frozen=True)
class UrlLimits:
    """What fetching one URL may cost. The defaults are those of the options.

    Attributes:
        timeout: Seconds for all of it: name, connection, redirects, body, further tries and the pauses
            between them (``--url-timeout``).
        max_bytes: The size of the largest body (``--url-max-mib``).
        allow_private: Whether private, loopback and link-local addresses are fetched from too
            (``--allow-private-urls``).
    """

    timeout: float = ConvertOptions.url_timeout
    max_bytes: int = int(ConvertOptions.url_max_mib * 2**20)
    allow_private: bool = ConvertOptions.allow_private_urls

    @classmethod
    def of(cls, options: ConvertOptions) -> UrlLimits:
        """The limits that a command's options set."""
        return cls(options.url_timeout, int(options.url_max_mib * 2**20), options.allow_private_urls)


def is_url(source: str) -> bool:
    """Whether a cell names something elsewhere by a scheme (``http://…``), rather than a file.

    ``file://…`` is a file of this machine, and ``C://…`` one of Windows.
    """
    head, mark, _ = source.partition("://")
    plain = head.replace("+", "").replace("-", "").replace(".", "")
    return bool(mark) and len(head) > 1 and plain.isalnum() and head.lower() != "file"


def fetch(url: str, limits: UrlLimits) -> bytes:
    """The body of a URL.

    Raises:
        DataError: Something was refused or failed. Passwords in the URL are not repeated.
    """
    deadline = time.monotonic() + limits.timeout
    attempt = 1
    while True:
        try:
            return _follow(url, limits, deadline)
        except _PassingError as error:
            # Many rows may name one server: they must not all try again at the same moment.
            pause = max(error.after, BACK_OFF * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))  # noqa: S311 -- a pause, not a secret
            left = deadline - time.monotonic()
            if attempt == ATTEMPTS:
                raise DataError(f"{error}; tried {attempt} times") from error
            if pause >= left:
                asked = f", the server asks to wait {error.after:.0f} s" if error.after else ""
                raise DataError(
                    f"{error}{asked}; tried {attempt} time{'s' * (attempt > 1)}, --url-timeout "
                    f"{limits.timeout:g} leaves no more; give it longer, or try again later"
                ) from error
        time.sleep(pause)
        attempt += 1


class _PassingError(DataError):
    """A failure that may be gone when the URL is tried again.

    Args:
        message: What went wrong.
        after: The number of seconds that the server asks to wait.
    """

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


def _follow(url: str, limits: UrlLimits, deadline: float) -> bytes:
    """One try: the body of a URL, or of what it is redirected to."""
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
    try:
        proxy = proxy_for(parts.scheme, host, port)
    except ValueError as error:
        raise DataError(f"{shown(url)}: {error}") from error
    address = _address(host, port, proxy, limits, deadline, url)
    left = max(0.01, deadline - time.monotonic())
    connection = PinnedConnection(parts.scheme, host, port, address, left, proxy)
    # A server that sends a byte now and then never trips a socket's own time limit: this ends it.
    watchdog = threading.Timer(left, connection.abort)
    watchdog.daemon = True
    watchdog.start()
    try:
        return _exchange(connection, parts, proxy, url, limits, deadline)
    except DataError:
        raise
    except ProxyRefusedError as error:
        raise _refusal(error.status, f"{shown(url)}: {error} from the proxy {proxy}", 0.0) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline or isinstance(error, TimeoutError):
            raise _too_slow(url, limits) from error
        way = f" through the proxy {proxy}" if proxy else ""
        problem = f"{shown(url)}: can't be fetched{way} ({error or type(error).__name__})"
        if isinstance(error, (ssl.SSLCertVerificationError, ValueError, http.client.InvalidURL)):
            raise DataError(problem) from error
        raise _PassingError(problem) from error
    finally:
        watchdog.cancel()
        connection.close()


def _exchange(
    connection: PinnedConnection,
    parts: SplitResult,
    proxy: Proxy | None,
    url: str,
    limits: UrlLimits,
    deadline: float,
) -> bytes | str:
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    headers = {"User-Agent": f"mdl-toolkit/{__version__}", "Accept-Encoding": "identity"}
    if proxy is not None and parts.scheme == "http":
        place = ascii_host(str(parts.hostname)) + (f":{parts.port}" if parts.port else "")
        target, headers = f"http://{place}{target}", {**headers, **proxy.headers}
    connection.request("GET", target, headers=headers)
    response = connection.getresponse()
    if response.status in _REDIRECTS:
        return urljoin(url, response.getheader("Location") or "")
    if response.status != 200:
        said = f"{shown(url)}: HTTP {response.status} {printable(response.reason[:80])}"
        raise _refusal(response.status, said, _retry_after(response.getheader("Retry-After")))
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
        raise _PassingError(f"{shown(url)}: cut short, {len(body)} of {length} bytes came")
    return bytes(body)


def _refusal(status: int, said: str, after: float) -> DataError:
    """The error for any answer but success; ``after`` is what the server asks to wait."""
    if status in _PASSING:
        return _PassingError(said, after)
    if status == 407:
        said += "; the proxy wants a user and a password: http_proxy=http://USER:PASSWORD@HOST:PORT"
    return DataError(said)


def _retry_after(said: str | None) -> float:
    """Seconds that a server asks to wait, as a number or a date (RFC 9110); 0 where it doesn't."""
    if not said:
        return 0.0
    if said.strip().isdecimal():
        return float(said)
    try:
        date = parsedate_to_datetime(said)
    except (ValueError, OverflowError):
        return 0.0
    now = datetime.now(timezone.utc)
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=timezone.utc)) - now).total_seconds())


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


def _address(
    host: str, port: int, proxy: Proxy | None, limits: UrlLimits, deadline: float, url: str
) -> Address:
    """Where to connect to; all of the host's own addresses must be allowed, a proxy's need not."""
    if proxy is None or not limits.allow_private:
        found = _resolve(host, port, limits, deadline, url, proxy is not None)
        if not limits.allow_private:
            _check_public([address for _, (address, _) in found], host, url)
        if proxy is None:
            return found[0]
    return _resolve(proxy.host, proxy.port, limits, deadline, url, False)[0]


def _resolve(
    host: str, port: int, limits: UrlLimits, deadline: float, url: str, by_proxy: bool
) -> list[Address]:
    """Families and addresses of a host."""
    found: list[Address] = []
    problem: list[Exception] = []

    def look_up() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found.append((int(family), (str(address[0]), port)))
        except (OSError, UnicodeError) as error:
            problem.append(error)

    # The system's resolver has no timeout.
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if thread.is_alive():
        raise _too_slow(url, limits)
    if problem or not found:
        said = f"{shown(url)}: no address found for host {host}"
        if by_proxy:
            said += " here, so nothing says that it is public; --allow-private-urls leaves that to the proxy"
        if problem and getattr(problem[0], "errno", None) == socket.EAI_AGAIN:
            raise _PassingError(said)
        raise DataError(said)
    return found


def _check_public(addresses: list[str], host: str, url: str) -> None:
    for address in addresses:
        if not is_public(address):
            raise DataError(
                f"{shown(url)}: {host} is at {address}, an address inside a private network or this "
                "machine; say --allow-private-urls if it is meant"
            )


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


def _too_slow(url: str, limits: UrlLimits) -> DataError:
    return DataError(f"{shown(url)}: not fetched within {limits.timeout:g} s; --url-timeout gives it longer")


def _too_large(url: str, limits: UrlLimits, length: int | None) -> DataError:
    size = f"{length / 2**20:.1f}" if length is not None else "more"
    return DataError(
        f"{shown(url)}: {size} MiB where {limits.max_bytes / 2**20:g} are allowed; --url-max-mib allows more"
    )
