"""Starts, restarts, refusals and the drain of a gateway, on a real Envoy."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import pytest

from e2e.harness.processes import closed_port
from llmrollouts.rollout.intent import DeploymentTraffic
from llmrollouts.traffic import telemetry
from llmrollouts.traffic.drain import active_requests, drain
from llmrollouts.traffic.settings import GatewaySettings
from tests.traffic.control import UID, at_rest, canary, make_traffic, stable, start_control
from tests.traffic.gateway import start_gateway
from tests.traffic.proxy import start_proxy
from tests.traffic.users import send, steady_users
from tests.traffic.workers import Worker

pytestmark = pytest.mark.envoy


async def test_a_gateway_is_never_ready_before_it_knows_its_routes(
    tmp_path: Path, v1: Worker
) -> None:
    port = closed_port()
    async with start_proxy(tmp_path, port) as proxy:
        await asyncio.sleep(4)
        assert not await proxy.is_ready()
        # A server that does not know all deployments yet answers nobody.
        async with start_control(
            make_traffic(stable(v1.endpoint)), port=port, opened=False
        ) as control:
            await asyncio.sleep(2)
            assert not await proxy.is_ready()
            control.traffic.open()
            await proxy.wait_ready(5)
            assert (await send(proxy.url, 20)).statuses() == {200: 20}


async def test_a_restarted_gateway_finds_everything_again(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    wanted = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="50%"))
    async with start_gateway(tmp_path, wanted) as (control, proxy):
        proxy.stop(signal.SIGKILL)
        await control.until(lambda: control.traffic.observe(UID).settled_gateways == 0)
        assert control.traffic.observe(UID).gateways == 1  # it is still an endpoint
        proxy.start()
        await proxy.wait_ready()
        await control.settle()
        assert (await send(proxy.url, 200)).by_revision().keys() == {"v1", "v2"}


async def test_a_restarted_operator_takes_no_route_away_even_of_what_it_never_knew(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    """The revision went while no operator ran: routes leave the gateway before its cluster."""
    port = closed_port()
    both = make_traffic(stable(v1.endpoint), canary(v2.endpoint))
    async with start_proxy(tmp_path, port) as proxy:
        async with start_control(both, port=port) as control:
            await proxy.wait_ready()
            await control.settle()
        async with steady_users(proxy.url, pause=0) as users:
            alone = make_traffic(stable(v2.endpoint, name="v2"), default="v2")
            async with start_control(alone, port=port) as control:
                await control.settle()
                await asyncio.sleep(0.3)
                assert f"{UID}/v1" not in str(await proxy.dump())
        assert users.statuses().keys() == {200}
        assert users.answers[-1].revision == "v2"


async def test_a_refused_configuration_is_shown_counted_and_never_settled(
    tmp_path: Path, v1: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    broken = GatewaySettings(connect_timeout=0)
    wanted = make_traffic(stable(v1.endpoint))
    async with (
        start_control(wanted, settings=broken) as control,
        start_proxy(tmp_path, control.port) as proxy,
    ):
        await control.until(lambda: bool(control.traffic.observe(UID).refusals))
        seen = control.traffic.observe(UID)
        assert seen.refusals[0].startswith("gateway gateway-0 refuses clusters: ")
        assert not seen.settled
        assert not await proxy.is_ready() or (await send(proxy.url, 1)).statuses() != {200: 1}
        assert "Gateway refused its configuration" in caplog.text


async def test_a_silent_gateway_counts_until_its_time_to_live_is_over(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    up = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="50%"))
    async with start_gateway(tmp_path, up) as (control, proxy):
        assert proxy.process is not None
        proxy.process.send_signal(signal.SIGSTOP)
        control.program(at_rest(up))
        await asyncio.sleep(1.5)
        assert not control.traffic.observe(UID).settled
        # Found mute within 1.5 s, and its shares run out 3 s (and a margin) later.
        await control.settle(within=8)
        # A changed route cannot run out: it waits for the gateway.
        control.program(make_traffic(stable(v1.endpoint)))
        await asyncio.sleep(4.5)
        assert not control.traffic.observe(UID).settled
        control.traffic.set_gateways(())  # not ready any more: it carries nobody
        assert control.traffic.observe(UID).settled
        control.traffic.set_gateways(("gateway-0",))
        proxy.process.send_signal(signal.SIGCONT)
        await control.settle()
        assert await proxy.layer() == {}


async def test_a_drained_gateway_finishes_what_it_began(tmp_path: Path, v1: Worker) -> None:
    v1.behaviour = "slow"
    async with start_gateway(tmp_path, make_traffic(stable(v1.endpoint))) as (control, proxy):
        admin = f"http://127.0.0.1:{proxy.bootstrap.admin_port}"
        under_way = asyncio.create_task(send(proxy.url, 10, concurrency=10))
        await control.until(lambda: v1.live == 10)
        assert await asyncio.to_thread(active_requests, admin) == 10
        assert await asyncio.to_thread(drain, admin, 10, 0.1)
        assert not await proxy.is_ready()
        proxy.stop()
        answers = await under_way
        assert answers.statuses() == {200: 10}
        assert all(a.text.count("data:") == 20 for a in answers.answers)


async def test_nothing_but_ready_and_stats_of_the_admin_interface_is_reachable(
    tmp_path: Path, v1: Worker
) -> None:
    async with (
        start_control(make_traffic(stable(v1.endpoint))) as control,
        start_proxy(tmp_path, control.port) as proxy,
    ):
        await proxy.wait_ready()
        status = f"http://127.0.0.1:{proxy.bootstrap.status_port}"
        (answer,) = (await send(status, 1, path="/stats/prometheus")).answers
        assert answer.status == 200
        assert "envoy_" in answer.text
        for path in ("/", "/config_dump", "/quitquitquit", "/stats", "/ready/../config_dump"):
            assert (await send(status, 1, path=path)).statuses() == {404: 1}
        (posted,) = (await send(status, 1, path="/ready", body=b"x")).answers
        assert posted.status == 404


async def test_a_hundred_shares_changed_at_once_are_few_messages(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    def pushes(kind: str) -> float:
        return float(telemetry.PUSHES.labels(kind)._value.get())

    def of(number: int, share: str) -> DeploymentTraffic:
        return make_traffic(
            stable(v1.endpoint),
            canary(v2.endpoint, share=share),
            name=f"chat-{number}",
            uid=f"uid-{number}",
        )

    ups = [of(number, "50%") for number in range(100)]
    async with start_control(*ups) as control, start_proxy(tmp_path, control.port) as proxy:

        def all_settled() -> bool:
            return all(control.traffic.observe(f"uid-{number}").settled for number in range(100))

        await proxy.wait_ready()
        await control.until(all_settled)
        assert len(await proxy.layer()) == 100
        before = {k: pushes(k) for k in ("shares", "routes", "clusters", "endpoints")}
        clock = asyncio.get_running_loop().time
        start = clock()
        for number in range(100):
            control.program(of(number, "0%"))
        await control.until(all_settled)
        assert clock() - start < 1
        assert await proxy.layer() == {}
        assert pushes("shares") - before["shares"] <= 4  # one, and heartbeats of the time
        for kind in ("routes", "clusters", "endpoints"):
            assert pushes(kind) == before[kind]
