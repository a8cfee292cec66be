"""The whole operator, as a process, moves users by a real HTTPRoute: rollout, rollback, restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from llmrollouts.api.share import WHOLE
from llmrollouts.kube.client import KubeClient
from llmrollouts.kube.connection import connect
from llmrollouts.kube.port import LLM_DEPLOYMENT
from tests.apiserver import ApiServer
from tests.controller.route_cluster import DOCS, RouteCluster, read_blocks
from tests.controller.route_workers import RouteWorkers
from tests.controller.shell import make_deployment
from tests.controller.test_operator_process import Cluster, leads, until

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

LONG = [{"canary": {"share": "50%", "duration": "1h"}}]
SHORT = [
    {"canary": {"share": "0.5%", "duration": "1s"}},
    {"canary": {"share": "50%", "duration": "1s"}},
]


class World:
    """The cluster with its controllers, and the operator's processes."""

    def __init__(self, routes: RouteCluster, operator: Cluster) -> None:
        self.routes = routes
        self.operator = operator

    async def deploy(self, model: str, steps: list[dict[str, Any]]) -> None:
        """Apply the spec."""
        manifest = make_deployment(model, steps=steps, rollbackWindow="0s")
        manifest["metadata"]["namespace"] = self.routes.namespace
        manifest["spec"]["gates"] = {"latency": {"mode": "Off"}}
        manifest["spec"]["traffic"] = {"provider": "HTTPRoute", "httpRoute": {"name": "chat"}}
        path = f"/apis/llmrollouts.dev/v1alpha1/namespaces/{self.routes.namespace}/llmdeployments"
        how = "application/apply-patch+yaml"
        query = "?fieldManager=kubectl&force=true&fieldValidation=Strict"
        answer = await self.routes.ask("PATCH", f"{path}/chat{query}", manifest, how)
        assert answer.status in (200, 201), answer.message

    async def command(self, text: str) -> None:
        patch = {"metadata": {"annotations": {"llmrollouts.dev/command": text}}}
        path = f"/apis/llmrollouts.dev/v1alpha1/namespaces/{self.routes.namespace}/llmdeployments"
        answer = await self.routes.ask(
            "PATCH", f"{path}/chat", patch, "application/merge-patch+json"
        )
        assert answer.status == 200, answer.message

    async def status(self) -> dict[str, Any]:
        found = await self.routes.client.get(LLM_DEPLOYMENT, self.routes.namespace, "chat")
        status: dict[str, Any] = found.get("status") or {}
        return status

    async def condition(self, kind: str) -> tuple[str, str]:
        for each in (await self.status()).get("conditions", []):
            if each["type"] == kind:
                return (each["status"], each["reason"])
        return ("", "")

    async def reach(self, what: Callable[[], Any], seconds: float = 60.0) -> float:
        began = time.monotonic()
        while not await what():
            assert time.monotonic() - began < seconds, await self.status()
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def weights_are(self, stable: int, canary: int) -> bool:
        return await self.routes.weights() == (stable, canary)


@pytest.fixture
async def world(apiserver: ApiServer, namespace: str, tmp_path: Path) -> AsyncIterator[World]:
    await asyncio.to_thread(apiserver.install_route_crd)
    operator = Cluster(apiserver, namespace, tmp_path)
    async with KubeClient(await connect(apiserver.kubeconfig)) as client:
        routes = RouteCluster(apiserver, client, namespace)
        workers = RouteWorkers(apiserver, client, routes)
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(routes.control()), loop.create_task(workers.control())]
        try:
            yield World(routes, operator)
        finally:
            for replica in operator.replicas:
                replica.process.kill()
                replica.process.wait()
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.2)
    failures = [e for e in ended if not isinstance(e, asyncio.CancelledError)]
    assert not failures


async def serve(world: World) -> None:
    """The first revision serves."""
    await until(leads(world.operator.start()))
    await world.routes.put_route(read_blocks(DOCS / "httproute.md")[1])
    await world.deploy("v1", LONG)

    async def serving() -> bool:
        return (await world.status()).get("phase") == "Serving"

    await world.reach(serving)


async def test_a_rollout_by_weights_reaches_everybody_and_leaves_the_route_at_rest(
    world: World,
) -> None:
    await serve(world)
    assert await world.condition("TrafficGuarantees") == ("False", "ProviderWithoutTTL")
    assert await world.condition("RouteProgrammed") == ("True", "WeightsSet")
    first = (await world.status())["stableRevision"]
    assert await world.routes.selected("stable") == first
    await world.deploy("v2", SHORT)
    seen: set[tuple[int, int]] = set()

    async def promoted() -> bool:
        seen.add(await world.routes.weights())
        status = await world.status()
        stable = status.get("stableRevision")
        return stable not in (None, first) and not status.get("retiring")

    await world.reach(promoted, 150)
    assert {(995_000, 5_000), (500_000, 500_000), (0, WHOLE)} <= seen
    assert await world.routes.weights() == (WHOLE, 0)
    second = (await world.status())["stableRevision"]
    assert {await world.routes.selected(side) for side in ("stable", "canary")} == {second}


async def test_a_rollback_by_command_and_a_share_that_outlives_the_operator(world: World) -> None:
    await serve(world)
    first = (await world.status())["stableRevision"]
    await world.deploy("v2", LONG)
    await world.reach(lambda: world.weights_are(500_000, 500_000))
    # Nobody is left who could lower it: what condition TrafficGuarantees says.
    world.operator.replicas[0].process.kill()
    await asyncio.sleep(3)
    assert await world.weights_are(500_000, 500_000)
    await until(leads(world.operator.start()), 20)
    await asyncio.sleep(3)
    assert await world.weights_are(500_000, 500_000)
    await world.command("rollback/1")
    assert await world.reach(lambda: world.weights_are(WHOLE, 0)) < 2.0
    assert await world.routes.selected("stable") == first

    async def retired() -> bool:
        status = await world.status()
        last = status.get("lastRollback") or {}
        return bool(last.get("programmedAt")) and not status.get("retiring")

    await world.reach(retired)
    assert await world.routes.selected("canary") == first
