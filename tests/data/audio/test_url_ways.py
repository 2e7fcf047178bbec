"""URLs on real networks: busy servers, cut connections, proxies. A real server and a real proxy play them."""

from __future__ import annotations

import base64
import email.utils
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mdl_toolkit.data.audio import urls
from mdl_toolkit.data.audio.connection import proxy_for
from mdl_toolkit.data.audio.load import AudioLimits, load_waveform
from mdl_toolkit.data.audio.urls import ATTEMPTS, UrlLimits, fetch
from mdl_toolkit.errors import DataError
from support.data.clips import tone, write_wav
from support.data.clipserver import ClipServer, serving
from support.data.proxyserver import proxying

pytestmark = pytest.mark.usefixtures("quick_and_direct")

OPEN = UrlLimits(timeout=20, allow_private=True)
PUBLIC = "93.184.216.34"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClipServer]:
    write_wav(tmp_path / "a.wav", tone(0.5))
    with serving(tmp_path) as running:
        yield running


def _problem(url: str, limits: UrlLimits = OPEN) -> str:
    with pytest.raises(DataError) as caught:
        fetch(url, limits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _names(monkeypatch: pytest.MonkeyPatch, **addresses: str) -> list[str]:
    """Let host names resolve as told, dots written as underscores. Returns the names asked for."""
    asked: list[str] = []

    def look_up(host: str, port: int, **_options: object):
        asked.append(host)
        if host.replace(".", "").isdigit():
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        if host.replace(".", "_") not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[host.replace(".", "_")], port))]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize("trouble", [429, 500, 502, 503, 504, "cut", "reset", (429, "0"), (503, "nonsense")])
def test_what_passes_by_itself_is_tried_again(server: ClipServer, trouble):
    server.troubles["/a.wav"] = [trouble] * (ATTEMPTS - 1)
    loaded = load_waveform(f"{server.url}/a.wav", limits=AudioLimits(urls=OPEN))
    np.testing.assert_allclose(loaded, tone(0.5), atol=1e-4)
    assert server.fetched["/a.wav"] == ATTEMPTS


def test_in_the_end_it_is_an_error(server: ClipServer):
    server.troubles["/a.wav"] = [503] * 20
    assert _problem(f"{server.url}/a.wav").endswith(f"HTTP 503 Service Unavailable; tried {ATTEMPTS} times")
    assert server.fetched["/a.wav"] == ATTEMPTS
    server.troubles["/a.wav"] = ["cut"] * 20
    assert "cut short" in (message := _problem(f"{server.url}/a.wav")) and "tried" in message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_what_stays_is_told_at_once(server: ClipServer, status: int):
    server.troubles["/a.wav"] = [status]
    assert f"HTTP {status}" in _problem(f"{server.url}/a.wav")
    assert server.fetched["/a.wav"] == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_the_time_that_a_server_asks_for_is_waited(server: ClipServer, monkeypatch, as_date: bool):
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    asked = email.utils.formatdate(time.time() + 8, usegmt=True) if as_date else "7"
    server.troubles["/a.wav"] = [(429, asked)]
    fetch(f"{server.url}/a.wav", OPEN)
    assert len(pauses) == 1 and 5 <= pauses[0] <= 8
    server.troubles["/a.wav"] = [(429, "3600")]
    message = _problem(f"{server.url}/a.wav")
    assert "HTTP 429" in message and "asks to wait 3600 s" in message and "--url-timeout 20" in message
    assert len(pauses) == 1


