"""The five kinds of resources that a gateway asks for, and their type names."""

from __future__ import annotations

from enum import Enum
from typing import Final

_PREFIX: Final = "type.googleapis.com/"


class Kind(Enum):
    CLUSTERS = _PREFIX + "envoy.config.cluster.v3.Cluster"
    ENDPOINTS = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENERS = _PREFIX + "envoy.config.listener.v3.Listener"
    ROUTES = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
    SHARES = _PREFIX + "envoy.service.runtime.v3.Runtime"

    @property
    def label(self) -> str:
        return self.name.lower()


BY_TYPE: Final = {kind.value: kind for kind in Kind}
