"""spec.traffic: what is refused before anything runs, by the models and by the API server."""

from __future__ import annotations

from typing import Any

import pytest

from llmrollouts.api.deployment import InvalidSpec, read_spec
from tests.api.manifests import Applier, canary, make_manifest, shadow

ROUTE = {"provider": "HTTPRoute", "httpRoute": {"name": "chat"}}
CANARIES = [canary("0.5%"), canary("5%")]

REFUSED: dict[str, tuple[dict[str, Any], list[dict[str, Any]] | None, str]] = {
    "a route without its name": ({"provider": "HTTPRoute"}, CANARIES, "traffic.httpRoute names"),
    "a route beside the built-in gateway": (
        {"httpRoute": {"name": "chat"}},
        CANARIES,
        "traffic.httpRoute names the route for provider HTTPRoute",
    ),
    "two ways to find the rule": (
        {"provider": "HTTPRoute", "httpRoute": {"name": "chat", "ruleName": "a", "ruleIndex": 0}},
        CANARIES,
        "leave ruleName or ruleIndex out",
    ),
    "a shadow step": (ROUTE, [shadow("5%"), *CANARIES], "an HTTPRoute copies no requests"),
    "the default steps, which have one": (ROUTE, None, "an HTTPRoute copies no requests"),
}


def make(traffic: dict[str, Any], steps: list[dict[str, Any]] | None) -> dict[str, Any]:
    manifest = make_manifest()
    manifest["spec"]["traffic"] = traffic
    if steps is not None:
        manifest["spec"]["strategy"] = {"steps": steps}
    return manifest


def test_the_built_in_gateway_is_the_default() -> None:
    assert read_spec(make_manifest()).traffic.provider == "Gateway"


@pytest.mark.parametrize(
    "reference",
    [{"name": "chat"}, {"name": "chat", "ruleName": "v1"}, {"name": "c", "ruleIndex": 0}],
)
def test_a_rule_is_found_by_name_by_place_or_by_itself(reference: dict[str, Any]) -> None:
    spec = read_spec(make({"provider": "HTTPRoute", "httpRoute": reference}, CANARIES))
    assert spec.traffic.http_route is not None
    assert spec.traffic.http_route.rule_index == reference.get("ruleIndex")


@pytest.mark.parametrize(("traffic", "steps", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_no_route_can_do_is_refused(
    traffic: dict[str, Any], steps: list[dict[str, Any]] | None, told: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        read_spec(make(traffic, steps))
    assert told in str(refused.value)


@pytest.mark.apiserver
@pytest.mark.parametrize(("traffic", "steps", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_the_api_server_refuses_it_at_apply(
    applier: Applier, traffic: dict[str, Any], steps: list[dict[str, Any]] | None, told: str
) -> None:
    answer = applier.try_create(make(traffic, steps))
    assert answer.status == 422
    assert told in answer.message


@pytest.mark.apiserver
def test_the_way_of_the_users_stays_while_a_revision_is_on_its_way(applier: Applier) -> None:
    created = applier.create(make(ROUTE, CANARIES))
    created["status"] = {"stableRevision": "aaaaaaaaaa", "canaryRevision": "bbbbbbbbbb"}
    rolling = applier.put(created, "/status")
    assert rolling.status == 200, rolling.message
    changed = {**rolling.body, "spec": {**rolling.body["spec"], "traffic": {"provider": "Gateway"}}}
    answer = applier.put(changed)
    assert answer.status == 422
    assert "traffic cannot be changed while a revision is on its way" in answer.message
    # Everything else may be changed, and the traffic too once the rollout is over.
    grown = {**rolling.body, "spec": {**rolling.body["spec"], "replicas": 3}}
    grew = applier.put(grown)
    assert grew.status == 200, grew.message
    over = applier.put({**grew.body, "status": {"stableRevision": "aaaaaaaaaa"}}, "/status")
    assert over.status == 200, over.message
    moved = {**over.body, "spec": {**over.body["spec"], "traffic": {"provider": "Gateway"}}}
    answer = applier.put(moved)
    assert answer.status == 200, answer.message
