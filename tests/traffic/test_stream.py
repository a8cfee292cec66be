"""The conversation with one gateway, without a gateway: what is sent in which order, and what an
acknowledgement means."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.service.discovery.v3 import (
    DiscoveryRequest as Message,
)
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse, Resource
from envoy_data_plane.envoy.service.runtime.v3 import Runtime
from envoy_data_plane.google.rpc import Status

from llmrollouts.api.share import NONE, Share
from llmrollouts.rollout.intent import DeploymentTraffic, Endpoint, RevisionTraffic
from llmrollouts.traffic.catalogue import Catalogue
from llmrollouts.traffic.gateways import Gateways
from llmrollouts.traffic.kinds import Kind
from llmrollouts.traffic.requests import DiscoveryRequest, GatewayNode
from llmrollouts.traffic.settings import GatewaySettings
from llmrollouts.traffic.stream import GatewayStream, Response

A = RevisionTraffic("a", (Endpoint("10.0.0.1", 8000, "a-0"),))
B = RevisionTraffic("b", (Endpoint("10.0.0.2", 8000, "b-0"),), Share.parse("5%"), fallback="a")
BOTH = DeploymentTraffic("prod", "chat", "uid", "a", (A, B))
ALONE = replace(BOTH, revisions=(A,))
AT_REST = replace(BOTH, revisions=(A, replace(B, share=NONE)))


def request(
    kind: Kind, *names: str, nonce: str = "", version: str = "", error: str | None = None
) -> DiscoveryRequest:
    """As it comes from the wire."""
    message = Message(
        version_info=version,
        resource_names=list(names),
        type_url=kind.value,
        response_nonce=nonce,
        error_detail=Status(code=13, message=error) if error else None,
    )
    return DiscoveryRequest.parse(bytes(message))


@dataclass
class Envoy:
    """Does what Envoy does: subscribes in its order, holds the acknowledgement of clusters back
    until each has endpoints, and acknowledges everything else at once."""

    stream: GatewayStream
    now: float = 0.0
    log: list[str] = field(default_factory=list)
    clusters: set[str] = field(default_factory=set)
    warm: set[str] = field(default_factory=set)
    routed: set[str] = field(default_factory=set)
    shares: dict[str, float] = field(default_factory=dict)
    withheld: str | None = None
    refuse: Kind | None = None

    def connect(self, version: str = "") -> None:
        self.stream.read(request(Kind.SHARES, "shares", version=version))
        self.stream.read(request(Kind.CLUSTERS, version=version))
        if self.clusters:
            self.stream.read(request(Kind.ENDPOINTS, *self.clusters, version=version))

    def subscribe_listener(self) -> None:
        self.stream.read(request(Kind.LISTENERS))
        self.stream.read(request(Kind.ROUTES, "users"))

    def talk(self) -> list[str]:
        """Take messages in and answer until nothing comes; what came, in its order."""
        begun = len(self.log)
        while (response := self.stream.next_response(self.now, restricted=False)) is not None:
            self.take(response)
        return self.log[begun:]

    def take(self, response: Response) -> None:
        self.log.append(response.kind.label)
        message = DiscoveryResponse.parse(response.data)
        bodies = [any_.value for any_ in message.resources]
        if response.kind is self.refuse:
            self.stream.read(request(response.kind, nonce=response.nonce, error="I cannot"))
            return
        match response.kind:
            case Kind.CLUSTERS:
                self._take_clusters({Cluster.parse(b).name for b in bodies}, response.nonce)
                return
            case Kind.ENDPOINTS:
                self.warm |= {ClusterLoadAssignment.parse(b).cluster_name for b in bodies}
                self._answer(response, *self.clusters)
                self._release()
                return
            case Kind.ROUTES:
                text = str(RouteConfiguration.parse(bodies[0]).to_dict())
                self.routed = {name for name in self.clusters if name in text}
                assert self.routed <= self.warm, "routes to clusters without endpoints"
            case Kind.SHARES:
                wrapped = Resource.parse(bodies[0])
                assert wrapped.resource is not None
                layer = Runtime.parse(wrapped.resource.value).layer
                self.shares = {
                    key: value.struct_value.fields["numerator"].number_value or 0
                    for key, value in (layer.fields if layer else {}).items()
                    if value.struct_value
                }
            case _:
                pass
        self._answer(response)

    def _take_clusters(self, names: set[str], nonce: str) -> None:
        assert self.routed <= names, "a cluster went while routes still named it"
        new = names - self.clusters
        self.warm &= names
        changed = names != self.clusters
        self.clusters = names
        self.withheld = nonce
        if changed and (names or new):
            self.stream.read(request(Kind.ENDPOINTS, *names, nonce=self._endpoint_nonce))
        self._release()

    _endpoint_nonce: str = ""

    def _answer(self, response: Response, *names: str) -> None:
        if response.kind is Kind.ENDPOINTS:
            self._endpoint_nonce = response.nonce
        self.stream.read(request(response.kind, *names, nonce=response.nonce, version="v"))

    def _release(self) -> None:
        if self.withheld is not None and self.clusters <= self.warm:
            nonce, self.withheld = self.withheld, None
            self.stream.read(request(Kind.CLUSTERS, nonce=nonce, version="v"))


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(GatewaySettings())


def put(catalogue: Catalogue, traffic: DeploymentTraffic) -> None:
    catalogue.put(traffic)
    catalogue.allow(traffic.uid, shares=True)


def connected(catalogue: Catalogue) -> Envoy:
    envoy = Envoy(GatewayStream(catalogue, GatewayNode("g", None), 0.0))
    envoy.connect()
    envoy.talk()
    envoy.subscribe_listener()
    envoy.talk()
    return envoy


def has_all(envoy: Envoy, uid: str = "uid") -> bool:
    return envoy.stream.has_routes_of(uid) and envoy.stream.has_shares_of(uid)


def test_a_new_gateway_gets_clusters_then_endpoints_then_routes(catalogue: Catalogue) -> None:
    put(catalogue, BOTH)
    envoy = connected(catalogue)
    assert envoy.log == ["shares", "clusters", "endpoints", "listeners", "routes"]
    assert envoy.shares == {"uid/b/share": 50_000}
    assert has_all(envoy)


def test_a_new_revision_reaches_the_routes_last_and_an_old_one_leaves_them_first(
    catalogue: Catalogue,
) -> None:
    put(catalogue, ALONE)
    envoy = connected(catalogue)
    put(catalogue, BOTH)
    assert not has_all(envoy)
    assert envoy.talk() == ["shares", "clusters", "endpoints", "routes"]
    assert has_all(envoy)
    put(catalogue, ALONE)
    assert not has_all(envoy)
    assert envoy.talk() == ["shares", "routes", "clusters"]
    assert envoy.clusters == {"live/uid/a"}
    assert has_all(envoy)


def test_a_share_is_one_message_and_routes_are_left_alone(catalogue: Catalogue) -> None:
    put(catalogue, BOTH)
    envoy = connected(catalogue)
    put(catalogue, AT_REST)
    assert envoy.stream.has_routes_of("uid")
    assert not envoy.stream.has_shares_of("uid")
    assert envoy.talk() == ["shares"]
    assert envoy.shares == {}
    assert has_all(envoy)


def test_a_moved_worker_is_one_assignment(catalogue: Catalogue) -> None:
    put(catalogue, BOTH)
    put(catalogue, replace(ALONE, name="other", uid="other"))
    envoy = connected(catalogue)
    moved = replace(B, endpoints=(Endpoint("10.0.0.9", 8000, "b-1"),))
    put(catalogue, replace(BOTH, revisions=(A, moved)))
    assert not has_all(envoy)
    response = envoy.stream.next_response(0.0, restricted=False)
    assert response is not None
    message = DiscoveryResponse.parse(response.data)
    names = {ClusterLoadAssignment.parse(a.value).cluster_name for a in message.resources}
    assert names == {"live/uid/b", "mirror/uid/b"}
    envoy.take(response)
    assert has_all(envoy)


def test_the_whole_layer_is_sent_again_with_every_heartbeat(catalogue: Catalogue) -> None:
    put(catalogue, BOTH)
    envoy = connected(catalogue)
    envoy.now = 1.9
    assert envoy.talk() == []
    envoy.now = 2.0
    envoy.shares = {}
    assert envoy.talk() == ["shares"]
    assert envoy.shares == {"uid/b/share": 50_000}
    assert envoy.talk() == []


def test_a_restricted_stream_gets_no_share_and_is_not_settled_by_it(catalogue: Catalogue) -> None:
    put(catalogue, BOTH)
    envoy = connected(catalogue)
    response = envoy.stream.next_response(0.1, restricted=True)
    assert response is not None
    envoy.take(response)
    assert envoy.shares == {}
    assert not envoy.stream.has_shares_of("uid")
    assert envoy.talk() == ["shares"]
    assert has_all(envoy)


def test_a_refusal_is_kept_and_settles_nothing(catalogue: Catalogue) -> None:
    put(catalogue, ALONE)
    envoy = connected(catalogue)
    envoy.refuse = Kind.ROUTES
    put(catalogue, BOTH)
    envoy.talk()
    assert envoy.stream.refusals == ("routes: I cannot",)
    assert not envoy.stream.has_routes_of("uid")
    assert envoy.talk() == []  # the same again would be refused again
    envoy.refuse = None
    put(catalogue, replace(BOTH, default="b", revisions=(A, replace(B, fallback=None))))
    envoy.talk()
    assert not envoy.stream.refusals
    assert has_all(envoy)


def test_an_answer_to_an_old_message_acknowledges_no_new_one(catalogue: Catalogue) -> None:
    put(catalogue, BOTH)
    envoy = connected(catalogue)
    put(catalogue, AT_REST)
    first = envoy.stream.next_response(0.1, restricted=False)
    put(catalogue, BOTH)
    second = envoy.stream.next_response(0.1, restricted=False)
    assert first is not None
    assert second is not None
    envoy.take(first)
    assert not envoy.stream.has_shares_of("uid")
    envoy.take(second)
    assert envoy.stream.has_shares_of("uid")


def test_a_cluster_that_goes_before_it_was_warm_blocks_nothing(catalogue: Catalogue) -> None:
    put(catalogue, ALONE)
    envoy = connected(catalogue)
    put(catalogue, BOTH)
    response = envoy.stream.next_response(0.0, restricted=False)
    assert response is not None
    envoy.take(response)  # shares
    clusters = envoy.stream.next_response(0.0, restricted=False)
    assert clusters is not None
    put(catalogue, ALONE)
    envoy.take(clusters)
    envoy.talk()
    assert envoy.clusters == {"live/uid/a"}
    assert has_all(envoy)


def test_a_gateway_that_comes_back_keeps_the_clusters_its_routes_name(
    catalogue: Catalogue,
) -> None:
    """The new leader has never heard of revision a, which the gateway's routes still name."""
    put(catalogue, replace(BOTH, default="b", revisions=(replace(B, fallback=None),)))
    envoy = Envoy(GatewayStream(catalogue, GatewayNode("g", None), 0.0))
    envoy.clusters = envoy.warm = {"live/uid/a"}
    envoy.routed = {"live/uid/a"}
    envoy.connect(version="7")
    envoy.talk()
    assert "live/uid/a" in envoy.clusters
    envoy.subscribe_listener()
    envoy.talk()
    assert envoy.clusters == {"live/uid/b"}
    assert has_all(envoy)


