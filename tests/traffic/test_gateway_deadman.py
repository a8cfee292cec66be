"""The dead-man's switch and the promotion, on a real Envoy: what happens when nobody decides."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from llmrollouts.rollout.intent import DeploymentTraffic
from llmrollouts.traffic.settings import Timing
from tests.traffic.control import (
    UID,
    Leader,
    at_rest,
    canary,
    make_traffic,
    stable,
    start_control,
    start_control_process,
)
from tests.traffic.gateway import start_gateway
from tests.traffic.proxy import Proxy, start_proxy
from tests.traffic.users import send, steady_users
from tests.traffic.workers import Worker

pytestmark = pytest.mark.envoy


async def seconds_until_zero(proxy: Proxy, within: float) -> float:
    clock = asyncio.get_running_loop().time
    start = clock()
    async with asyncio.timeout(within):
        while await proxy.layer():
            await asyncio.sleep(0.05)
    return clock() - start


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_share_runs_out_by_itself_when_the_operator_is_gone(
    tmp_path: Path, v1: Worker, v2: Worker, how: signal.Signals
) -> None:
    """With the times that installations have: 12 s after the last heartbeat."""
    words = ("v1", f"v1:{v1.port}:0%:", f"v2:{v2.port}:50%:v1")
    with start_control_process(*words, timing=Timing()) as operator:
        async with start_proxy(tmp_path, operator.port) as proxy:
            await proxy.wait_ready()
            assert await proxy.layer() == {f"{UID}/v2/share": 500_000}
            async with steady_users(proxy.url) as users:
                operator.signal(how)
                took = await seconds_until_zero(proxy, 15)
                assert took > 9  # a short silence moves no share
                zero_at = asyncio.get_running_loop().time()
                await asyncio.sleep(0.5)
            assert users.statuses().keys() == {200}
            assert users.by_revision()["v2"] > 20
            assert users.since(zero_at).by_revision().keys() == {"v1"}


async def test_a_living_server_sends_zero_when_no_round_renews_the_lease(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    wanted = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="50%", mirror="10%"))
    async with start_gateway(tmp_path, wanted) as (control, proxy):
        control.deciding = False
        took = await seconds_until_zero(proxy, 5)
        assert took < 3  # the lease of 2 s, and a tick
        seen = control.traffic.observe(UID)
        assert seen.programmed == wanted
        assert not seen.settled  # what was asked for is not what the proxies do
        assert (await send(proxy.url, 200)).by_revision() == {"v1": 200}
        control.deciding = True
        await control.settle()
        assert (await proxy.layer())[f"{UID}/v2/share"] == 500_000


async def test_a_share_without_a_completed_round_never_starts(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    async with start_gateway(tmp_path, make_traffic(stable(v1.endpoint))) as (control, proxy):
        control.deciding = False
        await asyncio.sleep(2.5)  # the lease of the first round is over
        wanted = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="50%"))
        control.traffic.program(wanted)
        await asyncio.sleep(0.5)
        assert await proxy.layer() == {}
        control.traffic.renew(UID)
        await control.settle()
        assert await proxy.layer() == {f"{UID}/v2/share": 500_000}


def promotion(v1: Worker, v2: Worker) -> tuple[DeploymentTraffic, ...]:
    """A step of 50 %; everything to the new revision; it is the default; its key goes."""
    old, new = v1.endpoint, v2.endpoint
    return (
        make_traffic(stable(old), canary(new, share="50%")),
        make_traffic(stable(old), canary(new, share="100%")),
        make_traffic(canary(new, share="100%", fallback=None), stable(old), default="v2"),
        make_traffic(canary(new, fallback=None), stable(old), default="v2"),
    )


async def test_a_promotion_sends_nobody_back(tmp_path: Path, v1: Worker, v2: Worker) -> None:
    step, shifting, switching, clearing = promotion(v1, v2)
    clock = asyncio.get_running_loop().time
    async with start_gateway(tmp_path, step, concurrency=2) as (control, proxy):
        async with steady_users(proxy.url, pause=0) as users:
            await asyncio.sleep(0.3)
            await control.settle_on(shifting)
            # The main thread has acknowledged; its workers take it over within their loop's turn.
            await asyncio.sleep(0.05)
            all_new_at = clock()
            await asyncio.sleep(0.3)
            await control.settle_on(switching)
            await asyncio.sleep(0.3)
            await control.settle_on(clearing)
            await asyncio.sleep(0.5)
        assert users.statuses().keys() == {200}
        assert users.by_revision()["v1"] > 5
        after = users.since(all_new_at)
        assert len(after.answers) > 100
        assert after.by_revision().keys() == {"v2"}
        assert await proxy.layer() == {}
        # A rollback after it is a swap of the default.
        await control.settle_on(make_traffic(stable(v1.endpoint), canary(v2.endpoint)))
        await asyncio.sleep(0.05)
        assert (await send(proxy.url, 200)).by_revision() == {"v1": 200}


@pytest.mark.parametrize(("stage", "lands_on"), [(1, "v1"), (2, "v2"), (3, "v2")])
async def test_the_ttl_striking_in_a_promotion_lands_on_a_full_side(
    tmp_path: Path, v1: Worker, v2: Worker, stage: int, lands_on: str
) -> None:
    stages = promotion(v1, v2)
    async with (
        start_control(stages[0]) as control,
        start_proxy(tmp_path, control.port) as proxy,
    ):
        await proxy.wait_ready()
        for wanted in stages[: stage + 1]:
            await control.settle_on(wanted)
        async with steady_users(proxy.url) as users:
            await control.traffic.stop()
            await seconds_until_zero(proxy, 5)
            zero_at = asyncio.get_running_loop().time()
            await asyncio.sleep(0.3)
        assert users.statuses().keys() == {200}
        assert users.since(zero_at).by_revision().keys() == {lands_on}


async def test_r14_a_replica_that_lost_the_leadership_ends_its_streams_and_pushes_nothing(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    leader = Leader()
    up = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="50%"))
    async with start_gateway(tmp_path, at_rest(up), leader=leader) as (control, proxy):
        leader.leads = False
        control.program(up)  # decided while frozen, pushed after the thaw: must not arrive
        await asyncio.sleep(0.7)
        assert await proxy.layer() == {}
        control.traffic.restrict()
        await asyncio.sleep(0.5)
        assert await proxy.layer() == {}
        leader.leads = True
        await control.settle()
        assert await proxy.layer() == {f"{UID}/v2/share": 500_000}


async def test_the_gateway_follows_the_leader_to_the_other_replica_and_no_share_moves(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    up = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="50%"))
    one, two = Leader(), Leader(leads=False)
    async with (
        start_control(up, leader=one) as first,
        start_control(up, leader=two) as second,
        start_proxy(tmp_path, first.port, second.port) as proxy,
    ):
        await proxy.wait_ready()
        await first.settle()
        async with steady_users(proxy.url) as users:
            await first.traffic.stop()
            one.leads, two.leads = False, True
            async with asyncio.timeout(3):
                while not second.traffic.observe(UID).settled:
                    assert await proxy.layer() == {f"{UID}/v2/share": 500_000}
                    await asyncio.sleep(0.05)
            await asyncio.sleep(4)  # longer than the TTL: the second one's heartbeats count
            assert await proxy.layer() == {f"{UID}/v2/share": 500_000}
        assert users.statuses().keys() == {200}


async def test_without_any_leader_a_replica_serves_the_committed_routes_with_shares_zero(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    up = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="50%"))
    leader = Leader(leads=False, fresh=True)
    async with (
        start_control(up, leader=leader) as control,
        start_proxy(tmp_path, control.port) as proxy,
    ):
        await asyncio.sleep(1.5)
        assert not await proxy.is_ready()  # somebody else leads; this one refuses
        leader.fresh = False
        await proxy.wait_ready()
        assert await proxy.layer() == {}
        assert (await send(proxy.url, 200)).by_revision() == {"v1": 200}
        leader.leads = leader.fresh = True
        await control.settle()
        assert await proxy.layer() == {f"{UID}/v2/share": 500_000}
