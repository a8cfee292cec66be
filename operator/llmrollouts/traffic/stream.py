"""What one connected gateway has been sent, has acknowledged, and is to be sent next.

The order that no user notices: clusters, then their endpoints, then the routes that use them; what
goes leaves the routes first. A gateway acknowledges clusters only once they have endpoints, so
routes wait for that acknowledgement, and a cluster stays in the list of a gateway for as long as
routes that it may be using name it. Shares are independent and go first.

Does no input or output and reads no clock: ads.py carries bytes in and out, and says the time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

from llmrollouts.traffic import wire
from llmrollouts.traffic.catalogue import Catalogue
from llmrollouts.traffic.kinds import Kind
from llmrollouts.traffic.layer import encode_layer
from llmrollouts.traffic.names import LAYER, LISTENER, ClusterName
from llmrollouts.traffic.requests import DiscoveryRequest, GatewayNode
from llmrollouts.traffic.translation import encode_cluster

log = logging.getLogger(__name__)

# How long a gateway that comes back may take to name the clusters it still uses.
_NAMING_TIME: Final = 1.0
# A gateway that withholds the acknowledgement of clusters for longer than this waits for endpoints
# that nobody has any more. It gets its routes all the same; it refuses those that it cannot follow.
_WARMING_TIME: Final = 5.0
_RESOURCE: Final = "type.googleapis.com/envoy.service.discovery.v3.Resource"


@dataclass(frozen=True, slots=True)
class Response:
    """One message to a gateway."""

    kind: Kind
    nonce: str
    data: bytes


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a response carried, and when. generation: -1 for a layer without the wanted shares."""

    generation: int
    at: float = 0.0
    names: frozenset[str] = frozenset()
    assignments: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class _Channel:
    """The state of one kind on one stream."""

    names: frozenset[str] = frozenset()
    unanswered: dict[str, _Sent] = field(default_factory=dict)
    sent_generation: int = 0
    acked_generation: int = 0
    refused: str | None = None


