"""URLs from somebody's CSV: a real server on this machine plays the attacker."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mdl_toolkit.data.audio import urls
from mdl_toolkit.data.audio.load import AudioLimits, load_waveform
from mdl_toolkit.data.audio.urls import UrlLimits, fetch, is_public, is_url, shown
from mdl_toolkit.errors import DataError
from support.data.clips import tone, wav_bytes

pytestmark = pytest.mark.usefixtures("quick_and_direct")

OPEN = UrlLimits(timeout=5, max_bytes=1 << 20, allow_private=True)
CLIP = wav_bytes(tone(0.5))


class _Attacker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[str] = []  # noqa: RUF012 -- one for all, as its users are made by others

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append(self.path)
        name = self.path.strip("/").partition("/")[0].partition("?")[0]
        getattr(self, f"answer_{name.replace('-', '_')}", self.answer_missing)()

    def _send(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_missing(self) -> None:
        self._send(status=404)

    def answer_clip(self) -> None:
        self._send(CLIP)

    def answer_to(self) -> None:
        self._send(status=302, Location=self.path.partition("?")[2])

    def answer_loop(self) -> None:
        self._send(status=302, Location="/loop")

    def answer_announced(self) -> None:
        self._send(Content_Length=str(10**12))

    def answer_huge(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    def answer_slow(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    def answer_slow_head(self) -> None:
        try:
            for _ in range(200):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n"[:1])
                time.sleep(0.05)
        except OSError:
            pass

    def answer_bomb(self) -> None:
        self._send(gzip.compress(bytes(10 << 20)), Content_Encoding="gzip")

    def answer_short(self) -> None:
        self._send(CLIP[:100], Content_Length=str(len(CLIP)))
        self.close_connection = True

    def answer_empty(self) -> None:
        self._send()

    def answer_text(self) -> None:
        self._send(b"<html>not audio</html>")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Attacker) as httpd:
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def _problem(url: str, limits: UrlLimits = OPEN) -> str:
    with pytest.raises(DataError) as caught:
        fetch(url, limits)
    return str(caught.value)


def _pretend(monkeypatch: pytest.MonkeyPatch, **addresses: str | list[str]) -> list[str]:
    """Let host names resolve as told; a list is used up look-up by look-up. Returns the names looked up."""
    asked: list[str] = []

    def look_up(host: str, port: int, **options: object):
        asked.append(host)
        name = addresses.get(host.replace(".", "_"), host)
        address = name.pop(0) if isinstance(name, list) else name
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    return asked


def test_a_clip_is_fetched_where_it_is_allowed(server: str):
    loaded = load_waveform(f"{server}/clip", limits=AudioLimits(urls=OPEN))
    np.testing.assert_allclose(loaded, tone(0.5), atol=1e-4)
    assert len(load_waveform(f"{server}/clip", start=0.1, end=0.3, limits=AudioLimits(urls=OPEN))) == 3200


def test_own_network_is_out_of_bounds_by_default(server: str):
    before = len(_Attacker.seen)
    message = _problem(f"{server}/clip", UrlLimits())
    assert "127.0.0.1" in message and "--allow-private-urls" in message
    assert len(_Attacker.seen) == before


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.0.8", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1",
        "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "not an address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"])
def test_addresses_that_are_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "017700000001", "127.1", "localhost", "[::1]"])
def test_other_ways_to_write_this_machine(host: str):
    message = _problem(f"http://{host}:9/a.wav", UrlLimits(timeout=5))
    assert "inside a private network" in message or "no address found" in message


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:9/", "http://169.254.169.254/latest/meta-data/", "//10.0.0.1/"]
)
def test_a_redirect_to_the_own_network_is_refused(server: str, monkeypatch: pytest.MonkeyPatch, target: str):
    """The first address is let through as if it were public; the second must be checked like the first."""
    monkeypatch.setattr(
        urls, "is_public", lambda address, real=is_public: address == "127.0.0.1" or real(address)
    )
    if "127.0.0.1" in target:
        target = target.replace("127.0.0.1", "127.0.0.2")
    message = _problem(f"{server}/to?{target}", UrlLimits(timeout=5))
    assert "inside a private network" in message


def test_a_redirect_to_a_file_is_refused(server: str):
    assert "only http and https" in _problem(f"{server}/to?file:///etc/passwd")
    assert "only http and https" in _problem("file:///etc/passwd")
    assert "only http and https" in _problem("ftp://example.org/a.wav")


def test_redirects_are_followed_and_counted(server: str):
    assert fetch(f"{server}/to?/clip", OPEN) == CLIP
    assert "more than 5 redirects" in _problem(f"{server}/loop")


def test_a_name_is_resolved_once_and_the_checked_address_is_used(
    server: str, monkeypatch: pytest.MonkeyPatch
):
    """A name that is public when it is checked and private when it is used (DNS rebinding)."""
    port = server.rpartition(":")[2]
    asked = _pretend(monkeypatch, rebind_test=["127.0.0.1", "169.254.169.254"])
    monkeypatch.setattr(urls, "is_public", lambda address: address == "127.0.0.1")
    assert fetch(f"http://rebind.test:{port}/clip", UrlLimits(timeout=5, max_bytes=1 << 20)) == CLIP
    assert asked == ["rebind.test"]


def test_one_private_address_among_a_names_addresses_is_enough(monkeypatch: pytest.MonkeyPatch):
    def both(host: str, port: int, **options: object):
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in ("1.1.1.1", "10.0.0.1")]

    monkeypatch.setattr("socket.getaddrinfo", both)
    assert "10.0.0.1" in _problem("http://two.test/", UrlLimits())


def test_time_is_limited_in_all(server: str):
    for path in ("slow", "slow-head"):
        start = time.monotonic()
        message = _problem(f"{server}/{path}", UrlLimits(0.5, 1 << 20, True))
        assert "not fetched within 0.5 s" in message and "--url-timeout" in message
        assert time.monotonic() - start < 5


def test_a_resolver_that_hangs_is_limited_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: time.sleep(3) or [])
    start = time.monotonic()
    assert "not fetched within 0.2 s" in _problem("http://slow.test/", UrlLimits(timeout=0.2))
    assert time.monotonic() - start < 2


def test_size_is_limited(server: str):
    for path in ("huge", "announced"):
        message = _problem(f"{server}/{path}")
        assert "where 1 are allowed" in message and "--url-max-mib" in message


def test_answers_that_are_no_clip(server: str):
    assert "HTTP 404" in _problem(f"{server}/nothing")
    assert "Content-Encoding gzip" in _problem(f"{server}/bomb")
    assert "cut short" in _problem(f"{server}/short")
    for path, problem in (("empty", "empty"), ("text", "not readable as audio")):
        with pytest.raises(DataError, match=problem):
            load_waveform(f"{server}/{path}", limits=AudioLimits(urls=OPEN))


def test_nobody_there(server: str):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert "can't be fetched" in _problem(f"http://127.0.0.1:{port}/a.wav")


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.wav", "http://a b/c", "http://host:99999/", "http://[::1/", "https://x\n/"]
)
def test_urls_that_are_none(url: str):
    assert "not a URL" in _problem(url)


def test_secrets_of_a_url_are_not_repeated(server: str):
    address = server.removeprefix("http://")
    message = _problem(f"http://user:secret@{address}/nothing?token=secret")
    assert "secret" not in message and "/nothing" in message
    assert shown("https://u:p@h.org:8443/a?b=c") == "https://h.org:8443/a"


def test_what_is_a_url():
    assert is_url("http://a/b.wav") and is_url("HTTPS://a/b.wav") and is_url("s3://bucket/x")
    for path in ("clips/a.wav", "/a/b://c", "C:\\a.wav", "C://a.wav", "file:///x", "FILE:///x", "~/a.wav"):
        assert not is_url(path)
