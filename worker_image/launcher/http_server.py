"""The launcher's own port: a few GET pages for the kubelet, the operator and people.

Hand-written because the engine's image offers nothing but the standard library, and a thread for
each connection would let anyone on the pod network exhaust them. One request a connection; heads
are bounded in size and time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Callable

log = logging.getLogger("launcher")

MAX_HEAD_BYTES = 16 * 1024
HEAD_TIMEOUT_SECONDS = 10.0
MAX_CONNECTIONS = 256

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True)
class Page:
    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


def json_page(status: int, content: object) -> Page:
    return Page(status, json.dumps(content, indent=2) + "\n", "application/json")


# Takes the query: what follows the question mark, as it was sent; most pages ignore it.
PageMaker = Callable[[str], Awaitable[Page]]


class HttpServer:
    """Serves `pages` (path -> maker) until closed."""

    def __init__(self, pages: dict[str, PageMaker]) -> None:
        self._pages = pages
        self._server: asyncio.AbstractServer | None = None
        self._connections = 0

    async def start(self, host: str, port: int) -> None:
        self._server = await asyncio.start_server(
            self._answer, host, port, limit=MAX_HEAD_BYTES, reuse_address=True
        )

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections > MAX_CONNECTIONS:
                page = Page(503, "too many connections\n")
                method = "GET"
            else:
                method, page = await self._make_page(reader)
            body = page.body.encode()
            head = (
                f"HTTP/1.1 {page.status} {REASONS[page.status]}\r\n"
                f"Content-Type: {page.content_type}\r\n"
                f"Content-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n"
            )
            writer.write(head.encode() + (b"" if method == "HEAD" else body))
            await writer.drain()
        except (OSError, EOFError, asyncio.TimeoutError):
            # The other side went away or never finished its request: nobody is left to tell.
            return
        finally:
            self._connections -= 1
            writer.close()

    async def _make_page(self, reader: asyncio.StreamReader) -> tuple[str, Page]:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_TIMEOUT_SECONDS)
        except asyncio.LimitOverrunError:
            return "GET", Page(400, "the request's head is too large\n")
        parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return "GET", Page(400, "not an HTTP/1 request\n")
        method = parts[0]
        path, _, query = parts[1].partition("?")
        if method not in ("GET", "HEAD", "POST"):
            return method, Page(405, "GET only\n")
        maker = self._pages.get(path)
        if maker is None:
            return method, Page(404, "pages: " + " ".join(sorted(self._pages)) + "\n")
        try:
            return method, await maker(query)
        except Exception:
            log.exception("Failed to make the page %s", path)
            return method, Page(500, "internal error of the launcher, see its log\n")
