"""A web server for recordings: it counts how often each is fetched, and can hold one back."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class ClipServer:
    """Serves a folder.

    Attributes:
        url: Where, without a slash at its end.
        fetched: How often each path was asked for.
        held: Path that gets its answer only after :meth:`release`, if there is one.
        troubles: What goes wrong first, by path: a status, a status with what ``Retry-After`` says, ``"cut"``
            (half of the file and no more), or ``"reset"`` (no answer at all). Each is used once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched, self.held = folder, Counter[str](), ""
        self.troubles: dict[str, list[int | tuple[int, str] | str]] = {}
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def release(self) -> None:
        """Hold nothing back any more."""
        self._released.set()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with server._lock:
                    server.fetched[self.path] += 1
                if self.path == server.held:
                    server._released.wait()
                with server._lock:
                    trouble = next(iter(server.troubles.get(self.path, [])), None)
                    if trouble is not None:
                        del server.troubles[self.path][0]
                if trouble is None or trouble == "cut":
                    self._send(whole=trouble is None)
                elif trouble == "reset":
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    self._refuse(*(trouble if isinstance(trouble, tuple) else (trouble, "")))  # type: ignore[arg-type]

            def _send(self, whole: bool) -> None:
                content = (server.folder / self.path.lstrip("/")).read_bytes()
                self.send_response(200)
                self.send_header("Content-Type", "audio/wav")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content if whole else content[: len(content) // 2])

            def _refuse(self, status: int, after: str) -> None:
                self.send_response(status)
                if after:
                    self.send_header("Retry-After", after)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


@contextmanager
def serving(folder: Path) -> Iterator[ClipServer]:
    """Serve a folder's files on the loopback while the block lasts."""
    server = ClipServer(folder)
    thread = threading.Thread(target=server._server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release()
        server._server.shutdown()
        server._server.server_close()
        thread.join()
