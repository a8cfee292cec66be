"""The gRPC server of the xDS port: two services, raw bytes, options for dead peers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from llmrollouts.traffic.tls import is_gateway

log = logging.getLogger(__name__)

_OPTIONS: Final = [
    # Gateways ping every 2 s and must not be turned away for it; a gateway that answers no ping
    # is gone after 4 s, so that "connected" means something.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A subscription names every cluster.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
]

Handler = Callable[[Any], Awaitable[None]]


def make_server(configuration: Handler, reports: Handler, *, check_identity: bool) -> Any:
    """A server, not started. ``check_identity``: only gateways' certificates are let in."""

    def guarded(serve: Handler) -> Any:
        async def call(_requests: object, context: Any) -> None:
            if check_identity and not is_gateway(context):
                log.warning("Refused a peer that is no gateway", extra={"peer": context.peer()})
                await context.abort(
                    grpc.StatusCode.PERMISSION_DENIED, "this certificate is not a gateway's"
                )
            await serve(context)

        return call

    server = grpc.aio.server(options=_OPTIONS)
    for service, method, serve in (
        (
            "envoy.service.discovery.v3.AggregatedDiscoveryService",
            "StreamAggregatedResources",
            configuration,
        ),
        ("envoy.service.load_stats.v3.LoadReportingService", "StreamLoadStats", reports),
    ):
        handler = grpc.stream_stream_rpc_method_handler(guarded(serve))
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
    return server
