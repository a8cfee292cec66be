"""The client against a server that misbehaves in each way that an API server can."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from llmrollouts.kube import client as client_module
from llmrollouts.kube.client import KubeClient
from llmrollouts.kube.connection import BEARER, Connection, NoConnection
from llmrollouts.kube.port import (
    CONFIG_MAP,
    DEPLOYMENT,
    LLM_DEPLOYMENT,
    Conflict,
    KubeError,
    NotFound,
    Rejected,
    Transient,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(code: int, message: str = "said so", **details: object) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": "Because", "message": message}
    return web.json_response({**body, "details": details}, status=code)


class Server:
    """An HTTP server on loopback whose answers a test sets."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.answer: Handler = self._fine
        self.url = ""

    async def _fine(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"metadata": {"name": "x"}})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return await self.answer(request)

    def always(self, make: Callable[[], web.Response]) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return make()

        self.answer = answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application(client_max_size=4 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def seen() -> list[tuple[str, str, int]]:
    return []


async def nothing() -> None:
    return None


def connection(url: str, refresh: Callable[[], Awaitable[None]] = nothing) -> Connection:
    return Connection(Configuration(host=url), refresh)


@pytest.fixture
async def kube(server: Server, seen: list[tuple[str, str, int]]) -> AsyncIterator[KubeClient]:
    def note(verb: str, kind: str, code: int, seconds: float) -> None:
        assert seconds >= 0
        seen.append((verb, kind, code))

    async with KubeClient(connection(server.url), note) as client:
        yield client


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, Rejected),
        (401, Rejected),
        (403, Rejected),
        (404, NotFound),
        (405, Rejected),
        (408, Transient),
        (409, Conflict),
        (410, Transient),
        (413, Rejected),
        (415, Rejected),
        (422, Rejected),
        (429, Transient),
        (500, Transient),
        (502, Transient),
        (503, Transient),
        (504, Transient),
    ],
)
async def test_each_answer_says_who_is_at_fault(
    server: Server,
    kube: KubeClient,
    seen: list[tuple[str, str, int]],
    code: int,
    error: type[KubeError],
) -> None:
    server.always(lambda: status(code))
    with pytest.raises(error, match=f"apply ConfigMap ns/a: {code} Because: said so") as raised:
        await kube.apply(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "a"}})
    assert type(raised.value) is error
    assert set(seen) == {("apply", "ConfigMap", code)}


async def test_plain_text_of_a_server_that_starts_is_transient(
    server: Server, kube: KubeClient
) -> None:
    server.always(lambda: web.Response(status=503, text="apiserver not ready"))
    with pytest.raises(Transient, match="503: apiserver not ready"):
        await kube.get(CONFIG_MAP, "ns", "a")
    server.always(lambda: web.Response(text="<html>a proxy's login page</html>"))
    with pytest.raises(Transient, match="not JSON"):
        await kube.get(CONFIG_MAP, "ns", "a")
    server.always(lambda: web.json_response(["no", "object"]))
    with pytest.raises(Transient, match="not an object"):
        await kube.get(CONFIG_MAP, "ns", "a")


async def test_retry_after_is_told_from_the_header_or_the_body(
    server: Server, kube: KubeClient
) -> None:
    async def retry_after(answer: Callable[[], web.Response]) -> float | None:
        server.always(answer)
        with pytest.raises(Transient) as raised:
            await kube.get(CONFIG_MAP, "ns", "a")
        return raised.value.retry_after

    headers = {"Retry-After": "7"}
    assert await retry_after(lambda: web.Response(status=429, headers=headers)) == 7.0
    assert await retry_after(lambda: status(503, retryAfterSeconds=3)) == 3.0
    assert await retry_after(lambda: status(503)) is None
    date = {"Retry-After": "Fri, 01 Jan 2027 00:00:00 GMT"}
    assert await retry_after(lambda: web.Response(status=503, headers=date)) is None


async def test_a_very_long_message_is_cut(server: Server, kube: KubeClient) -> None:
    server.always(lambda: status(422, "x" * 100_000))
    with pytest.raises(Rejected) as raised:
        await kube.get(CONFIG_MAP, "ns", "a")
    assert len(str(raised.value)) < 1200


