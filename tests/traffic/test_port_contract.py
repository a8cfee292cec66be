"""One suite for every TrafficPort: the gateways in memory, and real Envoys under EnvoyTraffic.

The whole controller is tested on the former; what it relies on must be true of the latter. Both
get the same two workers and the same users; only how the world moves on differs (``Stage``).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from llmrollouts.rollout.intent import DeploymentTraffic, Endpoint
from llmrollouts.traffic.gateway import EnvoyTraffic
from llmrollouts.traffic.port import TrafficPort
from llmrollouts.traffic.settings import Timing
from tests.fakes.traffic import FakeTraffic
from tests.traffic.control import UID, Control, at_rest, canary, make_traffic, stable, start_control
from tests.traffic.proxy import Proxy, start_proxy
from tests.traffic.users import send
from tests.traffic.workers import Worker

OTHER = "0a1b2c3d-0000-4000-8000-000000000002"
LEASE = 3.0
REQUESTS = 2_000


class Stage(Protocol):
    """A provider with its gateways, workers and users."""

    @property
    def traffic(self) -> TrafficPort: ...

    @property
    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        """Of one worker of v1 and one of v2."""

    async def use(self) -> dict[str, float]:
        """Users send requests for a while: which share of them each revision has answered."""

    async def until(self, met: Callable[[], bool]) -> None:
        """Let the gateways catch up; raises TimeoutError."""

    async def counted(self) -> None:
        """Wait until the gateways count: they are asked to once two revisions live."""

    async def outlast_lease(self) -> None:
        """Time passes without a renewal."""

    def silence(self) -> None:
        """From now on the gateways hear nothing."""

    def another_life(self) -> TrafficPort:
        """The same in a new process of the operator."""


class MemoryStage:
    def __init__(self) -> None:
        self.seconds = 100.0
        self.traffic = FakeTraffic(lambda: self.seconds)
        self.endpoints = (Endpoint("10.0.0.1", 8000, "a"), Endpoint("10.0.0.2", 8000, "b"))

    async def use(self) -> dict[str, float]:
        self.seconds += 1.0
        self.traffic.flow(1.0)
        programmed = self.traffic.programmed.get(UID)
        names = [r.revision for r in programmed.revisions] if programmed is not None else []
        return {name: self.traffic.share(UID, name) / 1e6 for name in names}

    async def until(self, met: Callable[[], bool]) -> None:
        if not met():
            raise TimeoutError

    async def counted(self) -> None:
        pass  # it counts from the first request on

    async def outlast_lease(self) -> None:
        self.seconds += 8.1

    def silence(self) -> None:
        self.traffic.silent = True

    def another_life(self) -> TrafficPort:
        return FakeTraffic(lambda: self.seconds, self.traffic.users)


class EnvoyStage:
    def __init__(
        self, control: Control, proxies: tuple[Proxy, Proxy], workers: tuple[Worker, Worker]
    ) -> None:
        self.control = control
        self.proxies = proxies
        self.workers = workers
        self.traffic: TrafficPort = control.traffic
        self.endpoints = (workers[0].endpoint, workers[1].endpoint)

    async def use(self) -> dict[str, float]:
        for worker in self.workers:
            worker.reset()
        for proxy in self.proxies:
            await send(proxy.url, REQUESTS // 2)
        # Reports come each second, and what is told of them is of the last ten.
        await asyncio.sleep(2.5)
        return {w.name: w.live / REQUESTS for w in self.workers}

    async def until(self, met: Callable[[], bool]) -> None:
        await self.control.until(met)
        await asyncio.sleep(0.1)

    async def counted(self) -> None:
        async with asyncio.timeout(10):
            # A gateway is asked to count with its next report, and counts from then on.
            while not any(each.issued for each in self.traffic.observe(UID).counts.values()):
                self.traffic.renew(UID)
                for proxy in self.proxies:
                    await send(proxy.url, 10)
                await asyncio.sleep(0.2)

    async def outlast_lease(self) -> None:
        await asyncio.sleep(LEASE + 1.0)

    def silence(self) -> None:
        for proxy in self.proxies:
            send_signal(proxy, signal.SIGSTOP)

    def another_life(self) -> TrafficPort:
        return EnvoyTraffic(self.control.leader)


def send_signal(proxy: Proxy, how: signal.Signals) -> None:
    assert proxy.process is not None
    proxy.process.send_signal(how)


@contextlib.asynccontextmanager
async def start_envoys(folder: Path, v1: Worker, v2: Worker) -> AsyncIterator[EnvoyStage]:
    names = ("gateway-0", "gateway-1")
    timing = Timing(ttl=12.0, heartbeat=1.0, lease=LEASE)
    async with contextlib.AsyncExitStack() as stack:
        control = await stack.enter_async_context(start_control(gateways=names, timing=timing))
        # Only the tests renew.
        control.deciding = False
        proxies = [
            await stack.enter_async_context(start_proxy(folder, control.port, name=name))
            for name in names
        ]
        for proxy in proxies:
            await proxy.wait_ready()
        try:
            yield EnvoyStage(control, (proxies[0], proxies[1]), (v1, v2))
        finally:
            for proxy in proxies:
                send_signal(proxy, signal.SIGCONT)


@pytest.fixture(params=["memory", pytest.param("envoy", marks=pytest.mark.envoy)])
async def stage(
    request: pytest.FixtureRequest, tmp_path: Path, v1: Worker, v2: Worker
) -> AsyncIterator[Stage]:
    if request.param == "memory":
        yield MemoryStage()
        return
    async with start_envoys(tmp_path, v1, v2) as envoys:
        yield envoys


def half(stage: Stage, share: str = "50%", mirror: str = "0%") -> DeploymentTraffic:
    first, second = stage.endpoints
    return make_traffic(stable(first), canary(second, share=share, mirror=mirror))


async def settle(stage: Stage, wanted: DeploymentTraffic, *, renewed: bool = True) -> None:
    stage.traffic.program(wanted)
    if renewed:
        stage.traffic.renew(wanted.uid)
    await stage.until(lambda: stage.traffic.observe(wanted.uid).programmed == wanted)
    if renewed:
        await stage.until(lambda: stage.traffic.observe(wanted.uid).settled)


async def test_of_a_deployment_that_it_was_never_told_of_it_knows_only_the_gateways(
    stage: Stage,
) -> None:
    seen = stage.traffic.observe(OTHER)
    assert seen.programmed is None
    assert not seen.settled
    assert seen.gateways == 2
    assert seen.source
    assert seen.counts == {}


async def test_what_was_asked_for_is_told_at_once_and_settled_when_every_gateway_has_it(
    stage: Stage,
) -> None:
    wanted = half(stage)
    stage.traffic.program(wanted)
    stage.traffic.renew(UID)
    assert stage.traffic.observe(UID).programmed == wanted
    await stage.until(lambda: stage.traffic.observe(UID).settled)
    seen = stage.traffic.observe(UID)
    assert seen.settled_gateways == seen.gateways == 2


def _issued(stage: Stage) -> int:
    """User requests that the gateways have reported so far."""
    return sum(counts.issued for counts in stage.traffic.observe(UID).counts.values())


async def test_users_are_split_counted_and_reported_by_revision(stage: Stage) -> None:
    await settle(stage, half(stage))
    await stage.counted()
    stage.traffic.renew(UID)
    shares = await stage.use()
    assert shares["v2"] == pytest.approx(0.5, abs=0.05)
    await stage.until(lambda: _issued(stage) > 500)
    seen = stage.traffic.observe(UID)
    issued = {name: counts.issued for name, counts in seen.counts.items()}
    assert issued["v2"] / sum(issued.values()) == pytest.approx(0.5, abs=0.05)
    assert seen.recent_live["v2"] == pytest.approx(0.5, abs=0.1)
    assert seen.report_age is not None
    assert seen.report_age < 5
    for name in ("v1", "v2"):
        quiet = seen.quiet_seconds[name]
        assert quiet is not None
        assert quiet < 5
    assert sum(counts.mirrored for counts in seen.counts.values()) == 0


async def test_a_mirror_copies_and_answers_nobody(stage: Stage) -> None:
    await settle(stage, half(stage, share="0%", mirror="50%"))
    await stage.counted()
    stage.traffic.renew(UID)
    shares = await stage.use()
    assert shares["v2"] == 0
    await stage.until(lambda: _issued(stage) > 500)
    counts = stage.traffic.observe(UID).counts
    assert counts["v2"].issued == 0
    assert counts["v2"].mirrored / counts["v1"].issued == pytest.approx(0.5, abs=0.1)
    assert stage.traffic.observe(UID).quiet_seconds["v2"] is None


async def test_a_share_without_a_round_that_renews_it_is_no_share(stage: Stage) -> None:
    wanted = half(stage)
    await settle(stage, at_rest(wanted), renewed=False)
    stage.traffic.program(wanted)
    assert (await stage.use())["v2"] == 0


async def test_a_lease_that_runs_out_takes_the_share_to_zero_and_a_renewal_brings_it_back(
    stage: Stage,
) -> None:
    await settle(stage, half(stage))
    await stage.outlast_lease()
    assert (await stage.use())["v2"] == 0
    assert stage.traffic.observe(UID).programmed == half(stage), "what was asked for stays"
    stage.traffic.renew(UID)
    await stage.until(lambda: stage.traffic.observe(UID).settled)
    stage.traffic.renew(UID)
    assert (await stage.use())["v2"] == pytest.approx(0.5, abs=0.05)


async def test_a_lowered_share_is_settled_and_sends_nobody_more(stage: Stage) -> None:
    await settle(stage, half(stage))
    await settle(stage, at_rest(half(stage)))
    assert (await stage.use())["v2"] == 0


async def test_the_default_moves_every_user(stage: Stage) -> None:
    first, second = stage.endpoints
    await settle(stage, half(stage, share="0%"))
    moved = make_traffic(
        replace(stable(first), fallback="v2"), canary(second, fallback=None), default="v2"
    )
    await settle(stage, moved)
    assert await stage.use() == {"v1": 0, "v2": 1}


async def test_the_same_again_unsettles_nothing(stage: Stage) -> None:
    await settle(stage, half(stage))
    stage.traffic.renew(UID)
    stage.traffic.program(half(stage))
    assert stage.traffic.observe(UID).settled


async def test_a_gateway_that_hears_nothing_is_not_settled(stage: Stage) -> None:
    await settle(stage, half(stage))
    stage.silence()
    stage.traffic.program(at_rest(half(stage)))
    stage.traffic.renew(UID)
    seen = stage.traffic.observe(UID)
    assert not seen.settled
    assert seen.settled_gateways < seen.gateways


async def test_what_is_forgotten_is_gone_and_the_others_stay(stage: Stage) -> None:
    await settle(stage, half(stage))
    first, _ = stage.endpoints
    other = make_traffic(stable(first), name="other", uid=OTHER)
    await settle(stage, other)
    stage.traffic.forget(OTHER)
    assert stage.traffic.observe(OTHER).programmed is None
    assert stage.traffic.observe(UID).programmed == half(stage)
    stage.traffic.forget(OTHER)


async def test_counts_of_one_life_are_never_taken_for_those_of_another(stage: Stage) -> None:
    assert stage.traffic.observe(UID).source == stage.traffic.observe(OTHER).source
    assert stage.another_life().observe(UID).source != stage.traffic.observe(UID).source
