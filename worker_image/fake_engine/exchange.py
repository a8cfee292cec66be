"""One HTTP request and its answer on the wire, in the terms of ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from . import answers
from .protocol import ApiError

Message = MutableMapping[str, Any]  # the ASGI specification's own type
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = b"application/json"
MAX_BODY_BYTES = 64 * 1024 * 1024


class ConnectionCut(Exception):
    """Raised on purpose: uvicorn closes a connection whose application fails in mid-answer."""


class Exchange:
    """Reads one request, writes one answer, and counts the bytes of both."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send = send
        self.status = 500
        self.received = 0
        self.sent = 0

    def header(self, name: bytes) -> str:
        return self._headers.get(name, b"").decode("latin-1")

    async def body(self) -> bytes:
        parts = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionCut("the client left before its request was complete")
            parts.append(message.get("body", b""))
            self.received += len(parts[-1])
            if self.received > MAX_BODY_BYTES:
                raise ApiError(413, "the body is too large")
            if not message.get("more_body", False):
                return b"".join(parts)

    async def wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue

    async def answer_json(
        self, status: int, content: object, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        await self.answer(status, JSON, answers.encode(content), headers)

    async def answer(
        self,
        status: int,
        content_type: bytes | None,
        body: bytes,
        headers: list[tuple[bytes, bytes]] | None = None,
        *,
        vary: bool = True,
    ) -> None:
        sized = [*(headers or []), (b"content-length", str(len(body)).encode())]
        await self.start(status, content_type, sized, vary=vary)
        await self.send_part(body, more=False)

    async def start(
        self,
        status: int,
        content_type: bytes | None,
        headers: list[tuple[bytes, bytes]],
        *,
        vary: bool = True,
    ) -> None:
        self.status = status
        sent = list(headers)
        if content_type is not None:
            sent.append((b"content-type", content_type))
        if vary:
            sent.append((b"vary", b"Origin"))
        await self._send({"type": "http.response.start", "status": status, "headers": sent})

    async def send_part(self, part: bytes, *, more: bool = True) -> None:
        self.sent += len(part)
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def finish(self) -> None:
        await self.send_part(b"", more=False)
