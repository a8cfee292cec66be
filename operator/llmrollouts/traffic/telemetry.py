"""Counters of the xDS server, for the operator's own /metrics. No series per deployment."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

PUSHES = Counter(
    "llmrollouts_gateway_pushes", "Messages sent to gateways, by kind of resource", ["kind"]
)
REFUSALS = Counter(
    "llmrollouts_gateway_refusals",
    "Messages that a gateway refused (NACK), by kind of resource",
    ["kind"],
)
STREAMS = Gauge("llmrollouts_gateway_streams", "Gateways connected to this replica")
EXPIRED_LEASES = Counter(
    "llmrollouts_share_leases_expired",
    "Deployments whose shares fell to 0 because no round renewed their lease",
)
REPORTS = Counter("llmrollouts_gateway_load_reports", "Load reports taken in")