class GatewayStream:
    """One stream of one gateway, from its first request to its end."""

    def __init__(self, catalogue: Catalogue, node: GatewayNode, opened_at: float) -> None:
        self.node = node
        self._catalogue = catalogue
        self._opened_at = opened_at
        self._channels: dict[Kind, _Channel] = {}
        self._returning = False
        self._nonce = 0
        # Clusters: what the last response listed, and what was acknowledged.
        self._clusters: dict[str, bytes] = {}
        self._clusters_acked: frozenset[str] = frozenset()
        self._clusters_at = opened_at
        # Something other than the catalogue asks for another look at what was sent.
        self._review_clusters = True
        self._review_assignments = True
        # Clusters that routes of this gateway name, acknowledged or on their way.
        self._referenced: frozenset[str] = frozenset()
        self._assignments_sent: dict[str, int] = {}
        self._assignments_acked: dict[str, int] = {}
        self._beat_at: float | None = None
        self._beat_restricted = False

    # --- what the gateway says ---------------------------------------------------------------

    def read(self, request: DiscoveryRequest) -> str | None:
        """Take in a request. Returns the reason when it refuses what it was sent."""
        kind = request.kind
        if kind is None:
            return None
        channel = self._channels.get(kind)
        if channel is None:
            channel = self._channels[kind] = _Channel()
            if kind is Kind.CLUSTERS:
                self._returning = bool(request.version)
        if kind is Kind.ENDPOINTS:
            self._subscribe(channel, request.names)
        sent = channel.unanswered.pop(request.nonce, None) if request.nonce else None
        if sent is None:
            return None
        # It answers in order: whatever was sent before this is answered too.
        for nonce in list(channel.unanswered):
            if int(nonce) < int(request.nonce):
                del channel.unanswered[nonce]
        if request.error is not None:
            channel.refused = request.error
            if kind is Kind.ENDPOINTS:
                self._forget_assignments(sent)
            return request.error
        channel.refused = None
        self._acknowledge(kind, channel, sent)
        return None

    def _subscribe(self, channel: _Channel, names: frozenset[str]) -> None:
        for gone in channel.names - names:
            self._assignments_sent.pop(gone, None)
            self._assignments_acked.pop(gone, None)
        if not self._clusters:
            # A gateway that comes back: it may be using all of these.
            self._referenced |= names
        channel.names = names
        self._review_assignments = True

    def _forget_assignments(self, sent: _Sent) -> None:
        """Refused endpoints were not taken in; they are sent again when they change."""
        for name, _ in sent.assignments:
            self._assignments_acked.pop(name, None)

    def _acknowledge(self, kind: Kind, channel: _Channel, sent: _Sent) -> None:
        channel.acked_generation = max(channel.acked_generation, sent.generation)
        match kind:
            case Kind.CLUSTERS:
                self._clusters_acked = sent.names
            case Kind.ENDPOINTS:
                self._assignments_acked.update(sent.assignments)
            case Kind.ROUTES:
                in_flight = [later.names for later in channel.unanswered.values()]
                self._referenced = sent.names.union(*in_flight)
                self._review_clusters = True
            case Kind.SHARES if sent.generation < 0:
                channel.acked_generation = -1
            case _:
                pass

    # --- what it gets next -------------------------------------------------------------------

    def next_response(self, now: float, *, restricted: bool) -> Response | None:
        """The next message, or None for nothing to say now. ``restricted``: all shares 0."""
        if Kind.SHARES in self._channels and self._beat_due(now, restricted):
            return self._send_layer(now, restricted)
        if Kind.CLUSTERS not in self._channels or self._waits_for_names(now):
            return None
        return (
            self._send_clusters(now)
            or self._send_assignments()
            or self._send_listener()
            or self._send_routes(now)
        )

    def _beat_due(self, now: float, restricted: bool) -> bool:
        channel = self._channels[Kind.SHARES]
        return (
            self._beat_at is None
            or now - self._beat_at >= self._catalogue.settings.timing.heartbeat
            or restricted != self._beat_restricted
            or (
                not restricted
                and channel.sent_generation != self._catalogue.generation[Kind.SHARES]
            )
        )

    def _send_layer(self, now: float, restricted: bool) -> Response:
        self._beat_at, self._beat_restricted = now, restricted
        generation = -1 if restricted else self._catalogue.generation[Kind.SHARES]
        layer = encode_layer(b"") if restricted else self._catalogue.layer()
        # The wrapper carries the time to live. The body is sent each time: without it the proxy
        # would not start the time anew. Fields: name 3, version 1, resource 2, ttl 6.
        wrapped = (
            wire.delimited(3, LAYER.encode())
            + wire.delimited(1, str(self._nonce).encode())
            + wire.delimited(2, _any(Kind.SHARES.value, layer))
            + wire.delimited(6, wire.duration(self._catalogue.settings.timing.ttl))
        )
        return self._send(Kind.SHARES, _Sent(generation, now), [wrapped], _RESOURCE)

    def _waits_for_names(self, now: float) -> bool:
        return (
            self._returning
            and not self._clusters
            and Kind.ENDPOINTS not in self._channels
            and now - self._opened_at < _NAMING_TIME
        )

    def _send_clusters(self, now: float) -> Response | None:
        channel = self._channels[Kind.CLUSTERS]
        generation = self._catalogue.generation[Kind.CLUSTERS]
        if channel.sent_generation == generation and not self._review_clusters:
            return None
        self._review_clusters = False
        target = dict(self._catalogue.clusters)
        for name in self._referenced - target.keys():
            parsed = ClusterName.parse(name)
            if parsed is not None:
                target[name] = encode_cluster(parsed, self._catalogue.settings)
        first = channel.sent_generation == 0
        channel.sent_generation = generation
        if not first and target == self._clusters:
            return None
        for name, data in target.items():
            if self._clusters.get(name) != data:
                # A new or changed cluster waits for its endpoints, even for the same ones.
                self._assignments_sent.pop(name, None)
        self._review_assignments = True
        self._clusters, self._clusters_at = target, now
        return self._send(
            Kind.CLUSTERS, _Sent(generation, names=frozenset(target)), list(target.values())
        )

    def _send_assignments(self) -> Response | None:
        channel = self._channels.get(Kind.ENDPOINTS)
        if channel is None:
            return None
        generation = self._catalogue.generation[Kind.ENDPOINTS]
        if channel.sent_generation == generation and not self._review_assignments:
            return None
        self._review_assignments = False
        channel.sent_generation = generation
        due: list[tuple[str, int]] = []
        bodies: list[bytes] = []
        for name in channel.names:
            wanted = self._catalogue.assignments.get(name)
            if wanted is not None and self._assignments_sent.get(name) != wanted[0]:
                due.append((name, wanted[0]))
                bodies.append(wanted[1])
        if not due:
            return None
        self._assignments_sent.update(due)
        return self._send(Kind.ENDPOINTS, _Sent(generation, assignments=tuple(due)), bodies)

    def _send_listener(self) -> Response | None:
        channel = self._channels.get(Kind.LISTENERS)
        if channel is None or channel.sent_generation > 0:
            return None
        port = self.node.port or self._catalogue.settings.listen_port
        sent = _Sent(1, names=frozenset({LISTENER}))
        return self._send(Kind.LISTENERS, sent, [self._catalogue.listener(port)])

    def _send_routes(self, now: float) -> Response | None:
        channel = self._channels.get(Kind.ROUTES)
        generation = self._catalogue.generation[Kind.ROUTES]
        if (
            channel is None
            or channel.sent_generation == generation
            or channel.unanswered
            or not self._ready_for_routes(now)
        ):
            return None
        names = frozenset(self._catalogue.clusters)
        self._referenced |= names
        return self._send(Kind.ROUTES, _Sent(generation, names=names), [self._catalogue.routes()])

    def _ready_for_routes(self, now: float) -> bool:
        clusters = self._channels.get(Kind.CLUSTERS)
        endpoints = self._channels.get(Kind.ENDPOINTS)
        return (
            clusters is not None
            and clusters.sent_generation == self._catalogue.generation[Kind.CLUSTERS]
            and (not clusters.unanswered or now - self._clusters_at > _WARMING_TIME)
            and (endpoints is None or not endpoints.unanswered)
        )

    def _send(
        self, kind: Kind, sent: _Sent, bodies: list[bytes], type_url: str | None = None
    ) -> Response:
        channel = self._channels[kind]
        self._nonce += 1
        nonce = str(self._nonce)
        channel.sent_generation = max(0, sent.generation)
        channel.unanswered[nonce] = sent
        # DiscoveryResponse: version_info 1, resources 2, type_url 4, nonce 5.
        data = b"".join(
            [
                wire.delimited(1, nonce.encode()),
                wire.delimited(4, kind.value.encode()),
                wire.delimited(5, nonce.encode()),
                *(wire.delimited(2, _any(type_url or kind.value, body)) for body in bodies),
            ]
        )
        return Response(kind, nonce, data)

    def is_mute(self, now: float) -> bool:
        """It has left a heartbeat unanswered for half of the time to live: frozen, or cut off
        behind a connection that looks open."""
        channel = self._channels.get(Kind.SHARES)
        if channel is None or not channel.unanswered:
            return False
        oldest = min(sent.at for sent in channel.unanswered.values())
        return now - oldest > self._catalogue.settings.timing.ttl / 2

    # --- what it has -------------------------------------------------------------------------

    @property
    def has_routes(self) -> bool:
        """It has acknowledged routes on this stream: it can carry users' requests."""
        channel = self._channels.get(Kind.ROUTES)
        return channel is not None and channel.acked_generation > 0

    @property
    def refusals(self) -> tuple[str, ...]:
        """What it refuses now, by kind of resource, in its own words."""
        return tuple(
            f"{kind.label}: {channel.refused}"
            for kind, channel in self._channels.items()
            if channel.refused is not None
        )

    def has_shares_of(self, uid: str) -> bool:
        entry = self._catalogue.entries.get(uid)
        channel = self._channels.get(Kind.SHARES)
        if entry is None or channel is None:
            return False
        if channel.acked_generation < 0:
            return not entry.effective
        return channel.acked_generation >= max(1, entry.shares_at)

    def has_routes_of(self, uid: str) -> bool:
        """Routes, clusters and endpoints are the wanted ones, and nothing of older ones is left."""
        entry = self._catalogue.entries.get(uid)
        routes = self._channels.get(Kind.ROUTES)
        if entry is None or routes is None or routes.acked_generation < entry.routes_at:
            return False
        wanted = entry.translation.clusters
        if not wanted.keys() <= self._clusters_acked:
            return False
        for name in self._clusters_acked - self._catalogue.clusters.keys():
            parsed = ClusterName.parse(name)
            if parsed is not None and parsed.uid == uid:
                return False
        return all(
            self._assignments_acked.get(name) == self._catalogue.assignments[name][0]
            for name in wanted
        )


def _any(type_url: str, body: bytes) -> bytes:
    return wire.delimited(1, type_url.encode()) + wire.delimited(2, body)
