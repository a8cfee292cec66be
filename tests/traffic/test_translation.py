"""One deployment in, the proxies' resources out: golden files, and what must not be made anew.

``golden/<case>.in.yaml`` holds the traffic, ``<case>.out.yaml`` what Envoy would read from the
serialized resources. ``UPDATE_GOLDEN=1`` writes the outputs anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.service.runtime.v3 import Runtime

from llmrollouts.api.share import Share
from llmrollouts.rollout.intent import DeploymentTraffic, Endpoint, RevisionTraffic
from llmrollouts.traffic.catalogue import Catalogue
from llmrollouts.traffic.settings import GatewaySettings
from llmrollouts.traffic.translation import translate

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name.removesuffix(".in.yaml") for path in GOLDEN.glob("*.in.yaml"))


def read_traffic(document: dict[str, Any]) -> DeploymentTraffic:
    revisions = tuple(
        RevisionTraffic(
            revision=one["revision"],
            endpoints=tuple(
                Endpoint(address, 8000, f"{one['revision']}-{number}")
                for number, address in enumerate(one.get("addresses", ()))
            ),
            share=Share.parse(one.get("share", "0%")),
            mirror=Share.parse(one.get("mirror", "0%")),
            fallback=one.get("fallback"),
        )
        for one in document["revisions"]
    )
    return DeploymentTraffic(
        document["namespace"], document["name"], document["uid"], document["default"], revisions
    )


def resources_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """What the proxies would read back from the bytes that they are sent."""
    catalogue = Catalogue(GatewaySettings())
    for document in documents:
        traffic = read_traffic(document)
        catalogue.put(traffic)
        catalogue.allow(traffic.uid, shares=True)
    return {
        "clusters": [Cluster.parse(data).to_dict() for data in catalogue.clusters.values()],
        "endpoints": [
            ClusterLoadAssignment.parse(data).to_dict()
            for _, data in catalogue.assignments.values()
        ],
        "routes": RouteConfiguration.parse(catalogue.routes()).to_dict(),
        "layer": Runtime.parse(catalogue.layer()).to_dict(),
    }


@pytest.mark.parametrize("case", CASES)
def test_the_resources_of_a_case(case: str, update_golden: bool) -> None:
    documents = list(yaml.safe_load_all((GOLDEN / f"{case}.in.yaml").read_text()))
    out = yaml.safe_dump(resources_of(documents), sort_keys=False, width=100)
    path = GOLDEN / f"{case}.out.yaml"
    if update_golden:
        path.write_text(out)
    assert out == path.read_text()


def test_there_are_cases() -> None:
    assert len(CASES) >= 4


def test_the_listener(update_golden: bool) -> None:
    message = Listener.parse(Catalogue(GatewaySettings()).listener(8080))
    out = yaml.safe_dump(message.to_dict(), sort_keys=False, width=100)
    path = GOLDEN / "listener.out.yaml"
    if update_golden:
        path.write_text(out)
    assert out == path.read_text()


A = RevisionTraffic("a", (Endpoint("10.0.0.1", 8000, "a-0"),))
B = RevisionTraffic("b", (Endpoint("10.0.0.2", 8000, "b-0"),), fallback="a")
TRAFFIC = DeploymentTraffic("prod", "chat", "uid", "a", (A, B))
SETTINGS = GatewaySettings()


def test_a_changed_share_makes_nothing_else_anew() -> None:
    before = translate(TRAFFIC, SETTINGS)
    raised = replace(TRAFFIC, revisions=(A, replace(B, share=Share.parse("5%"))))
    after = translate(raised, SETTINGS, before)
    assert after.table is before.table
    assert after.assignments is before.assignments
    assert after.clusters is before.clusters
    assert after.fractions == {"uid/b/share": 50_000}


def test_a_changed_endpoint_makes_no_route_anew() -> None:
    before = translate(TRAFFIC, SETTINGS)
    moved = replace(TRAFFIC, revisions=(A, replace(B, endpoints=())))
    after = translate(moved, SETTINGS, before)
    assert after.table is before.table
    assert after.assignments["live/uid/b"] != before.assignments["live/uid/b"]
    assert after.assignments["live/uid/a"] == before.assignments["live/uid/a"]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (replace(TRAFFIC, default="c"), "default 'c'"),
        (replace(TRAFFIC, revisions=(A, replace(B, fallback="c"))), "fallback 'c'"),
        (
            replace(TRAFFIC, revisions=(replace(A, endpoints=(Endpoint("nowhere", 1, "p"),)),)),
            "now",
        ),
        (replace(TRAFFIC, revisions=(replace(A, endpoints=(Endpoint("10.0.0.1", 0, "p"),)),)), "0"),
    ],
)
def test_what_no_proxy_could_follow_is_refused_before_it_is_sent(
    broken: DeploymentTraffic, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        translate(broken, SETTINGS)


def test_shares_of_two_canaries_and_a_mirror_add_up_in_one_random_number() -> None:
    traffic = replace(
        TRAFFIC,
        revisions=(
            A,
            replace(B, share=Share.parse("1%"), mirror=Share.parse("20%")),
            RevisionTraffic("c", (), Share.parse("5%"), fallback="a"),
        ),
    )
    assert translate(traffic, SETTINGS).fractions == {
        "uid/b/share": 10_000,
        "uid/c/share": 60_000,
        "uid/b/mirror": 260_000,
    }


def test_the_default_keeps_its_own_key_while_a_promotion_clears() -> None:
    traffic = replace(TRAFFIC, default="b", revisions=(A, replace(B, share=Share.parse("100%"))))
    assert translate(traffic, SETTINGS).fractions == {"uid/b/share": 1_000_000}


def test_a_deployment_made_anew_under_the_same_name_takes_the_path_over() -> None:
    catalogue = Catalogue(SETTINGS)
    catalogue.put(TRAFFIC)
    catalogue.put(replace(TRAFFIC, uid="other"))
    assert catalogue.entries.keys() == {"other"}
    assert all("/other/" in name for name in catalogue.clusters)
    catalogue.remove("other")
    assert not catalogue.clusters
    assert not catalogue.assignments
