"""The load report streams: asks each gateway for its counts once a second and books them.

Reports are asked for only where two revisions live: a thousand deployments at rest cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import grpc
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterStats
from envoy_data_plane.envoy.service.load_stats.v3 import LoadStatsResponse

from llmrollouts.traffic import telemetry, wire
from llmrollouts.traffic.authority import Authority, Mode
from llmrollouts.traffic.catalogue import Catalogue
from llmrollouts.traffic.conversation import hold, read_first
from llmrollouts.traffic.load import LoadBook, LocalityLoad
from llmrollouts.traffic.names import ClusterName
from llmrollouts.traffic.requests import GatewayNode

INTERVAL: Final = 1.0


class LoadReportService:
    def __init__(
        self,
        catalogue: Catalogue,
        book: LoadBook,
        authority: Authority,
        clock: Callable[[], float],
    ) -> None:
        self._catalogue = catalogue
        self._book = book
        self._authority = authority
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[str, object] = {}

    def close_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def serve(self, context: Any) -> None:
        await hold(context, self._authority, self._converse, "report")

    async def _converse(self, context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs as one
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        data = await read_first(context)
        if data is None:
            return
        node = next((v for n, v in wire.fields(data) if n == 1 and isinstance(v, bytes)), None)
        if node is None:
            raise ValueError("the first load report names no node")
        gateway = GatewayNode.parse(node).name
        token = object()
        self._open[gateway] = token
        asked: tuple[str, ...] | None = None
        try:
            while True:
                wanted = self._wanted()
                if wanted != asked:
                    await context.write(_ask(wanted))
                    asked = wanted
                data = await context.read()
                if data is grpc.aio.EOF or self._authority.mode() is Mode.REFUSING:
                    return
                self._book.record(gateway, read_report(data), self._clock())
                telemetry.REPORTS.inc()
        finally:
            # A newer stream of the same gateway goes on where this one stopped.
            if self._open.get(gateway) is token:
                del self._open[gateway]
                self._book.end(gateway)

    def _wanted(self) -> tuple[str, ...]:
        return tuple(
            name
            for entry in self._catalogue.entries.values()
            if len(entry.translation.traffic.revisions) > 1
            for name in entry.translation.clusters
        )


def _ask(clusters: tuple[str, ...]) -> bytes:
    return bytes(
        LoadStatsResponse(
            clusters=list(clusters), load_reporting_interval=timedelta(seconds=INTERVAL)
        )
    )


def read_report(data: bytes) -> Iterator[LocalityLoad]:
    """The loads in one LoadStatsRequest. Raises ValueError on broken input."""
    for number, value in wire.fields(data):
        if number != 2 or not isinstance(value, bytes):
            continue
        stats = ClusterStats.parse(value)
        cluster = ClusterName.parse(stats.cluster_name)
        if cluster is None:
            continue
        if not stats.upstream_locality_stats:
            # Nothing at all: in particular, nothing is in flight any more.
            yield LocalityLoad(cluster, 0, 0, 0, 0, 0)
        for part in stats.upstream_locality_stats:
            yield LocalityLoad(
                cluster=cluster,
                priority=part.priority,
                issued=part.total_issued_requests,
                succeeded=part.total_successful_requests,
                failed=part.total_error_requests,
                in_progress=part.total_requests_in_progress,
            )
