"""The load report streams: asks each gateway for its counts once a second and books them.

Reports are asked for only where two revisions live: a thousand deployments at rest cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import grpc
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterStats
from envoy_data_plane.envoy.service.load_stats.v3 import LoadStatsResponse

from llmrollouts.traffic import telemetry, wire
from llmrollouts.traffic.ads import REFUSED
from llmrollouts.traffic.authority import Authority, Mode
from llmrollouts.traffic.catalogue import Catalogue
from llmrollouts.traffic.load import LoadBook, LocalityLoad
from llmrollouts.traffic.names import ClusterName
from llmrollouts.traffic.requests import GatewayNode

log = logging.getLogger(__name__)

INTERVAL: Final = 1.0
_FIRST_REQUEST_WITHIN: Final = 10.0


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
        if self._authority.mode() is Mode.REFUSING:
            await context.abort(grpc.StatusCode.UNAVAILABLE, REFUSED)
        talk = asyncio.current_task()
        assert talk is not None  # noqa: S101 - grpc runs handlers in tasks
        inner = asyncio.create_task(self._converse(context))
        self._tasks.add(inner)
        inner.add_done_callback(self._tasks.discard)
        try:
            await inner
        except asyncio.CancelledError:
            if talk.cancelling():
                inner.cancel()
                raise
            await context.abort(grpc.StatusCode.UNAVAILABLE, REFUSED)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no report came")
        except ValueError as error:
            log.warning("Refused a gateway's load reports", extra={"reason": str(error)})
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _converse(self, context: Any) -> None:
        async with asyncio.timeout(_FIRST_REQUEST_WITHIN):
            data = await context.read()
        if data is grpc.aio.EOF:
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
