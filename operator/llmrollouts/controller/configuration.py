"""Everything that main reads from flags and environment, as one value. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llmrollouts.api.settings import OperatorSettings
from llmrollouts.metrics.prometheus_address import AllowedAddresses
from llmrollouts.traffic.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class Configuration:
    """namespaces: watched ones; None: all. namespace: the operator's own. Ports: 0 takes any.
    xds_tls: False only for tests on loopback. allowed_prometheus: base addresses that gates may
    name; empty: none."""

    pod: str
    namespace: str
    workers: OperatorSettings
    gateways: GatewaySettings = field(default_factory=GatewaySettings)
    pod_uid: str = ""
    namespaces: tuple[str, ...] | None = None
    kubeconfig: Path | None = None
    lease: str = "llm-rollouts"
    gateway_service: str = "llm-rollouts-gateway"
    allowed_prometheus: AllowedAddresses = field(default_factory=AllowedAddresses)
    http_host: str = "0.0.0.0"  # noqa: S104 - probes and metrics come from outside the pod
    http_port: int = 8080
    xds_host: str = "[::]"
    xds_port: int = 18000
    xds_tls: bool = True
    rounds: int = 16
