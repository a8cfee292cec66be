"""No user pays for a bad canary, or for a dead worker: retries on a real Envoy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from e2e.harness.processes import closed_port
from llmrollouts.rollout.intent import Endpoint
from tests.traffic.control import UID, canary, make_traffic, stable
from tests.traffic.gateway import start_gateway
from tests.traffic.users import send, steady_users
from tests.traffic.workers import Worker, start_worker, unanswering_port

pytestmark = pytest.mark.envoy

REQUESTS = 300


@pytest.mark.parametrize("behaviour", ["status:500", "status:503", "reset"])
async def test_stable_answers_what_the_canary_fails_before_the_first_byte(
    tmp_path: Path, v1: Worker, v2: Worker, behaviour: str
) -> None:
    v2.behaviour = behaviour
    wanted = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="100%"))
    async with start_gateway(tmp_path, wanted) as (control, proxy):
        answers = await send(proxy.url, REQUESTS)
        assert answers.statuses() == {200: REQUESTS}
        assert answers.by_revision() == {"v1": REQUESTS}
        assert v2.live > 0
        await control.until(lambda: control.traffic.observe(UID).counts["v2"].saved == REQUESTS)
        counts = control.traffic.observe(UID).counts["v2"]
        assert (counts.issued, counts.errors) == (REQUESTS, REQUESTS)
        assert control.traffic.observe(UID).recent_live["v2"] == 1.0


async def test_stable_answers_for_a_canary_that_refuses_connections(
    tmp_path: Path, v1: Worker
) -> None:
    gone = Endpoint("127.0.0.1", closed_port(), "gone")
    wanted = make_traffic(stable(v1.endpoint), canary(gone, share="100%"))
    async with start_gateway(tmp_path, wanted) as (control, proxy):
        answers = await send(proxy.url, REQUESTS)
        assert answers.by_revision() == {"v1": REQUESTS}
        await control.until(lambda: control.traffic.observe(UID).counts["v2"].saved == REQUESTS)
        counts = control.traffic.observe(UID).counts["v2"]
        assert (counts.issued, counts.errors) == (REQUESTS, REQUESTS)


async def test_stable_answers_for_a_canary_that_hangs_at_connect(
    tmp_path: Path, v1: Worker
) -> None:
    with unanswering_port() as port:
        hung = Endpoint("127.0.0.1", port, "hung")
        wanted = make_traffic(stable(v1.endpoint), canary(hung, share="100%"))
        async with start_gateway(tmp_path, wanted) as (_, proxy):
            answers = await send(proxy.url, 100)
            assert answers.by_revision() == {"v1": 100}
            # The connect time-out, at most twice (a second connection may be queued behind it).
            assert max(a.ended_at - a.sent_at for a in answers.answers) < 2
            assert max(a.ended_at - a.sent_at for a in answers.answers) > 0.4


async def test_stable_answers_for_a_canary_without_workers(tmp_path: Path, v1: Worker) -> None:
    wanted = make_traffic(stable(v1.endpoint), canary(share="50%"))
    async with start_gateway(tmp_path, wanted) as (_, proxy):
        answers = await send(proxy.url, REQUESTS)
        assert answers.statuses() == {200: REQUESTS}
        assert answers.by_revision() == {"v1": REQUESTS}


async def test_a_large_request_survives_the_change_to_stable_and_the_mirror(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    body = b"x" * (8 * 1024 * 1024 - 1024)
    v2.behaviour = "status:500"
    async with start_worker("v3") as copies:
        wanted = make_traffic(
            stable(v1.endpoint),
            canary(v2.endpoint, share="100%"),
            canary(copies.endpoint, name="v3"),
        )
        async with start_gateway(tmp_path, wanted) as (control, proxy):
            answers = await send(proxy.url, 5, body=body, concurrency=2)
            assert answers.by_revision() == {"v1": 5}
            assert v1.largest_body == v2.largest_body == len(body)
            await control.settle_on(
                make_traffic(
                    stable(v1.endpoint),
                    canary(v2.endpoint),
                    canary(copies.endpoint, name="v3", mirror="100%"),
                )
            )
            await asyncio.sleep(0.05)
            answers = await send(proxy.url, 5, body=body, concurrency=2)
            assert answers.by_revision() == {"v1": 5}
            await control.until(lambda: copies.mirrored == 5 and copies.largest_body == len(body))


async def test_a_stream_reaches_the_user_as_it_is_made(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    v1.behaviour = "slow"
    wanted = make_traffic(stable(v1.endpoint), canary(v2.endpoint, mirror="100%"))
    async with start_gateway(tmp_path, wanted) as (_, proxy):
        clock = asyncio.get_running_loop().time
        arrivals = []
        url = f"{proxy.url}/prod/chat/v1/chat/completions"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json={"stream": True}) as answer,
        ):
            start = clock()
            async for _ in answer.content.iter_any():
                arrivals.append(clock() - start)
        assert arrivals[0] < 0.3
        assert arrivals[-1] > 0.8
        assert len(arrivals) >= 15
        assert v1.paths == ["/v1/chat/completions"]


async def test_a_stream_cut_after_its_first_chunk_is_not_repeated(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    v2.behaviour = "cut"
    wanted = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="100%"))
    async with start_gateway(tmp_path, wanted) as (_, proxy):
        answers = await send(proxy.url, 20)
        assert answers.statuses() == {0: 20}  # the client saw the beginning, then the end of it
        assert v1.live == 0


async def test_a_dead_stable_worker_costs_nobody_an_answer(tmp_path: Path, v1: Worker) -> None:
    gone = Endpoint("127.0.0.1", closed_port(), "gone")
    wanted = make_traffic(stable(v1.endpoint, gone))
    async with start_gateway(tmp_path, wanted) as (_, proxy):
        assert (await send(proxy.url, REQUESTS)).statuses() == {200: REQUESTS}


@pytest.mark.parametrize("behaviour", ["reset", "status:503"])
async def test_a_failing_stable_worker_costs_nobody_an_answer(
    tmp_path: Path, v1: Worker, v2: Worker, behaviour: str
) -> None:
    v2.behaviour = behaviour
    wanted = make_traffic(stable(v1.endpoint, v2.endpoint))
    async with start_gateway(tmp_path, wanted) as (_, proxy):
        assert (await send(proxy.url, REQUESTS)).statuses() == {200: REQUESTS}
        assert v2.live > 0


async def test_r03_endpoints_leave_the_proxy_without_a_lost_answer(
    tmp_path: Path, v1: Worker
) -> None:
    async with start_worker("other") as other:
        both = make_traffic(stable(v1.endpoint, other.endpoint))
        async with start_gateway(tmp_path, both) as (control, proxy):
            v1.behaviour = other.behaviour = "slow"
            async with steady_users(proxy.url) as users:
                await asyncio.sleep(0.5)
                assert other.live > 0
                await control.settle_on(make_traffic(stable(v1.endpoint)))
                await asyncio.sleep(0.05)
                begun = other.live
                await asyncio.sleep(1.2)
                assert other.live == begun == other.finished
            assert users.statuses().keys() == {200}
            assert all(a.text.count("data:") == 20 for a in users.answers)
