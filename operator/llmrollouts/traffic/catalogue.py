"""What every gateway should have now: all deployments put together, with generations.

Each kind of resource has a generation that grows when its content changes; each deployment
remembers at which generation its own part last changed. "Acknowledged up to generation N" then
says for every deployment whether a gateway has its newest content. Holds no connection and reads
no clock; called by gateway.py, read by the streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, VirtualHost
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import HttpRequestHeaderMatchInput

from llmrollouts.rollout.intent import DeploymentTraffic
from llmrollouts.traffic import wire
from llmrollouts.traffic.encoding import encode
from llmrollouts.traffic.kinds import Kind
from llmrollouts.traffic.layer import encode_fractions, encode_layer
from llmrollouts.traffic.listener import make_listener
from llmrollouts.traffic.routes import make_frame
from llmrollouts.traffic.settings import GatewaySettings
from llmrollouts.traffic.translation import Translation, translate

KNOWN_IN_ANY = (Route, HttpConnectionManager, HeaderMutation, Router, HttpRequestHeaderMatchInput)
_VIRTUAL_HOSTS = 2  # field number in RouteConfiguration


@dataclass(slots=True)
class Entry:
    """One deployment: its translation, and the generations at which its parts changed."""

    translation: Translation
    routes_at: int
    shares_at: int
    # What the layer holds for it now: the translation's fractions while its lease holds.
    effective: Mapping[str, int] = field(default_factory=dict)
    part: bytes = b""


class Catalogue:
    """The wanted content of all gateways."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.entries: dict[str, Entry] = {}
        self.clusters: dict[str, bytes] = {}
        # Cluster name -> (generation of its last change, serialized assignment).
        self.assignments: dict[str, tuple[int, bytes]] = {}
        self.generation: dict[Kind, int] = dict.fromkeys(Kind, 1)
        self._uid_at: dict[tuple[str, str], str] = {}
        self._routes: tuple[int, bytes] | None = None
        self._layer: tuple[int, bytes] | None = None

    def put(self, traffic: DeploymentTraffic) -> None:
        """Take in what one deployment wants; its shares stay as they are until ``allow``."""
        place = (traffic.namespace, traffic.name)
        older = self._uid_at.get(place)
        if older is not None and older != traffic.uid:
            # Deleted and made again under the same name: the path belongs to the new one.
            self.remove(older)
        entry = self.entries.get(traffic.uid)
        was = entry.translation if entry else None
        new = translate(traffic, self.settings, was)
        self._uid_at[place] = traffic.uid
        if entry is None:
            entry = self.entries[traffic.uid] = Entry(new, self._next(Kind.ROUTES), 0)
        elif was is not None and was.table is not new.table:
            entry.routes_at = self._next(Kind.ROUTES)
        entry.translation = new
        self._replace_clusters(was, new)

    def allow(self, uid: str, *, shares: bool) -> None:
        """Let the deployment's shares and mirrors take effect, or set all of them to 0."""
        entry = self.entries.get(uid)
        if entry is None:
            return
        effective = entry.translation.fractions if shares else {}
        if effective != entry.effective:
            entry.effective = effective
            entry.part = encode_fractions(effective) if effective else b""
            entry.shares_at = self._next(Kind.SHARES)

    def remove(self, uid: str) -> None:
        entry = self.entries.pop(uid, None)
        if entry is None:
            return
        traffic = entry.translation.traffic
        self._uid_at.pop((traffic.namespace, traffic.name), None)
        self._next(Kind.ROUTES)
        if entry.effective:
            self._next(Kind.SHARES)
        self._replace_clusters(entry.translation, None)

    @property
    def has_shares(self) -> bool:
        """Some share or mirror is above 0 in the layer."""
        return any(entry.effective for entry in self.entries.values())

    def listener(self, port: int) -> bytes:
        return encode(Listener, make_listener(self.settings, port))

    def routes(self) -> bytes:
        """The route configuration of the current generation."""
        generation = self.generation[Kind.ROUTES]
        if self._routes is None or self._routes[0] != generation:
            frame, host = make_frame(self.settings, empty=not self.entries)
            hosts = encode(VirtualHost, host) + b"".join(
                entry.translation.table for entry in self.entries.values()
            )
            content = encode(RouteConfiguration, frame) + wire.delimited(_VIRTUAL_HOSTS, hosts)
            self._routes = (generation, content)
        return self._routes[1]

    def layer(self) -> bytes:
        """The whole runtime layer of the current generation."""
        generation = self.generation[Kind.SHARES]
        if self._layer is None or self._layer[0] != generation:
            parts = b"".join(entry.part for entry in self.entries.values() if entry.part)
            self._layer = (generation, encode_layer(parts))
        return self._layer[1]

    def _replace_clusters(self, was: Translation | None, new: Translation | None) -> None:
        old_clusters = was.clusters if was else {}
        new_clusters = new.clusters if new else {}
        if old_clusters is not new_clusters and old_clusters != new_clusters:
            for name in old_clusters.keys() - new_clusters.keys():
                del self.clusters[name]
                del self.assignments[name]
            self.clusters.update(new_clusters)
            self._next(Kind.CLUSTERS)
        if new is None or (was is not None and was.assignments is new.assignments):
            return
        old = was.assignments if was else {}
        changed = {n: data for n, data in new.assignments.items() if old.get(n) != data}
        if changed:
            generation = self._next(Kind.ENDPOINTS)
            self.assignments.update({n: (generation, data) for n, data in changed.items()})

    def _next(self, kind: Kind) -> int:
        self.generation[kind] += 1
        return self.generation[kind]
