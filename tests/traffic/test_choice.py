"""Each deployment is split by the provider that its traffic names, and by one only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from llmrollouts.api.share import NONE, WHOLE, Share
from llmrollouts.rollout.intent import DeploymentTraffic, RevisionTraffic, RouteRule
from llmrollouts.traffic.choice import ChosenTraffic
from llmrollouts.traffic.httproute import HTTPRouteTraffic
from tests.fakes.routes import FakeRoutes, make_route
from tests.fakes.traffic import FakeTraffic

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

A, B = "aaaaaaaaaa", "bbbbbbbbbb"
UID = "uid-1"


class Lead:
    def may_push(self) -> bool:
        return True

    def lease_is_fresh(self) -> bool:
        return True


class Stage:
    def __init__(self) -> None:
        clock = asyncio.get_running_loop().time
        self.store = FakeRoutes(make_route())
        self.store.pods = {A: 2, B: 1}
        self.gateway = FakeTraffic(clock)
        self.routes = HTTPRouteTraffic(self.store, Lead(), lambda *name: None, clock=clock)
        self.traffic = ChosenTraffic(self.gateway, self.routes)

    async def run(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.traffic.renew(UID)
            await asyncio.sleep(1.0)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    yield made
    await made.routes.stop()


def make_traffic(share: Share, rule: RouteRule | None) -> DeploymentTraffic:
    revisions = (RevisionTraffic(A, ()), RevisionTraffic(B, (), share=share, mirror=Share(7)))
    return DeploymentTraffic("prod", "chat", UID, A, revisions, rule)


BY_ROUTE = make_traffic(Share(5_000), RouteRule("chat"))
BY_GATEWAY = make_traffic(Share(5_000), None)


async def test_without_a_route_everything_is_the_gateways(stage: Stage) -> None:
    stage.traffic.program(BY_GATEWAY)
    await stage.run(5)
    assert stage.gateway.programmed[UID] == BY_GATEWAY
    assert stage.traffic.observe(UID).counts_requests
    assert (stage.store.reads, stage.store.writes) == (0, [])


async def test_with_a_route_the_weights_have_the_share_and_the_gateway_answers_from_stable(
    stage: Stage,
) -> None:
    stage.traffic.program(BY_ROUTE)
    await stage.run(10)
    assert stage.store.weights() == (995_000, 5_000)
    asked = stage.gateway.programmed[UID]
    assert asked.default == A
    assert all(not told.share and not told.mirror for told in asked.revisions)
    seen = stage.traffic.observe(UID)
    assert seen.programmed == BY_ROUTE
    assert seen.settled
    assert not seen.counts_requests


async def test_nothing_is_settled_while_a_gateway_may_still_send_users_elsewhere(
    stage: Stage,
) -> None:
    stage.traffic.program(BY_ROUTE)
    await stage.run(10)
    stage.gateway.silent = True
    assert not stage.traffic.observe(UID).settled
    # Without any gateway there is nobody to wait for.
    stage.gateway.gateways = 0
    assert stage.traffic.observe(UID).settled


async def test_after_a_change_to_the_gateway_no_weight_is_left_behind(stage: Stage) -> None:
    stage.traffic.program(BY_ROUTE)
    await stage.run(10)
    stage.traffic.program(BY_GATEWAY)
    assert stage.traffic.observe(UID).programmed == BY_GATEWAY
    await stage.run(5)
    assert stage.store.weights() == (WHOLE, 0)
    assert stage.store.exposure(B) == 0
    assert stage.gateway.programmed[UID].share_of(B) == Share(5_000)


async def test_a_change_there_and_back_goes_on_where_it_stood(stage: Stage) -> None:
    for wanted in (BY_ROUTE, BY_GATEWAY, BY_ROUTE):
        stage.traffic.program(wanted)
    await stage.run(10)
    assert stage.store.weights() == (995_000, 5_000)
    assert stage.traffic.observe(UID).programmed == BY_ROUTE


async def test_a_deployment_that_is_gone_is_forgotten_by_both(stage: Stage) -> None:
    stage.traffic.program(replace(BY_ROUTE, revisions=(RevisionTraffic(A, (), share=NONE),)))
    await stage.run(10)
    stage.traffic.forget(UID)
    assert stage.gateway.forgotten == [UID]
    assert not stage.routes.knows(UID)
