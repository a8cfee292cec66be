"""Light users: one connection each, a steady rate, and a note of who answered each request.

Written on bare asyncio, because a thousand requests a second of a full client would be most of
what is measured. A user that still waits for an answer leaves its next request out.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import NamedTuple

from llmrollouts.api.labels import REVISION_HEADER

_REVISION = f"\r\n{REVISION_HEADER}: ".encode()
_LENGTH = b"\r\ncontent-length: "


class Seen(NamedTuple):
    """One request. started: event loop time. status: 0 for a connection that was cut."""

    started: float
    status: int
    revision: str


@dataclass
class User(asyncio.Protocol):
    """rate: requests a second; may be changed at any time."""

    host: str
    port: int
    path: str
    rate: float
    seen: list[Seen] = field(default_factory=list)
    left_out: int = 0
    _transport: asyncio.Transport | None = None
    _started: float | None = None
    _answer: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._answer = b""
        if self._started is not None:
            self.seen.append(Seen(self._started, 0, ""))
            self._started = None

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end or len(body) < int(find(head, _LENGTH) or b"0"):
            return
        started, self._started, self._answer = self._started, None, b""
        if started is not None:
            revision = find(head, _REVISION).decode()
            self.seen.append(Seen(started, int(head.split(b" ", 2)[1]), revision))

    async def run(self) -> None:
        """Ask until cancelled."""
        request = f"GET {self.path} HTTP/1.1\r\nhost: {self.host}\r\n\r\n".encode()
        loop = asyncio.get_running_loop()
        due = loop.time() + random.random() / self.rate
        try:
            while True:
                await asyncio.sleep(max(0.0, due - loop.time()))
                due = max(due + 1 / self.rate, loop.time())
                if self._transport is None:
                    await loop.create_connection(lambda: self, self.host, self.port)
                if self._started is not None or self._transport is None:
                    self.left_out += 1
                    continue
                self._started = loop.time()
                self._transport.write(request)
        finally:
            if self._transport is not None:
                self._transport.abort()

    def last_start(self, revision: str) -> float | None:
        """When the last request started that this revision answered."""
        return max((s.started for s in self.seen if s.revision == revision), default=None)

    @property
    def failures(self) -> int:
        return sum(s.status != 200 for s in self.seen)


def find(head: bytes, name: bytes) -> bytes:
    """The value of a header; empty where it is not there. Envoy writes names in lower case."""
    _, found, rest = head.partition(name)
    return rest.partition(b"\r\n")[0] if found else b""
