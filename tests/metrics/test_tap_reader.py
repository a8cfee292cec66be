"""The reader against a real HTTP server that behaves and misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from llmrollouts.analysis.counts import Measurement, Metric
from llmrollouts.metrics.fetch import PageFetcher
from llmrollouts.metrics.page import LONGEST_PAGE, NoTap, PageError
from llmrollouts.metrics.port import Query, Worker
from llmrollouts.metrics.tap import TapReader
from tests.metrics.test_page import ASKED, make_raw

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
WORKER = Worker("uid-1", "chat-abc-1", "127.0.0.1")


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[TapReader]:
    app = web.Application()
    app.router.add_get("/samples", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    reader = TapReader(PageFetcher(port=port, time_out=0.5))
    try:
        yield reader
    finally:
        await reader.close()
        await runner.cleanup()


async def test_a_page_is_asked_for_and_read() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.query_string)
        return web.json_response(make_raw())

    async with serving(answer) as reader:
        before = asyncio.get_running_loop().time()
        reading = await reader.read(WORKER, Query(ASKED, 98.25, "a1"))
        after = asyncio.get_running_loop().time()
    assert reading.page.boot == "a1"
    assert before <= reading.at <= after
    (query,) = asked
    assert "since=98.25" in query
    assert "boot=a1" in query
    assert "reference=64" in query


async def test_a_clock_is_asked_for_without_a_query() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.query_string)
        return web.json_response(make_raw(closed=[], outcomes=[]))

    async with serving(answer) as reader:
        await reader.read(WORKER, Query())
    assert asked == [""]


async def test_a_slow_worker_is_an_error_in_time() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.json_response(make_raw())

    async with serving(answer) as reader:
        began = asyncio.get_running_loop().time()
        with pytest.raises(PageError, match=r"chat-abc-1 did not answer within 0\.5s"):
            await reader.read(WORKER, Query(ASKED, 1.0, "a1"))
        assert asyncio.get_running_loop().time() - began < 2


async def test_a_worker_that_trickles_is_cut_off_in_time() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.05)
        except ConnectionError:
            return response

    async with serving(answer) as reader:
        with pytest.raises(PageError, match="did not answer"):
            await reader.read(WORKER, Query())


async def test_an_endless_page_is_not_read_to_its_end() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(4 * LONGEST_PAGE // 65536):
                await response.write(b"x" * 65536)
        except ConnectionError:
            pass
        return response

    async with serving(answer) as reader:
        with pytest.raises(PageError, match="more than"):
            await reader.read(WORKER, Query())


@pytest.mark.parametrize("status", [400, 500, 503])
async def test_another_status_is_an_error_that_repeats_no_body(status: int) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="secret of the worker")

    async with serving(answer) as reader:
        with pytest.raises(PageError, match=str(status)) as raised:
            await reader.read(WORKER, Query())
    assert "secret" not in str(raised.value)


async def test_no_redirect_is_followed() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://127.0.0.1:1/elsewhere")

    async with serving(answer) as reader:
        with pytest.raises(PageError, match="302"):
            await reader.read(WORKER, Query())


async def test_a_launcher_without_samples_has_no_tap() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async with serving(answer) as reader:
        with pytest.raises(NoTap, match="chat-abc-1"):
            await reader.read(WORKER, Query())


async def test_nobody_there_is_an_error_that_names_the_worker() -> None:
    reader = TapReader(PageFetcher(port=1))
    try:
        with pytest.raises(PageError, match="chat-abc-1 cannot be reached"):
            await reader.read(WORKER, Query())
    finally:
        await reader.close()


@pytest.mark.parametrize("address", ["example.org", "10.0.0.1:80/x", "", "localhost"])
async def test_only_addresses_of_pods_are_asked(address: str) -> None:
    reader = TapReader(PageFetcher())
    try:
        with pytest.raises(PageError, match="no address of a pod"):
            await reader.read(Worker("u", "p", address), Query())
    finally:
        await reader.close()


async def test_what_was_not_asked_for_is_no_page() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=json.dumps(make_raw()))

    other = Measurement({Metric.TPOT: (2.0,)}, {}, 64, (2.0,))
    async with serving(answer) as reader:
        with pytest.raises(PageError, match="not asked for"):
            await reader.read(WORKER, Query(other, 1.0, "a1"))