async def test_no_answer_in_time_is_transient(
    server: Server,
    kube: KubeClient,
    seen: list[tuple[str, str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        raise AssertionError("unreachable")

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{")
        await asyncio.sleep(30)
        raise AssertionError("unreachable")

    monkeypatch.setattr(client_module, "STATUS", aiohttp.ClientTimeout(total=0.2))
    written = {"metadata": {"namespace": "ns", "name": "a", "resourceVersion": "1"}}
    for answer in (hang, trickle):
        server.answer = answer
        with pytest.raises(Transient, match=r"no answer within 0\.\d s"):
            await kube.replace_status(LLM_DEPLOYMENT, written)
    assert seen == [("replace_status", "LLMDeployment", 0)] * 2


def test_every_request_has_a_time_out_and_status_writes_the_shortest() -> None:
    for limit in (client_module.REQUEST, client_module.STATUS, client_module.LISTING):
        assert limit.total is not None
    assert client_module.STATUS.total == 5.0
    assert client_module.REQUEST.total == 10.0


async def test_no_server_is_transient(seen: list[tuple[str, str, int]]) -> None:
    async with KubeClient(connection("http://127.0.0.1:1")) as kube:
        with pytest.raises(Transient, match="no connection"):
            await kube.get(CONFIG_MAP, "ns", "a")


async def test_a_connection_cut_in_the_answer_is_transient(
    server: Server, kube: KubeClient
) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.abort()
        return response

    server.answer = cut
    with pytest.raises(Transient, match="no connection"):
        await kube.apply(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "a"}})


async def test_cancellation_passes_through_and_the_client_goes_on(
    server: Server, kube: KubeClient
) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        raise AssertionError("unreachable")

    fine = server.answer
    server.answer = hang
    task = asyncio.create_task(kube.get(CONFIG_MAP, "ns", "a"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.answer = fine
    assert await kube.get(CONFIG_MAP, "ns", "a")


async def test_what_is_sent_for_each_verb(server: Server, kube: KubeClient) -> None:
    manifest = {"metadata": {"namespace": "ns", "name": "a", "resourceVersion": "1"}}
    await kube.apply(DEPLOYMENT, manifest)
    await kube.create(DEPLOYMENT, manifest)
    await kube.replace_status(LLM_DEPLOYMENT, manifest)
    await kube.patch(LLM_DEPLOYMENT, "ns", "a", [{"op": "remove", "path": "/x"}])
    await kube.delete(DEPLOYMENT, "ns", "a", uid="u")
    sent = [(r.method, r.path, r.content_type) for r in server.requests]
    apps, own = "/apis/apps/v1/namespaces/ns", "/apis/llmrollouts.dev/v1alpha1/namespaces/ns"
    assert sent == [
        ("PATCH", f"{apps}/deployments/a", "application/apply-patch+yaml"),
        ("POST", f"{apps}/deployments", "application/json"),
        ("PUT", f"{own}/llmdeployments/a/status", "application/json"),
        ("PATCH", f"{own}/llmdeployments/a", "application/json-patch+json"),
        ("DELETE", f"{apps}/deployments/a", "application/json"),
    ]
    apply = server.requests[0].query
    assert (apply["fieldManager"], apply["force"]) == ("llmrollouts", "true")
    assert json.loads(server.bodies[4]) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "preconditions": {"uid": "u"},
    }


async def test_an_expired_page_starts_the_list_over(server: Server, kube: KubeClient) -> None:
    expired = [True]

    async def pages(request: web.Request) -> web.StreamResponse:
        name = request.query.get("continue", "")
        if not name:
            return web.json_response(
                {"metadata": {"continue": "next"}, "items": [{"metadata": {"name": "first"}}]}
            )
        if expired:
            expired.pop()
            return status(410, "the provided continue parameter is too old")
        return web.json_response({"metadata": {}, "items": [{"metadata": {"name": "second"}}]})

    server.answer = pages
    found = await kube.list(CONFIG_MAP, None, {"a": "b"})
    assert [m["metadata"]["name"] for m in found] == ["first", "second"]
    assert len(server.requests) == 4
    assert server.requests[0].path == "/api/v1/configmaps"
    assert {r.query["labelSelector"] for r in server.requests} == {"a=b"}
    expired.extend([True] * 10)
    with pytest.raises(Transient, match="410"):
        await kube.list(CONFIG_MAP, None)


async def test_a_refused_token_is_read_again_once(server: Server) -> None:
    tokens = ["new"]
    link = connection(server.url)
    link.configuration.api_key[BEARER] = "Bearer old"

    async def refresh() -> None:
        if not tokens:
            raise NoConnection("no token any more")
        link.configuration.api_key[BEARER] = f"Bearer {tokens.pop()}"

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Bearer new":
            return status(401, "Unauthorized")
        return web.json_response({})

    server.answer = answer
    async with KubeClient(Connection(link.configuration, refresh)) as kube:
        assert await kube.get(CONFIG_MAP, "ns", "a") == {}
        assert len(server.requests) == 2
        link.configuration.api_key[BEARER] = "Bearer expired"
        with pytest.raises(Transient, match="no token any more"):
            await kube.get(CONFIG_MAP, "ns", "a")


async def test_a_warning_of_the_server_is_logged_once(
    server: Server, kube: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Warning": '299 - "unknown field \\"status.x\\""'}
    server.always(lambda: web.json_response({}, headers=headers))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await kube.get(CONFIG_MAP, "ns", "a")
    assert caplog.messages == ["The API server warned"]


async def test_a_hundred_requests_at_once_share_the_pool(server: Server) -> None:
    running, most = 0, 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return web.json_response({})

    server.answer = answer
    async with KubeClient(connection(server.url)) as kube:
        await asyncio.gather(*(kube.get(CONFIG_MAP, "ns", f"n{i}") for i in range(100)))
    assert 8 < most <= client_module.CONNECTIONS


async def test_a_token_never_shows_in_errors_or_logs(
    server: Server, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    link = connection(server.url)
    link.configuration.api_key[BEARER] = "Bearer s3cr3t"
    server.always(lambda: status(401))
    with caplog.at_level(logging.DEBUG):
        async with KubeClient(link) as kube:
            with pytest.raises(Rejected) as raised:
                await kube.get(CONFIG_MAP, "ns", "a")
    assert "s3cr3t" not in str(raised.value)
    assert "s3cr3t" not in "".join(str(vars(record)) for record in caplog.records)