def test_a_gateway_that_comes_back_is_waited_for_until_it_has_named_its_clusters(
    catalogue: Catalogue,
) -> None:
    put(catalogue, ALONE)
    stream = GatewayStream(catalogue, GatewayNode("g", None), 0.0)
    stream.read(request(Kind.CLUSTERS, version="7"))
    assert stream.next_response(0.5, restricted=False) is None
    response = stream.next_response(1.1, restricted=False)
    assert response is not None
    assert response.kind is Kind.CLUSTERS


def test_a_gateway_that_answers_no_heartbeat_is_mute(catalogue: Catalogue) -> None:
    stream = GatewayStream(catalogue, GatewayNode("g", None), 0.0)
    stream.read(request(Kind.SHARES, "shares"))
    response = stream.next_response(0.0, restricted=False)
    assert response is not None
    assert not stream.is_mute(5.9)
    assert stream.is_mute(6.1)
    stream.read(request(Kind.SHARES, "shares", nonce=response.nonce))
    assert not stream.is_mute(6.1)


def test_the_node_says_who_it_is_and_where_it_listens() -> None:
    node = Node.from_dict({"id": "pod-1", "metadata": {"listen_port": 8888}})
    assert GatewayNode.parse(bytes(node)) == GatewayNode("pod-1", 8888)
    assert GatewayNode.parse(bytes(Node(id="pod-1"))) == GatewayNode("pod-1", None)
    with pytest.raises(ValueError, match="no node id"):
        GatewayNode.parse(b"")
    bad = Node.from_dict({"id": "pod-1", "metadata": {"listen_port": 99999}})
    with pytest.raises(ValueError, match="port 99999"):
        GatewayNode.parse(bytes(bad))


