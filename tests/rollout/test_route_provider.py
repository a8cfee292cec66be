"""Users come by an HTTPRoute: no copies, no counted requests, and status says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import Share
from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.rollout.intent import RouteRule, TrafficProblem
from llmrollouts.rollout.observation import Observation
from tests.rollout import sight
from tests.rollout.specs import make_spec
from tests.rollout.world import World

STEPS: list[dict[str, object]] = [
    {"canary": {"share": "0.5%", "duration": "1m"}},
    {"canary": {"share": "50%", "duration": "1m"}},
]
MISSING = TrafficProblem(Reason.ROUTE_MISSING, "HTTPRoute prod/chat does not exist: create it")


def make_route_spec(model: str = "one") -> LLMDeploymentSpec:
    given = make_spec(model, steps=STEPS)
    traffic = {"provider": "HTTPRoute", "httpRoute": {"name": "chat", "ruleName": "users"}}
    return LLMDeploymentSpec.model_validate(
        {**given.model_dump(by_alias=True, exclude_none=True), "traffic": traffic}
    )


class Route:
    """What the provider tells of the route, beside the small world's own traffic."""

    problem: TrafficProblem | None = None
    read: bool = True
    accepted: int = 1

    def observe(self, world: World) -> Observation:
        seen = sight.observe(world)
        traffic = replace(
            seen.traffic,
            counts={},
            quiet_seconds={},
            recent_rate=0.0,
            gateways=self.accepted,
            settled_gateways=self.accepted,
            counts_requests=False,
        )
        if self.problem is not None or not self.read:
            age = 60.0 if traffic.report_age is not None else None
            traffic = replace(traffic, problem=self.problem, settled=False, report_age=age)
        return replace(seen, traffic=traffic)


@pytest.fixture
def route(monkeypatch: pytest.MonkeyPatch) -> Route:
    told = Route()
    monkeypatch.setattr("tests.rollout.world.observe", told.observe)
    return told


@pytest.fixture
def world(route: Route) -> World:
    made = World(make_route_spec())
    # Nothing of this way of the users counts a request.
    made.rate = 0.0
    return made


def condition(world: World, kind: str) -> tuple[str, str, str]:
    found = next(c for c in world.status.conditions if c.type == kind)
    return (found.status, found.reason, found.message)


def run(world: World, seconds: float) -> None:
    end = world.now.timestamp() + seconds
    while world.now.timestamp() < end:
        world.round()
        world.advance(2.0)


def start_rollout(world: World) -> None:
    run(world, 60)
    world.spec = make_route_spec("two")
    world.generation += 1
    run(world, 60)


def test_the_missing_guarantees_are_told_from_the_first_round_on(world: World) -> None:
    world.round()
    world.round()
    status, reason, message = condition(world, "TrafficGuarantees")
    assert (status, reason) == ("False", "ProviderWithoutTTL")
    assert "30 seconds is not promised" in message


def test_the_traffic_names_the_rule_and_never_a_mirror(world: World) -> None:
    start_rollout(world)
    assert world.status.share == "0.5%"
    assert world.programmed is not None
    assert world.programmed.rule == RouteRule("chat", name="users")
    assert all(not told.mirror for told in world.programmed.revisions)
    assert condition(world, "RouteProgrammed")[:2] == ("True", "WeightsSet")


def test_a_step_passes_on_its_time_alone_and_says_that_nobody_counts(world: World) -> None:
    start_rollout(world)
    assert world.status.message is not None
    assert "requests are not counted" in world.status.message
    run(world, 400)
    assert world.status.canary_revision is None
    passed = [n.message for n in world.notices if n.reason == Reason.STEP_PASSED]
    assert len(passed) == 2
    assert all("requests not counted" in message for message in passed)


def test_a_missing_route_stops_the_rollout_before_anything_rises(
    world: World, route: Route
) -> None:
    run(world, 60)
    route.problem = MISSING
    world.spec = make_route_spec("two")
    world.generation += 1
    run(world, 120)
    assert world.status.share == "0%"
    assert condition(world, "RouteProgrammed") == ("False", "RouteMissing", MISSING.message)
    assert condition(world, "Ready")[:2] == ("False", "RouteMissing")
    assert world.status.message is not None
    assert MISSING.message in world.status.message


def test_a_route_that_vanishes_in_a_step_lapses_and_blames_nobody(
    world: World, route: Route
) -> None:
    start_rollout(world)
    canary = world.status.canary_revision
    route.problem = MISSING
    run(world, 20)
    assert world.status.share == "0%"
    assert world.status.canary_revision == canary
    assert world.status.lapse is not None
    assert world.status.lapse.active
    route.problem = None
    run(world, 70)
    assert world.status.share in ("0.5%", "50%")


def test_a_rollback_says_who_has_confirmed_it(world: World) -> None:
    start_rollout(world)
    world.command = "rollback"
    run(world, 30)
    told = [n.message for n in world.notices if n.reason == Reason.ROLLED_BACK]
    assert len(told) == 1
    assert told[0].startswith("HTTPRoute chat, read back, confirmed")
    assert world.programmed is not None
    assert all(r.share == Share(0) for r in world.programmed.revisions)


def test_no_text_of_a_whole_rollout_speaks_of_every_gateway(world: World) -> None:
    start_rollout(world)
    run(world, 400)
    assert world.status.stable_revision == world.name("B")
    world.spec = make_route_spec("three")
    world.generation += 1
    run(world, 60)
    world.command = "rollback/1"
    run(world, 60)
    told = [notice.message for notice in world.notices]
    assert any("HTTPRoute chat sends all users to" in text for text in told)
    assert any(text.startswith("Service chat-stable selects") for text in told)
    assert any(text.startswith("HTTPRoute chat, read back, confirmed") for text in told)
    assert [text for text in told if "gateway" in text.lower()] == []


def test_a_route_that_no_gateway_accepted_is_named(world: World, route: Route) -> None:
    run(world, 60)
    route.accepted = 0
    run(world, 10)
    status, reason, message = condition(world, "Ready")
    assert (status, reason) == ("False", "RouteNotAccepted")
    assert "no gateway has accepted HTTPRoute chat" in message
