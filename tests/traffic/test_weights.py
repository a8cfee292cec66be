"""The two weights of a route: found, read, and changed without touching anything else (R20)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.api.manifest import Manifest
from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import WHOLE, Share
from llmrollouts.rollout.intent import RouteRule
from llmrollouts.traffic.weights import (
    Place,
    UnusableRoute,
    Weights,
    find_place,
    make_patch,
    make_weights,
    read_acceptance,
    read_weights,
)
from tests.fakes.json_patch import DoesNotFit, patch_object
from tests.fakes.routes import make_route

BY_ITSELF = RouteRule("chat")
BY_NAME = RouteRule("chat", name="users")
BY_PLACE = RouteRule("chat", index=1)


def problem_of(route: Manifest, rule: RouteRule = BY_ITSELF) -> tuple[Reason, str]:
    with pytest.raises(UnusableRoute) as refused:
        find_place(route, "chat", rule)
    return refused.value.problem.reason, refused.value.problem.message


@pytest.mark.parametrize("rule", [BY_ITSELF, BY_NAME, BY_PLACE])
def test_the_rule_is_found_by_itself_by_name_and_by_place(rule: RouteRule) -> None:
    assert find_place(make_route(), "chat", rule) == Place(rule=1, stable=2, canary=0)


@given(st.integers(0, WHOLE))
def test_every_share_becomes_weights_and_comes_back_exactly(ppm: int) -> None:
    weights = make_weights(Share(ppm))
    assert weights.stable + weights.canary == WHOLE
    assert weights.share == Share(ppm)


def test_a_share_in_the_weights_of_a_person_is_never_understated() -> None:
    assert Weights(2, 1).share == Share(333_334)
    assert Weights(100, 0).share == Share(0)
    assert Weights(0, 0).share == Share(0)


@given(st.integers(0, WHOLE), st.integers(0, WHOLE), st.integers(0, WHOLE))
def test_r20_a_patch_changes_two_weights_and_nothing_else(
    stable: int, canary: int, ppm: int
) -> None:
    route = make_route(stable, canary)
    place = find_place(route, "chat", BY_ITSELF)
    changed = patch_object(route, make_patch(route, place, make_weights(Share(ppm))))
    assert read_weights(changed, place) == make_weights(Share(ppm))
    for backend, weight in ((place.stable, stable), (place.canary, canary)):
        changed["spec"]["rules"][1]["backendRefs"][backend]["weight"] = weight
    assert changed == route


def test_a_weight_that_is_not_written_counts_as_one_and_is_added() -> None:
    route = make_route()
    for index in (0, 2):
        del route["spec"]["rules"][1]["backendRefs"][index]["weight"]
    place = find_place(route, "chat", BY_ITSELF)
    assert read_weights(route, place) == Weights(1, 1)
    changed = patch_object(route, make_patch(route, place, Weights(3, 4)))
    assert read_weights(changed, place) == Weights(3, 4)


def reorder(route: Manifest) -> None:
    route["spec"]["rules"][1]["backendRefs"].reverse()


def rename_rule(route: Manifest) -> None:
    route["spec"]["rules"][1]["name"] = "others"


def put_rule_before(route: Manifest) -> None:
    route["spec"]["rules"].insert(0, {"backendRefs": [{"name": "other", "port": 80}]})


def reweight(route: Manifest) -> None:
    route["spec"]["rules"][1]["backendRefs"][0]["weight"] = 5


def add_filter(route: Manifest) -> None:
    route["spec"]["rules"][1]["backendRefs"][2]["filters"] = [{"type": "RequestMirror"}]


@pytest.mark.parametrize("edit", [reorder, rename_rule, put_rule_before, reweight, add_filter])
def test_a_patch_fails_when_somebody_has_changed_what_it_rests_on(edit: Any) -> None:
    route = make_route()
    patch = make_patch(route, find_place(route, "chat", BY_ITSELF), make_weights(Share(5000)))
    edited = copy.deepcopy(route)
    edit(edited)
    with pytest.raises(DoesNotFit):
        patch_object(edited, patch)


def test_an_edit_elsewhere_does_not_stand_in_the_way() -> None:
    route = make_route()
    patch = make_patch(route, find_place(route, "chat", BY_ITSELF), make_weights(Share(5000)))
    route["spec"]["hostnames"] = ["another.example"]
    route["spec"]["rules"][1]["backendRefs"][1]["weight"] = 8
    changed = patch_object(route, patch)
    assert changed["spec"]["hostnames"] == ["another.example"]
    assert changed["spec"]["rules"][1]["backendRefs"][1]["weight"] == 8


def test_a_rule_that_is_missing_is_told_with_what_to_write() -> None:
    for rule in (RouteRule("chat", name="nobody"), RouteRule("chat", index=9)):
        reason, message = problem_of(make_route(), rule)
        assert reason is Reason.ROUTE_RULE_MISSING
        assert "{name: chat-stable, port: 80, weight: 1000000}" in message
        assert "{name: chat-canary, port: 80, weight: 0}" in message


def test_a_route_of_another_deployment_has_no_rule_for_this_one() -> None:
    with pytest.raises(UnusableRoute) as refused:
        find_place(make_route(), "other", BY_ITSELF)
    assert refused.value.problem.reason is Reason.ROUTE_RULE_MISSING


def test_a_route_without_any_rule_is_told() -> None:
    route = make_route()
    route["spec"].pop("rules")
    assert problem_of(route)[0] is Reason.ROUTE_RULE_MISSING


def test_two_rules_that_both_fit_must_be_told_apart() -> None:
    route = make_route()
    route["spec"]["rules"].append(copy.deepcopy(route["spec"]["rules"][1]))
    reason, message = problem_of(route)
    assert reason is Reason.ROUTE_RULE_MISSING
    assert "rules 1, 2" in message
    assert "ruleIndex" in message
    assert find_place(route, "chat", RouteRule("chat", index=2)).rule == 2


def without_canary(backends: list[Manifest]) -> None:
    del backends[0]


def canary_twice(backends: list[Manifest]) -> None:
    backends.append(dict(backends[0]))


def canary_elsewhere(backends: list[Manifest]) -> None:
    backends[0]["namespace"] = "other"


def canary_of_another_kind(backends: list[Manifest]) -> None:
    backends[0].update(kind="InferencePool", group="inference.networking.k8s.io")


@pytest.mark.parametrize(
    "edit", [without_canary, canary_twice, canary_elsewhere, canary_of_another_kind]
)
@pytest.mark.parametrize("rule", [BY_ITSELF, BY_NAME])
def test_a_rule_without_exactly_the_two_backends_is_told_with_what_to_write(
    edit: Any, rule: RouteRule
) -> None:
    route = make_route()
    edit(route["spec"]["rules"][1]["backendRefs"])
    reason, message = problem_of(route, rule)
    assert reason is Reason.ROUTE_BACKENDS_MISSING
    assert "each is needed once" in message
    assert "{name: chat-canary, port: 80, weight: 0}" in message


def condition(kind: str, status: str, generation: int, reason: str = "Because") -> Manifest:
    return {
        "type": kind,
        "status": status,
        "observedGeneration": generation,
        "reason": reason,
        "message": "it is so",
    }


def parents(*each: list[Manifest]) -> Manifest:
    route = make_route()
    route["metadata"]["generation"] = 7
    route["status"] = {
        "parents": [{"parentRef": {"name": "edge"}, "conditions": given} for given in each]
    }
    return route


def test_a_route_is_accepted_in_its_present_generation_only() -> None:
    assert read_acceptance(make_route()).accepted == 0
    assert read_acceptance(parents([condition("Accepted", "True", 6)])).accepted == 0
    found = read_acceptance(parents([condition("Accepted", "True", 7)]))
    assert (found.gateways, found.accepted, found.refusals) == (1, 1, ())


def test_a_gateway_that_refuses_says_why() -> None:
    refused = condition("Accepted", "False", 7, "NotAllowedByListeners")
    unresolved = condition("ResolvedRefs", "False", 7, "BackendNotFound")
    found = read_acceptance(parents([refused], [condition("Accepted", "True", 7), unresolved]))
    assert (found.gateways, found.accepted) == (2, 0)
    assert "NotAllowedByListeners" in found.refusals[0]
    assert "BackendNotFound" in found.refusals[1]