# --- all gateways together -------------------------------------------------------------------


def test_only_gateways_that_can_carry_users_count(catalogue: Catalogue) -> None:
    put(catalogue, BOTH)
    gateways = Gateways(catalogue, 0.0)
    gateways.expect(frozenset({"g"}))
    starting = GatewayStream(catalogue, GatewayNode("starting", None), 0.0)
    gateways.connect(starting)
    envoy = connected(catalogue)
    gateways.connect(envoy.stream)
    assert gateways.counted() == {"g"}
    assert gateways.settlement("uid", 0.0).complete
    gateways.expect(frozenset())
    assert gateways.counted() == {"g"}  # connected and serving, though no endpoint
    gateways.disconnect(envoy.stream, 1.0)
    assert gateways.counted() == frozenset()


def test_a_silent_gateway_settles_a_lowered_share_after_its_ttl_and_a_route_never(
    catalogue: Catalogue,
) -> None:
    put(catalogue, BOTH)
    gateways = Gateways(catalogue, 0.0)
    gateways.expect(frozenset({"g"}))
    envoy = connected(catalogue)
    gateways.connect(envoy.stream)
    gateways.disconnect(envoy.stream, 100.0)
    assert not gateways.settlement("uid", 200.0).complete  # it should have 5 %, and has 0
    put(catalogue, AT_REST)
    assert not gateways.settlement("uid", 112.9).complete
    assert gateways.settlement("uid", 113.1).complete
    put(catalogue, ALONE)
    assert not gateways.settlement("uid", 1000.0).complete


def test_a_gateway_never_heard_of_settles_only_what_this_process_has_not_changed(
    catalogue: Catalogue,
) -> None:
    put(catalogue, AT_REST)
    gateways = Gateways(catalogue, 0.0)
    gateways.opened_generation = catalogue.generation[Kind.ROUTES]
    gateways.expect(frozenset({"g"}))
    assert not gateways.settlement("uid", 12.0).complete
    assert gateways.settlement("uid", 13.1).complete
    put(catalogue, ALONE)
    assert not gateways.settlement("uid", 1000.0).complete
