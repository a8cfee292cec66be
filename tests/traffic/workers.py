"""Small model servers that behave as told: well, badly, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from aiohttp import web

from llmrollouts.api.labels import MIRRORED_HEADER
from llmrollouts.rollout.intent import Endpoint


@dataclass
class Worker:
    """One worker. ``behaviour``: well, status:<code>, reset, cut (after its first chunk), slow
    (a stream of 20 chunks in a second)."""

    name: str
    port: int
    behaviour: str = "well"
    live: int = 0
    mirrored: int = 0
    finished: int = 0
    largest_body: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    live_at: list[float] = field(default_factory=list)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port, f"pod-{self.name}")

    def reset(self) -> None:
        self.live = self.mirrored = self.finished = self.largest_body = 0
        self.paths.clear()
        self.live_at.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        copy = request.headers.get(MIRRORED_HEADER) is not None
        if copy:
            self.mirrored += 1
        else:
            self.live += 1
            self.live_at.append(asyncio.get_running_loop().time())
        self.headers = {k.lower(): v for k, v in request.headers.items()}
        if len(self.paths) < 100:
            self.paths.append(request.path)
        body = await request.read()
        self.largest_body = max(self.largest_body, len(body))
        transport = request.transport
        match self.behaviour.split(":"):
            case ["status", code]:
                return web.Response(status=int(code), text=self.name)
            case ["reset"]:
                assert transport is not None
                transport.abort()
            case ["cut"]:
                response = await self._start(request)
                await response.write(b"first")
                await asyncio.sleep(0.05)
                assert transport is not None
                transport.abort()
                return response
            case ["slow"]:
                response = await self._start(request)
                for number in range(20):
                    await response.write(f"data: {self.name} {number}\n\n".encode())
                    await asyncio.sleep(0.05)
                self.finished += 1
                return response
        return web.Response(text="mirrored answer" if copy else self.name)

    @staticmethod
    async def _start(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        return response


@contextlib.asynccontextmanager
async def start_worker(name: str) -> AsyncIterator[Worker]:
    worker = Worker(name, 0)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", worker.answer)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=30, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    assert runner.addresses
    worker.port = runner.addresses[0][1]
    try:
        yield worker
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def unanswering_port() -> Iterator[int]:
    """A port at which a connection is neither accepted nor refused: its queue is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
