"""The quick encoder writes what the generated classes would, for all that the gateway uses."""

from __future__ import annotations

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, OutlierDetection
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration, VirtualHost

from llmrollouts.rollout.intent import DeploymentTraffic, Endpoint, RevisionTraffic
from llmrollouts.traffic.clusters import make_assignment, make_cluster
from llmrollouts.traffic.document import Document
from llmrollouts.traffic.encoding import Message, encode
from llmrollouts.traffic.listener import make_listener
from llmrollouts.traffic.names import ClusterName
from llmrollouts.traffic.routes import make_frame, make_table
from llmrollouts.traffic.settings import GatewaySettings

SETTINGS = GatewaySettings()
A = RevisionTraffic("a", (Endpoint("10.0.0.1", 8000, "a-0"), Endpoint("fd00::1", 8000, "a-1")))
B = RevisionTraffic("b", (), fallback="a")
TRAFFIC = DeploymentTraffic("prod", "chat", "uid", "a", (A, B))
LIVE = ClusterName("live", "uid", "b")


@pytest.mark.parametrize(
    ("message", "document"),
    [
        (Cluster, make_cluster(ClusterName("mirror", "uid", "b"), SETTINGS)),
        (ClusterLoadAssignment, make_assignment(LIVE, A.endpoints, ("b", A.endpoints))),
        (ClusterLoadAssignment, make_assignment(LIVE, ())),
        (VirtualHost, make_table(TRAFFIC, SETTINGS)),
        (VirtualHost, make_frame(SETTINGS, empty=True)[1]),
        (VirtualHost, make_frame(SETTINGS, empty=False)[1]),
        (RouteConfiguration, make_frame(SETTINGS, empty=True)[0]),
        (Listener, make_listener(SETTINGS, 8080)),
    ],
)
def test_both_ways_of_writing_read_the_same(message: Message, document: Document) -> None:
    by_object = message.parse(bytes(message.from_dict(document)))
    # As documents: inside an Any two writings of one message may differ in their bytes.
    assert message.parse(encode(message, document)).to_dict() == by_object.to_dict()


def test_a_field_that_the_generated_reader_cannot_spell_is_written() -> None:
    document: Document = {"enforcing_consecutive_5xx": 0, "consecutive_5xx": 3}
    read = OutlierDetection.parse(encode(OutlierDetection, document))
    assert read.enforcing_consecutive_5xx == 0
    assert read.consecutive_5xx == 3


@pytest.mark.parametrize(
    ("document", "error", "says"),
    [
        ({"no_such_field": 1}, KeyError, "no_such_field"),
        ({"name": 1}, TypeError, "name"),
        ({"connect_timeout": "5"}, ValueError, "write seconds"),
        ({"connect_timeout": 5}, TypeError, "connect_timeout"),
        ({"type": "NOWHERE"}, ValueError, "NOWHERE"),
        ({"circuit_breakers": {"thresholds": {}}}, TypeError, "thresholds"),
        ({"outlier_detection": {"consecutive_5xx": -1}}, ValueError, "from 0"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(
    document: Document, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        encode(Cluster, document)
