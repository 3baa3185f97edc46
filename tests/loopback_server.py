"""What the hubs on the loopback have in common: an HTTP server in a thread, and answers with a length."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answers(BaseHTTPRequestHandler, ABC):
    """Answers GET, HEAD and POST with what ``answer`` sends."""

    protocol_version = "HTTP/1.1"

    @abstractmethod
    def answer(self) -> None:
        """Send the answer to this request."""

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_GET

    def send(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        """Send bytes as they are and anything else as JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.write_body(data)

    def write_body(self, data: bytes) -> None:
        """Write what was promised; a hub in trouble writes less."""
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Say nothing: the tests look at what was asked."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients are killed in these tests, and their broken connections are no news."""


@contextmanager
def serving(handler: type[Answers]) -> Iterator[str]:
    """The address at which a handler answers for as long as the context lasts."""
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