def test_pauses_grow_and_end_with_the_time_for_one_url(server: ClipServer, monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr(urls, "BACK_OFF", 1.0)
    server.troubles["/a.wav"] = [503] * 20
    _problem(f"{server.url}/a.wav")
    assert len(pauses) == ATTEMPTS - 1
    assert all(0.8 * 2**i <= pause <= 1.2 * 2**i for i, pause in enumerate(pauses))
    assert "--url-timeout 0.5" in _problem(f"{server.url}/a.wav", UrlLimits(0.5, 1 << 20, True))


def test_a_proxy_is_asked_for_what_is_public(server: ClipServer, monkeypatch: pytest.MonkeyPatch):
    port = int(server.url.rpartition(":")[2])
    asked = _names(monkeypatch, clips_example=PUBLIC)
    with proxying({"clips.example": port}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//user:s%3Ccret@"))
        limits = UrlLimits(timeout=20)
        assert fetch("http://clips.example/a.wav", limits) == (server.folder / "a.wav").read_bytes()
        assert proxy.asked == ["GET http://clips.example/a.wav HTTP/1.1"]
        assert proxy.headers[0]["Host"] == "clips.example"
        secret = base64.b64encode(b"user:s<cret").decode()
        assert proxy.headers[0]["Proxy-Authorization"] == f"Basic {secret}"
        assert "clips.example" in asked  # and checked, though the proxy resolves it itself
        server.troubles["/a.wav"] = [503]
        fetch("http://clips.example/a.wav", limits)
        assert len(proxy.asked) == 3


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_is_no_way_into_the_own_network(monkeypatch: pytest.MonkeyPatch, scheme: str):
    _names(monkeypatch, intern_example="10.1.2.3", meta_example="169.254.169.254")
    with proxying({}) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
        for host in ("intern.example", "meta.example", "192.168.0.1"):
            message = _problem(f"{scheme}://{host}/a.wav", UrlLimits(timeout=20))
            assert "inside a private network" in message and "--allow-private-urls" in message
        message = _problem(f"{scheme}://unknown.example/a.wav", UrlLimits(timeout=20))
        assert "no address found" in message and "leaves that to the proxy" in message
        assert proxy.asked == []
        # Allowed, it is the proxy's business who is where.
        assert "HTTP 502" in _problem(f"{scheme}://unknown.example/a.wav")
        assert len(proxy.asked) == ATTEMPTS


def test_a_redirect_by_way_of_a_proxy_is_checked_too(server: ClipServer, monkeypatch: pytest.MonkeyPatch):
    _names(monkeypatch, clips_example=PUBLIC, intern_example="10.1.2.3")

    def redirect(self, *_args):
        return "http://intern.example/secret"

    with proxying({"clips.example": 1}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setattr(urls, "_exchange", redirect)
        assert "intern.example is at 10.1.2.3" in _problem(
            "http://clips.example/a.wav", UrlLimits(timeout=20)
        )


class _NoTls:
    """Stands in for TLS: the tunnel is what is tested, and whose certificate would be checked."""

    names: list[str] = []  # noqa: RUF012 -- one for all, as its users are made by others

    def wrap_socket(self, sock: socket.socket, server_hostname: str) -> socket.socket:
        self.names.append(server_hostname)
        return sock


def test_https_goes_through_a_tunnel(server: ClipServer, monkeypatch: pytest.MonkeyPatch):
    port = int(server.url.rpartition(":")[2])
    _names(monkeypatch, clips_example=PUBLIC)
    monkeypatch.setattr("ssl.create_default_context", _NoTls)
    with proxying({"clips.example": port}) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        got = fetch("https://clips.example/a.wav", UrlLimits(timeout=20))
        assert got == (server.folder / "a.wav").read_bytes()
        assert proxy.asked == ["CONNECT clips.example:443 HTTP/1.1"] and _NoTls.names == ["clips.example"]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("status", "told"), [(407, "wants a user and a password"), (403, "HTTP 403")])
def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str, status: int, told: str):
    _names(monkeypatch, clips_example=PUBLIC)
    with proxying({}, refusal=status) as proxy:
        monkeypatch.setenv("all_proxy", proxy.url.replace("//", "//user:secret@"))
        message = _problem(f"{scheme}://clips.example/a.wav", UrlLimits(timeout=20))
        assert told in message and "secret" not in message and len(proxy.asked) == 1


def test_a_proxy_that_isn_t_there_is_named(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("http_proxy", f"http://user:secret@{place}")
    message = _problem("http://clips.example/a.wav")
    assert f"can't be fetched through the proxy {place}" in message and "secret" not in message
    for wrong in ("socks5://127.0.0.1:1080", "http://user:secret", "https://proxy.example:443"):
        monkeypatch.setenv("http_proxy", wrong)
        message = _problem("http://clips.example/a.wav")
        assert "isn't of the form http://HOST:PORT" in message and "secret" not in message


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("clips.example", "", False),
        ("clips.example", "*", True),
        ("clips.example", "other.test, clips.example", True),
        ("clips.example", "example", True),
        ("clips.example", ".example", True),
        ("clips.example", "*.example", True),
        ("clips.example", "ips.example", False),
        ("clips.example", "clips.example:80", True),
        ("clips.example", "clips.example:81", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("2001:db8::1", "[2001:db8::1]", True),
        ("2001:db8::1", "2001:db8::/32", True),
        ("localhost", "", True),
        ("127.0.0.5", "", True),
        ("::1", "", True),
    ],
)
def test_hosts_that_are_asked_without_a_proxy(monkeypatch, host: str, no_proxy: str, direct: bool):
    monkeypatch.setenv("HTTP_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    found = proxy_for("http", host, 80)
    assert (found is None) == direct
    assert direct or str(found) == "proxy.example:3128"
    assert proxy_for("https", host, 443) is None
