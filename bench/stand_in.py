"""Stands in for kubelet, scheduler and controller-manager: worker Deployments get ready pods.

For each worker Deployment it makes as many Pods as are wanted, through the API, ready at once, each
with an address of its own on loopback; pods that are too many are deleted. With ``serve`` a small
model server answers at each address on port 8000. It never touches anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

from bench.kube_api import Json, KubeApi, Refused
from llmrollouts.api import labels

ENGINE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_AT_ONCE = 16


class ModelServer(asyncio.Protocol):
    """Answers each request without a body at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *requests, self._rest = (self._rest + data).split(b"\r\n\r\n")
        if requests:
            self._transport.write(ENGINE * len(requests))


def addresses() -> Iterator[str]:
    """Addresses of 127.0.0.0/8, apart from those of other processes that do the same."""
    second = 16 + os.getpid() % 224
    for number in itertools.count(1):
        yield f"127.{second}.{number // 250}.{1 + number % 250}"


class StandIn:
    """``pods``: how many it has made that are still there."""

    def __init__(self, api: KubeApi, serve: bool) -> None:
        self._api = api
        self._serve = serve
        self._addresses = addresses()
        self._numbers = itertools.count()
        self._pods: dict[str, dict[str, asyncio.Server | None]] = {}
        self._wanted: dict[str, Json | None] = {}
        self._changed: asyncio.Queue[str] = asyncio.Queue()
        self._busy: dict[str, asyncio.Lock] = {}

    @property
    def pods(self) -> int:
        return sum(len(pods) for pods in self._pods.values())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._work())
            group.create_task(self._watch())

    async def close(self) -> None:
        for pods in self._pods.values():
            for server in pods.values():
                if server is not None:
                    server.close()

    async def _watch(self) -> None:
        path = "/apis/apps/v1/deployments"
        async for event in self._api.watch(path, labels.DEPLOYMENT):
            manifest = event["object"]
            metadata = manifest["metadata"]
            name = f"{metadata['namespace']}/{metadata['name']}"
            queued = name in self._wanted
            self._wanted[name] = None if event["type"] == "DELETED" else manifest
            if not queued:
                self._changed.put_nowait(name)

    async def _work(self) -> None:
        while True:
            name = await self._changed.get()
            async with self._busy.setdefault(name, asyncio.Lock()):
                if name in self._wanted:
                    await self._follow(name, self._wanted.pop(name))

    async def _follow(self, name: str, manifest: Json | None) -> None:
        pods = self._pods.setdefault(name, {})
        replicas = 0 if manifest is None else int(manifest["spec"].get("replicas", 1))
        while len(pods) > replicas:
            await self._stop_pod(name.partition("/")[0], pods)
        while manifest is not None and len(pods) < replicas:
            await self._start_pod(manifest, pods)

    async def _start_pod(self, manifest: Json, pods: dict[str, asyncio.Server | None]) -> None:
        address = next(self._addresses)
        server = None
        if self._serve:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(ModelServer, address, labels.ENGINE_PORT, backlog=256)
        name = f"{manifest['metadata']['name']}-standin-{next(self._numbers)}"
        path = f"/api/v1/namespaces/{manifest['metadata']['namespace']}/pods"
        pod = await self._api.request("POST", path, make_pod(manifest, name))
        pod["status"] = make_ready(manifest, address)
        await self._api.request("PUT", f"{path}/{name}/status", pod)
        pods[name] = server

    async def _stop_pod(self, namespace: str, pods: dict[str, asyncio.Server | None]) -> None:
        name, server = pods.popitem()
        with contextlib.suppress(Refused):  # gone with its namespace
            await self._api.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}")
        if server is not None:
            server.close()


def make_pod(manifest: Json, name: str) -> Json:
    """The pod as a ReplicaSet would make it from the Deployment's template."""
    template = manifest["spec"]["template"]
    owner = f"{manifest['metadata']['name']}-standin"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": template["metadata"]["labels"],
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": owner,
                    "uid": manifest["metadata"]["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": template["spec"],
    }


def make_ready(manifest: Json, address: str) -> Json:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    containers = manifest["spec"]["template"]["spec"]["containers"]
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": now}
            for kind in ("Initialized", "ContainersReady", "Ready", "PodScheduled")
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": container["image"],
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for container in containers
        ],
    }


@contextlib.asynccontextmanager
async def start_stand_in(api: KubeApi, serve: bool) -> AsyncIterator[StandIn]:
    stand_in = StandIn(api, serve)
    task = asyncio.create_task(stand_in.run())
    try:
        yield stand_in
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await stand_in.close()
