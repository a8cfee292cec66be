"""The users' listener of a gateway: what happens to a request before it is routed.

Headers that steer the proxy or the workers are taken from clients' requests before anything reads
them. Pure; called by the catalogue.
"""

from __future__ import annotations

from llmrollouts.api.labels import MIRRORED_HEADER, PROBE_HEADER
from llmrollouts.traffic.clusters import ADS
from llmrollouts.traffic.document import Document, typed
from llmrollouts.traffic.names import LISTENER, ROUTES
from llmrollouts.traffic.settings import GatewaySettings

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def make_listener(settings: GatewaySettings, port: int) -> Document:
    return {
        "name": LISTENER,
        "address": {"socket_address": {"address": settings.listen_address, "port_value": port}},
        "per_connection_buffer_limit_bytes": 1024 * 1024,
        "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 30, "keepalive_interval": 10},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": make_connection_manager(settings),
                    }
                ]
            }
        ],
    }


def make_connection_manager(settings: GatewaySettings) -> Document:
    return typed(
        _HCM,
        stat_prefix="users",
        codec_type="AUTO",
        rds={"route_config_name": ROUTES, "config_source": ADS},
        use_remote_address=True,
        # One request is one id, whatever a client sends; copies carry the same.
        generate_request_id=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        common_http_protocol_options={"headers_with_underscores_action": "ALLOW"},
        request_headers_timeout="30s",
        stream_idle_timeout=f"{settings.idle_timeout:g}s",
        drain_timeout="5s",
        http2_protocol_options={
            "max_concurrent_streams": 10_000,
            "initial_stream_window_size": 1024 * 1024,
            "initial_connection_window_size": 16 * 1024 * 1024,
        },
        early_header_mutation_extensions=[
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": typed(
                    "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                    mutations=[
                        {
                            "remove_on_match": {
                                "key_matcher": {"prefix": "x-envoy-", "ignore_case": True}
                            }
                        },
                        {"remove": MIRRORED_HEADER},
                        {"remove": PROBE_HEADER},
                    ],
                ),
            }
        ],
        http_filters=[
            {
                "name": "envoy.filters.http.router",
                "typed_config": typed("envoy.extensions.filters.http.router.v3.Router"),
            }
        ],
    )
