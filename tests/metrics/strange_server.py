"""An HTTP server that stands before a Prometheus, or instead of one, and misbehaves as told."""

from __future__ import annotations

import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StrangeServer:
    """Its fields may be changed while it runs.

    upstream: base address that requests are handed on to. token: only with this bearer token.
    delay: seconds before each answer. redirect: where askers are sent. answer: status and body
    instead of the upstream's. drip: seconds between single bytes of a header without end.
    asked, headers: of every request so far. gone: set once a dripping connection was cut.
    """

    def __init__(self, upstream: str = "") -> None:
        self.upstream = upstream
        self.token: str | None = None
        self.delay = 0.0
        self.redirect: str | None = None
        self.answer: tuple[int, bytes] | None = None
        self.drip: float | None = None
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.gone = threading.Event()
        self._closed = threading.Event()
        strange = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                # Askers that went away are what many of these tests are about.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    strange.serve(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Not into the output of the tests."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        self.asked.append(request.path)
        self.headers.append(dict(request.headers.items()))
        self._closed.wait(self.delay)
        if self.drip is not None:
            self._drip(request, self.drip)
        elif self.redirect is not None:
            request.send_response(302)
            request.send_header("Location", self.redirect)
            request.end_headers()
        elif self.token is not None and self._token_of(request) != self.token:
            _answer(request, 401, b"who are you")
        else:
            _answer(request, *(self.answer or self._ask_upstream(request.path)))

    def _token_of(self, request: BaseHTTPRequestHandler) -> str:
        return request.headers.get("Authorization", "").removeprefix("Bearer ")

    def _ask_upstream(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.upstream + path, timeout=10) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def _drip(self, request: BaseHTTPRequestHandler, pause: float) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        try:
            while not self._closed.wait(pause):
                request.wfile.write(b"x")
        except (BrokenPipeError, ConnectionResetError):
            self.gone.set()


def _answer(request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
