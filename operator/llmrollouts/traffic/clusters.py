"""Clusters and their endpoints: how one revision's workers are reached, and by whom instead.

Every live cluster has the same settings whatever the revision's role is, and so does every mirror
cluster: a promotion changes no cluster, and a replica that takes over can describe a cluster of
which it knows nothing but the name. Pure; called by translation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmrollouts.rollout.intent import Endpoint
from llmrollouts.traffic.document import Document, typed
from llmrollouts.traffic.names import METADATA, ClusterName
from llmrollouts.traffic.settings import GatewaySettings

ADS: Final[Document] = {
    "resource_api_version": "V3",
    "ads": {},
    # Wait for ever: a gateway that does not know its routes must not say that it is ready.
    "initial_fetch_timeout": "0s",
}
# Envoy's default limits (1,024 requests, 3 retries) break language-model traffic: 850 requests/s
# of 8 s each are 6,800 in flight.
_BREAKER: Final[Document] = {
    "max_connections": 1_000_000,
    "max_pending_requests": 1_000_000,
    "max_requests": 1_000_000,
    "max_retries": 1_000_000,
}
# With one ready worker left, priority 0 still takes everything: the share is what it says.
_OVERPROVISIONING: Final = 100_000


def make_cluster(name: ClusterName, settings: GatewaySettings) -> Document:
    """The cluster of this name. Endpoints come by EDS under the same name."""
    cluster: Document = {
        "name": str(name),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ADS, "service_name": str(name)},
        "connect_timeout": _seconds(settings.connect_timeout),
        "lb_policy": "LEAST_REQUEST",
        # 0: with no healthy canary worker the next priority (stable) answers; never a dead one.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {
            "thresholds": [
                {"priority": "DEFAULT", **_BREAKER},
                {"priority": "HIGH", **_BREAKER},
            ]
        },
        "upstream_connection_options": {
            "tcp_keepalive": {
                "keepalive_probes": 3,
                "keepalive_time": 10,
                "keepalive_interval": 5,
            }
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                common_http_protocol_options={"idle_timeout": _seconds(settings.upstream_idle)},
                explicit_http_config={"http_protocol_options": {}},
            )
        },
    }
    if name.kind == "live":
        cluster["outlier_detection"] = _outlier_detection()
    return cluster


def make_assignment(
    name: ClusterName,
    endpoints: Sequence[Endpoint],
    fallback: tuple[str, Sequence[Endpoint]] | None = None,
) -> Document:
    """Who answers for a cluster: its own workers first, those of ``fallback`` (a revision's name
    and workers) when there is none or the own one failed."""
    localities = [_locality(name.revision, endpoints, 0)]
    if fallback is not None:
        revision, others = fallback
        localities.append(_locality(revision, others, 1))
    return {
        "cluster_name": str(name),
        "endpoints": localities,
        "policy": {"overprovisioning_factor": _OVERPROVISIONING},
    }


def _outlier_detection() -> Document:
    """Leave a worker out for a while that cannot be reached or answers 502-504 again and again.

    Plain 500s never do it: they may be the request's fault. At most half of the workers are left
    out, so that an overload of all never becomes an outage.
    """
    return {
        "interval": "1s",
        "base_ejection_time": "5s",
        "max_ejection_time": "30s",
        "max_ejection_percent": 50,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 5,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "consecutive_gateway_failure": 10,
        "enforcing_consecutive_gateway_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_failure_percentage": 0,
    }


def _locality(revision: str, endpoints: Sequence[Endpoint], priority: int) -> Document:
    return {
        "priority": priority,
        # Load reports count per locality: it names whose workers answered.
        "locality": {"sub_zone": revision},
        "lb_endpoints": [_endpoint(revision, endpoint) for endpoint in endpoints],
    }


def _endpoint(revision: str, endpoint: Endpoint) -> Document:
    return {
        "endpoint": {
            "address": {
                "socket_address": {"address": endpoint.address, "port_value": endpoint.port}
            },
            "hostname": endpoint.pod,
        },
        "metadata": {"filter_metadata": {METADATA: {"revision": revision}}},
    }


def _seconds(value: float) -> str:
    return f"{value:g}s"
