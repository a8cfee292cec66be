"""One deployment's traffic as the proxies' resources, serialized: pure, and made once per change.

A part whose inputs did not change is taken from the previous translation as it is: a changed share
costs neither routes nor endpoints. Called by the catalogue.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment

# Not used by name: importing a module makes its messages known, so that they can stand in an Any.
from envoy_data_plane.envoy.config.route.v3 import RouteList, VirtualHost
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.extensions.retry.priority.previous_priorities.v3 import (
    PreviousPrioritiesConfig,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions

from llmrollouts.rollout.intent import DeploymentTraffic, RevisionTraffic
from llmrollouts.traffic.clusters import make_assignment, make_cluster
from llmrollouts.traffic.document import Document
from llmrollouts.traffic.encoding import encode
from llmrollouts.traffic.layer import fractions
from llmrollouts.traffic.names import ClusterName
from llmrollouts.traffic.routes import make_table
from llmrollouts.traffic.settings import GatewaySettings

KNOWN_IN_ANY = (RouteList, PreviousHostsPredicate, PreviousPrioritiesConfig, HttpProtocolOptions)


@dataclass(frozen=True, slots=True)
class Translation:
    """What the proxies get for one deployment.

    clusters, assignments: cluster name -> serialized resource. table: a part of the virtual host.
    fractions: runtime key -> parts per million while the lease holds.
    """

    traffic: DeploymentTraffic
    clusters: Mapping[str, bytes]
    assignments: Mapping[str, bytes]
    table: bytes
    fractions: Mapping[str, int]


def translate(
    traffic: DeploymentTraffic, settings: GatewaySettings, previous: Translation | None = None
) -> Translation:
    """Raises ValueError for a default that does not live, a fallback that does not live, or an
    address that is none: one bad resource would make the proxies refuse the others with it."""
    same_routes = previous is not None and _route_inputs(previous.traffic) == _route_inputs(traffic)
    if previous is not None and same_routes:
        clusters, table, assignments = previous.clusters, previous.table, previous.assignments
        if _endpoint_inputs(previous.traffic) != _endpoint_inputs(traffic):
            assignments = _encode_assignments(make_assignments(traffic))
    else:
        documents = make_assignments(traffic)
        clusters = {name: encode_cluster(ClusterName.parse(name), settings) for name in documents}
        assignments = _encode_assignments(documents)
        table = encode(VirtualHost, make_table(traffic, settings))
    return Translation(traffic, clusters, assignments, table, fractions(traffic))


def make_assignments(traffic: DeploymentTraffic) -> dict[str, Document]:
    """Every cluster of the deployment with its endpoints. The default has no mirror cluster."""
    by_name = {revision.revision: revision for revision in traffic.revisions}
    out: dict[str, Document] = {}
    for revision in traffic.revisions:
        _check_addresses(revision)
        fallback = None
        if revision.fallback is not None and revision.fallback != revision.revision:
            if revision.fallback not in by_name:
                raise ValueError(
                    f"the fallback {revision.fallback!r} of revision {revision.revision} is none "
                    "of the living revisions"
                )
            fallback = (revision.fallback, by_name[revision.fallback].endpoints)
        live = ClusterName("live", traffic.uid, revision.revision)
        out[str(live)] = make_assignment(live, revision.endpoints, fallback)
        if traffic.default is not None and revision.revision != traffic.default:
            mirror = ClusterName("mirror", traffic.uid, revision.revision)
            out[str(mirror)] = make_assignment(mirror, revision.endpoints)
    return out


@lru_cache(maxsize=8192)
def encode_cluster(name: ClusterName | None, settings: GatewaySettings) -> bytes:
    if name is None:
        raise ValueError("only clusters named by ClusterName can be described")
    return encode(Cluster, make_cluster(name, settings))


def _encode_assignments(documents: Mapping[str, Document]) -> dict[str, bytes]:
    return {name: encode(ClusterLoadAssignment, doc) for name, doc in documents.items()}


def _route_inputs(traffic: DeploymentTraffic) -> object:
    revisions = tuple((r.revision, r.fallback) for r in traffic.revisions)
    return (traffic.namespace, traffic.name, traffic.uid, traffic.default, revisions)


def _endpoint_inputs(traffic: DeploymentTraffic) -> object:
    return tuple((r.revision, r.endpoints, r.fallback) for r in traffic.revisions)


def _check_addresses(revision: RevisionTraffic) -> None:
    for endpoint in revision.endpoints:
        ipaddress.ip_address(endpoint.address)
        if not 0 < endpoint.port < 65536:
            raise ValueError(f"{endpoint.pod} has no port {endpoint.port}")
