"""What the watch layer makes of events, and how kopf is configured."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import aiohttp
import kopf
import pytest
from aiohttp import web

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.controller.keys import Key
from llmrollouts.controller.versions import Versions
from llmrollouts.controller.watch import WATCHED, Watch, make_session, make_settings
from llmrollouts.controller.watch_age import WatchAges
from llmrollouts.kube.port import LLM_DEPLOYMENT, POD

CHAT = Key("prod", "chat")


def make_deployment(version: str, uid: str = "u1") -> Manifest:
    metadata = {"namespace": "prod", "name": "chat", "uid": uid, "resourceVersion": version}
    return {"metadata": metadata}


def make_pod(version: str) -> Manifest:
    given = make_deployment(version, "p1")
    given["metadata"] |= {"name": "chat-x-1", "labels": {labels.DEPLOYMENT: "chat"}}
    return given


class Listener:
    def __init__(self) -> None:
        self.nudged: list[Key] = []
        self.versions = Versions()

        def no_login() -> None:
            raise AssertionError("no request is made here")

        self.watch = Watch(
            no_login,  # type: ignore[arg-type]
            None,
            self.nudged.append,
            self.versions,
            WatchAges(WATCHED),
        )


@pytest.fixture
def listener() -> Listener:
    return Listener()


def test_an_event_nudges_the_deployment_or_the_owner_of_the_child(listener: Listener) -> None:
    listener.watch.notice(LLM_DEPLOYMENT, {"type": "ADDED", "object": make_deployment("1")})
    listener.watch.notice(POD, {"type": "MODIFIED", "object": make_pod("2")})
    assert listener.nudged == [CHAT, CHAT]


def test_what_the_last_round_has_read_or_written_is_no_news(listener: Listener) -> None:
    listener.versions.note(CHAT, [make_deployment("1"), make_pod("2")])
    listener.versions.note_written(CHAT, make_deployment("3"))
    listener.watch.notice(LLM_DEPLOYMENT, {"type": None, "object": make_deployment("3")})
    listener.watch.notice(POD, {"type": None, "object": make_pod("2")})
    assert listener.nudged == []


def test_r31_any_other_version_is_news_the_older_ones_too(listener: Listener) -> None:
    listener.versions.note(CHAT, [make_deployment("5")])
    for version in ("4", "6"):
        event = {"type": "MODIFIED", "object": make_deployment(version)}
        listener.watch.notice(LLM_DEPLOYMENT, event)
    listener.watch.notice(POD, {"type": "ADDED", "object": make_pod("5")})
    assert listener.nudged == [CHAT] * 3


def test_a_deletion_is_always_news(listener: Listener) -> None:
    listener.versions.note(CHAT, [make_pod("2")])
    listener.watch.notice(POD, {"type": "DELETED", "object": make_pod("2")})
    assert listener.nudged == [CHAT]


def test_objects_without_our_label_are_nobodys(listener: Listener) -> None:
    stranger = make_pod("2")
    stranger["metadata"]["labels"] = {}
    listener.watch.notice(POD, {"type": "ADDED", "object": stranger})
    assert listener.nudged == []


def test_kopf_only_watches() -> None:
    settings = make_settings()
    assert settings.peering.standalone
    assert settings.scanning.disabled
    assert not settings.posting.enabled
    assert settings.networking.request_timeout == 30
    assert settings.networking.connect_timeout == 10
    pauses = iter(settings.networking.error_backoffs)  # type: ignore[arg-type]
    assert [next(pauses) for _ in range(100)][-1] == 5.0


class Server:
    """Answers every request with ``items``, and notes what was accepted."""

    def __init__(self, items: list[Manifest] | None) -> None:
        self.items = items
        self.accepted: dict[str, str] = {}

    async def answer(self, request: web.Request) -> web.Response:
        self.accepted[request.path_qs] = request.headers["Accept"]
        return web.json_response({"kind": "PartialObjectMetadataList", "items": self.items})

    @contextlib.asynccontextmanager
    async def start(self, listener: Listener) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server = f"http://127.0.0.1:{runner.addresses[0][1]}"
        info = kopf.ConnectionInfo(server=server)
        try:
            async with make_session(info, WatchAges(WATCHED), listener.watch.take_in) as session:
                yield server, session
        finally:
            await runner.cleanup()


async def test_a_list_is_taken_in_and_kopf_is_left_with_an_empty_one(listener: Listener) -> None:
    listener.versions.note(CHAT, [make_pod("2")])
    other = make_pod("7")
    other["metadata"]["labels"] = {labels.DEPLOYMENT: "other"}
    async with (
        Server([make_pod("2"), other]).start(listener) as (server, session),
        session.get(f"{server}/api/v1/pods?limit=200") as listed,
    ):
        assert (await listed.json())["items"] == []
    assert listener.nudged == [Key("prod", "other")], "only what no round has read is news"


async def test_a_list_of_another_kind_is_left_alone(listener: Listener) -> None:
    given = [make_pod("2")]
    async with (
        Server(given).start(listener) as (server, session),
        session.get(f"{server}/api/v1/namespaces") as listed,
    ):
        assert (await listed.json())["items"] == given
    assert listener.nudged == []


async def test_only_metadata_is_asked_for_and_an_empty_list_of_it_is_a_list(
    listener: Listener,
) -> None:
    given = Server(None)
    async with given.start(listener) as (server, session):
        async with session.get(f"{server}/api/v1/pods") as listed:
            assert (await listed.json())["items"] == []
        async with session.get(f"{server}/api/v1/pods?watch=true") as watched:
            assert watched.status == 200
        async with session.get(f"{server}/apis/apps/v1") as discovered:
            assert discovered.status == 200
    accepted = given.accepted
    assert "as=PartialObjectMetadataList;" in accepted["/api/v1/pods"]
    assert "as=PartialObjectMetadata;" in accepted["/api/v1/pods?watch=true"]
    assert "as=" not in accepted["/apis/apps/v1"]


def test_a_command_goes_its_own_way_and_all_else_is_only_news() -> None:
    nudged: list[Key] = []
    commanded: list[Key] = []

    def no_login() -> kopf.ConnectionInfo:
        raise AssertionError("no request is made here")

    versions = Versions()
    watch = Watch(
        no_login, None, nudged.append, versions, WatchAges(WATCHED), commanded=commanded.append
    )
    given = make_deployment("1")
    given["metadata"]["annotations"] = {labels.COMMAND: "rollback"}
    watch.notice(LLM_DEPLOYMENT, {"type": "MODIFIED", "object": given})
    assert (nudged, commanded) == ([], [CHAT])
    given["metadata"]["annotations"] = {"example.com/other": "x"}
    watch.notice(LLM_DEPLOYMENT, {"type": "MODIFIED", "object": given})
    pod = make_pod("2")
    pod["metadata"]["annotations"] = {labels.COMMAND: "rollback"}
    watch.notice(POD, {"type": "MODIFIED", "object": pod})
    assert (nudged, commanded) == ([CHAT, CHAT], [CHAT])
    versions.note(CHAT, [make_deployment("3")])
    known = make_deployment("3")
    known["metadata"]["annotations"] = {labels.COMMAND: "rollback"}
    watch.notice(LLM_DEPLOYMENT, {"type": "MODIFIED", "object": known})
    assert commanded == [CHAT], "a round has read this version, command and all"
