"""An HTTP proxy that knows hosts by itself, as one at the border of a company's network does."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class ProxyServer:
    """Sends on what it is asked for.

    Args:
        hosts: Name of each host, and the port of this machine at which it is.
        refusal: Status with which every request is refused, if there is one.

    Attributes:
        url: Where it is, without a slash at its end.
        asked: First lines of the requests.
        headers: Headers of the requests.
    """

    def __init__(self, hosts: dict[str, int], refusal: int = 0) -> None:
        self.hosts, self.refusal = hosts, refusal
        self.asked, self.headers = list[str](), list[dict[str, str]]()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _noted(self, host: str) -> socket.socket | None:
                proxy.asked.append(self.requestline)
                proxy.headers.append(dict(self.headers))
                port = proxy.hosts.get(host)
                if proxy.refusal or port is None:
                    self.send_error(proxy.refusal or 502)
                    return None
                other = socket.socket()
                other.connect(("127.0.0.1", port))
                return other

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                other = self._noted(str(parts.hostname))
                if other is not None:
                    with other:
                        other.sendall(f"GET {parts.path} HTTP/1.0\r\n\r\n".encode())
                        while block := other.recv(1 << 16):
                            self.wfile.write(block)

            def do_CONNECT(self) -> None:
                other = self._noted(self.path.rpartition(":")[0])
                if other is None:
                    return
                self.send_response(200)
                self.end_headers()
                with other:
                    ways = {self.connection: other, other: self.connection}
                    while True:
                        for source in select.select(list(ways), [], [], 5)[0]:
                            block = source.recv(1 << 16)
                            if not block:
                                return
                            ways[source].sendall(block)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


@contextmanager
def proxying(hosts: dict[str, int], refusal: int = 0) -> Iterator[ProxyServer]:
    """Run a proxy on the loopback while the block lasts."""
    server = ProxyServer(hosts, refusal)
    thread = threading.Thread(target=server._server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._server.shutdown()
        server._server.server_close()
        thread.join()
