"""The HTTPRoute provider: what it writes, when it calls itself settled, and what stops a share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import ALL, NONE, WHOLE, Share
from llmrollouts.rollout.intent import (
    DeploymentTraffic,
    Endpoint,
    RevisionTraffic,
    RouteRule,
    TrafficObservation,
)
from llmrollouts.traffic.httproute import HTTPRouteTraffic
from llmrollouts.traffic.route_port import Moved, Unreachable
from tests.fakes.routes import FakeRoutes, make_route

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

A, B = "aaaaaaaaaa", "bbbbbbbbbb"
UID = "uid-1"


class Lead:
    def __init__(self) -> None:
        self.leads = True

    def may_push(self) -> bool:
        return self.leads

    def lease_is_fresh(self) -> bool:
        return True


def traffic(share: Share = NONE, canary: str | None = B, default: str = A) -> DeploymentTraffic:
    workers = (Endpoint("10.0.0.1", 8000, "pod"),)
    revisions = [RevisionTraffic(A, workers)]
    if canary is not None:
        revisions.append(RevisionTraffic(canary, workers, share=share, fallback=A))
    return DeploymentTraffic("prod", "chat", UID, default, tuple(revisions), RouteRule("chat"))


class Stage:
    """The provider, its cluster, and rounds that renew the lease while ``rounds`` is True."""

    def __init__(self) -> None:
        self.store = FakeRoutes(make_route())
        self.store.pods = {A: 2, B: 1}
        self.lead = Lead()
        self.news: list[tuple[str, str]] = []
        self.rounds = True
        self.provider = self.start()

    def start(self) -> HTTPRouteTraffic:
        loop = asyncio.get_running_loop()
        return HTTPRouteTraffic(
            self.store, self.lead, lambda *name: self.news.append(name), clock=loop.time
        )

    async def decide(self) -> None:
        while True:
            if self.rounds:
                self.provider.renew(UID)
            await asyncio.sleep(2.0)

    def seen(self) -> TrafficObservation:
        return self.provider.observe(UID)

    async def settle(self, wanted: DeploymentTraffic) -> float:
        """Seconds until the provider calls ``wanted`` settled."""
        began = asyncio.get_running_loop().time()
        self.provider.program(wanted)
        self.provider.renew(UID)
        while not self.seen().settled:
            await asyncio.sleep(0.1)
            assert asyncio.get_running_loop().time() - began < 300
        return asyncio.get_running_loop().time() - began


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    stage = Stage()
    rounds = asyncio.get_running_loop().create_task(stage.decide())
    try:
        yield stage
    finally:
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)
        await stage.provider.stop()


async def test_a_share_is_written_read_back_and_settles_when_the_gateway_accepted_it() -> None:
    async with staged() as stage:
        await stage.settle(traffic(canary=None))
        took = await stage.settle(traffic(Share(5_000)))
        assert stage.store.weights() == (995_000, 5_000)
        assert 3.0 <= took <= 6.0
        seen = stage.seen()
        assert (seen.gateways, seen.settled_gateways) == (1, 1)
        assert not seen.counts_requests
        assert seen.problem is None


async def test_a_rollback_is_written_at_once_and_confirmed_by_reading_it_back() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(250_000)))
        stage.provider.program(traffic(NONE))
        await asyncio.sleep(0.01)
        assert stage.store.weights() == (WHOLE, 0)
        assert stage.store.exposure(B) == 0
        assert not stage.seen().settled
        assert await stage.settle(traffic(NONE)) <= 5.0


async def test_evidence_stays_fresh_while_a_revision_is_on_its_way() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(5_000)))
        for _ in range(20):
            await asyncio.sleep(1.0)
            age = stage.seen().report_age
            assert age is not None
            assert age <= 5.0


async def test_at_rest_the_route_is_left_alone_for_minutes() -> None:
    async with staged() as stage:
        await stage.settle(traffic(canary=None))
        await asyncio.sleep(10)
        before = stage.store.reads
        await asyncio.sleep(600)
        assert stage.store.reads - before <= 4
        assert stage.store.writes == [f"stable -> {A}", f"canary -> {A}"]


async def test_nothing_is_settled_before_the_gateway_has_accepted_the_route() -> None:
    async with staged() as stage:
        await stage.settle(traffic(canary=None))
        stage.store.accepts = False
        stage.provider.program(traffic(Share(5_000)))
        await asyncio.sleep(120)
        assert stage.store.weights() == (995_000, 5_000)
        assert not stage.seen().settled
        assert stage.seen().settled_gateways == 0
        stage.store.accepts = True
        await asyncio.sleep(10)
        assert stage.seen().settled


async def test_a_gateway_that_never_answers_does_not_keep_workers_for_ever() -> None:
    async with staged() as stage:
        stage.store.accepts = False
        took = await stage.settle(traffic(NONE))
        assert 60 <= took <= 70


async def test_a_process_that_lives_but_does_not_decide_takes_the_share_to_zero() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(5_000)))
        stage.rounds = False
        await asyncio.sleep(11)
        assert stage.store.weights() == (WHOLE, 0)
        assert not stage.seen().settled
        stage.rounds = True
        await asyncio.sleep(8)
        assert stage.store.weights() == (995_000, 5_000)


async def test_a_new_leader_keeps_the_share_and_raises_nothing_before_it_has_decided() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(5_000)))
        await stage.provider.stop()
        stage.rounds = False
        stage.provider = stage.start()
        stage.provider.program(traffic(Share(500_000)))
        await asyncio.sleep(5)
        assert stage.store.weights() == (995_000, 5_000)
        stage.rounds = True
        await asyncio.sleep(5)
        assert stage.store.weights() == (500_000, 500_000)


async def test_a_new_leader_that_never_decides_takes_the_share_to_zero() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(5_000)))
        await stage.provider.stop()
        stage.rounds = False
        stage.provider = stage.start()
        stage.provider.program(traffic(Share(5_000)))
        await asyncio.sleep(11)
        assert stage.store.weights() == (WHOLE, 0)


async def test_who_does_not_lead_reads_and_writes_nothing() -> None:
    async with staged() as stage:
        stage.lead.leads = False
        stage.provider.program(traffic(Share(5_000)))
        await asyncio.sleep(60)
        assert (stage.store.reads, stage.store.writes) == (0, [])
        assert not stage.seen().settled
        assert stage.seen().report_age is None
        stage.lead.leads = True
        await asyncio.sleep(10)
        assert stage.store.weights() == (995_000, 5_000)


async def test_r20_a_concurrent_editor_is_not_overwritten_and_does_not_win() -> None:
    async with staged() as stage:
        await stage.settle(traffic(canary=None))
        edits = 0

        def edit(what: str) -> None:
            nonlocal edits
            if what == "patch route" and edits < 3:
                edits += 1
                stage.store.set_weights(100 + edits, 1)
                stage.store.edit(lambda r: r["spec"].update(hostnames=[f"host-{edits}.example"]))

        stage.store.before = edit
        await stage.settle(traffic(Share(5_000)))
        assert stage.store.weights() == (995_000, 5_000)
        assert stage.store.route is not None
        assert stage.store.route["spec"]["hostnames"] == ["host-3.example"]


async def test_somebody_who_writes_first_every_time_starves_nobody() -> None:
    async with staged() as stage:
        await stage.settle(traffic(canary=None))

        def lose(what: str) -> None:
            if what == "patch route":
                raise Moved("somebody wrote first")

        stage.store.before = lose
        stage.provider.program(traffic(Share(5_000)))
        await asyncio.sleep(30)
        assert stage.store.weights() == (WHOLE, 0)
        assert not stage.seen().settled
        stage.store.before = lambda what: None
        await asyncio.sleep(10)
        assert stage.seen().settled


async def test_an_api_server_that_is_away_makes_the_evidence_old_and_comes_back() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(5_000)))

        def refuse(what: str) -> None:
            raise Unreachable("no answer")

        stage.store.before = refuse
        await asyncio.sleep(30)
        age = stage.seen().report_age
        assert age is not None
        assert age > 25
        stage.store.before = lambda what: None
        await asyncio.sleep(12)
        age = stage.seen().report_age
        assert age is not None
        assert age <= 5


async def test_an_unexpected_error_is_survived() -> None:
    async with staged() as stage:

        def break_it(what: str) -> None:
            raise KeyError("a bug")

        stage.store.before = break_it
        stage.provider.program(traffic(NONE))
        await asyncio.sleep(5)
        stage.store.before = lambda what: None
        await asyncio.sleep(20)
        assert stage.seen().settled


async def test_a_missing_route_is_told_raises_nothing_and_news_comes_when_it_is_there() -> None:
    async with staged() as stage:
        route, stage.store.route = stage.store.route, None
        stage.provider.program(traffic(Share(5_000)))
        await asyncio.sleep(5)
        seen = stage.seen()
        assert seen.problem is not None
        assert seen.problem.reason is Reason.ROUTE_MISSING
        assert (seen.settled, seen.report_age) == (False, None)
        stage.news.clear()
        stage.store.route = route
        await asyncio.sleep(10)
        assert stage.seen().settled
        assert ("prod", "chat") in stage.news


async def test_a_route_that_vanishes_does_not_keep_a_rolled_back_revision_for_ever() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(5_000)))
        stage.store.route = None
        took = await stage.settle(traffic(NONE))
        assert stage.store.services == {"stable": A, "canary": A}
        assert 60 <= took <= 70


async def test_a_promotion_in_four_stages_ends_with_all_users_on_the_new_revision() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(500_000)))
        await stage.settle(traffic(ALL))
        await stage.settle(traffic(ALL, default=B))
        await stage.settle(traffic(NONE, default=B))
        assert stage.store.exposure(B) == 1.0
        assert stage.store.services == {"stable": B, "canary": B}
        assert stage.store.weights() == (WHOLE, 0)


async def test_other_workers_alone_unsettle_nothing() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(5_000)))
        wanted = traffic(Share(5_000))
        grown = replace(wanted, revisions=tuple(replace(r, endpoints=()) for r in wanted.revisions))
        stage.provider.program(grown)
        assert stage.seen().settled
        assert stage.seen().programmed == grown


async def test_a_deployment_that_is_gone_is_forgotten_and_its_route_left_alone() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(5_000)))
        writes = list(stage.store.writes)
        stage.provider.forget(UID)
        await asyncio.sleep(60)
        assert stage.store.writes == writes
        assert stage.seen() == TrafficObservation(source=stage.seen().source, counts_requests=False)


async def test_when_another_provider_takes_over_the_last_word_is_weight_zero() -> None:
    async with staged() as stage:
        await stage.settle(traffic(Share(5_000)))
        stage.provider.release(UID)
        assert not stage.provider.knows(UID)
        await asyncio.sleep(5)
        assert stage.store.weights() == (WHOLE, 0)
        reads = stage.store.reads
        await asyncio.sleep(900)
        assert stage.store.reads == reads


async def test_traffic_without_a_route_is_refused() -> None:
    async with staged() as stage:
        with pytest.raises(ValueError, match="names no HTTPRoute"):
            stage.provider.program(replace(traffic(NONE), rule=None))
