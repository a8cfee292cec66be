"""The configuration streams: carries bytes between gateways and their ``GatewayStream``.

Decides nothing about content. Before each message it asks whether this replica may speak at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc

from llmrollouts.traffic import telemetry
from llmrollouts.traffic.authority import Authority, Mode
from llmrollouts.traffic.catalogue import Catalogue
from llmrollouts.traffic.conversation import RefusedError, hold, read_first
from llmrollouts.traffic.gateways import Gateways
from llmrollouts.traffic.requests import DiscoveryRequest, GatewayNode
from llmrollouts.traffic.stream import GatewayStream

log = logging.getLogger(__name__)


class ConfigurationService:
    def __init__(
        self,
        catalogue: Catalogue,
        gateways: Gateways,
        authority: Authority,
        clock: Callable[[], float],
    ) -> None:
        self._catalogue = catalogue
        self._gateways = gateways
        self._authority = authority
        self._clock = clock
        self._sessions: dict[GatewayStream, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    def wake(self) -> None:
        """Something changed, or time passed: every stream looks what it has to say."""
        now = self._clock()
        for stream, (event, task) in self._sessions.items():
            if stream.is_mute(now):
                task.cancel()
            event.set()

    def close_all(self) -> None:
        """End every stream now; the gateways look for the leader."""
        for _, task in self._sessions.values():
            task.cancel()

    async def serve(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """One stream, from its first request to its end."""
        await hold(context, self._authority, self._converse, "request")

    async def _converse(self, context: Any) -> None:
        data = await read_first(context)
        if data is None:
            return
        request = DiscoveryRequest.parse(data)
        if request.raw_node is None:
            raise ValueError("the first request of a stream names no node")
        stream = GatewayStream(self._catalogue, GatewayNode.parse(request.raw_node), self._clock())
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs as one
        self._replace(stream.node.name)
        event = asyncio.Event()
        self._sessions[stream] = (event, task)
        self._gateways.connect(stream)
        telemetry.STREAMS.set(len(self._sessions))
        log.info("Gateway connected", extra={"gateway": stream.node.name})
        reader: asyncio.Task[None] | None = None
        try:
            self._read(stream, request)
            reader = asyncio.create_task(self._listen(context, stream, event))
            await self._speak(context, stream, event, reader)
        finally:
            if reader is not None:
                reader.cancel()
            del self._sessions[stream]
            self._gateways.disconnect(stream, self._clock())
            telemetry.STREAMS.set(len(self._sessions))
            log.info("Gateway disconnected", extra={"gateway": stream.node.name})

    def _replace(self, name: str) -> None:
        """A gateway has one stream: a second one means that the first is dead."""
        for stream, (_, task) in self._sessions.items():
            if stream.node.name == name:
                task.cancel()

    async def _listen(self, context: Any, stream: GatewayStream, event: asyncio.Event) -> None:
        while (data := await context.read()) is not grpc.aio.EOF:
            self._read(stream, DiscoveryRequest.parse(data))
            event.set()

    def _read(self, stream: GatewayStream, request: DiscoveryRequest) -> None:
        reason = stream.read(request)
        if reason is not None and request.kind is not None:
            telemetry.REFUSALS.labels(request.kind.label).inc()
            log.error(
                "Gateway refused its configuration",
                extra={
                    "gateway": stream.node.name,
                    "kind": request.kind.label,
                    "reason": reason,
                },
            )

    async def _speak(
        self,
        context: Any,
        stream: GatewayStream,
        event: asyncio.Event,
        reader: asyncio.Task[None],
    ) -> None:
        reader.add_done_callback(lambda _: event.set())
        while not reader.done():
            event.clear()
            while True:
                mode = self._authority.mode()
                if mode is Mode.REFUSING:
                    raise RefusedError
                restricted = mode is Mode.RESTRICTED
                response = stream.next_response(self._clock(), restricted=restricted)
                if response is None:
                    break
                await context.write(response.data)
                telemetry.PUSHES.labels(response.kind.label).inc()
            await event.wait()
        await reader
