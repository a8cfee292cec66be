"""A real API server with the real HTTPRoute, and the two controllers of a cluster that it lacks.

``Controllers`` does what the cluster's endpoint controller and a gateway's controller do: it writes
an EndpointSlice for each Service from the pods that its selector names, and confirms each new
generation of a route. Everything goes over the wire; only these two are ours.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import yaml

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.client import KubeClient
from llmrollouts.kube.port import ENDPOINT_SLICE, HTTP_ROUTE, SERVICE, Conflict, NotFound
from tests.apiserver import REPOSITORY, ApiServer

DOCS = REPOSITORY / "docs"


def read_blocks(file: Path) -> list[Manifest]:
    """The YAML blocks of a page, as a reader would copy them."""
    found = re.findall(r"```yaml\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL)
    return [yaml.safe_load(block) for block in found]


class RouteCluster:
    """One namespace. ``pods``: how many ready workers each revision of ``chat`` has."""

    def __init__(self, server: ApiServer, client: KubeClient, namespace: str) -> None:
        self.server = server
        self.client = client
        self.namespace = namespace
        self.pods: dict[str, int] = {}
        self._path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes"

    async def put_route(self, manifest: Manifest) -> Manifest:
        """kubectl create, so to say."""
        given = {**manifest, "metadata": {**manifest["metadata"], "namespace": self.namespace}}
        answer = await self.ask("POST", f"{self._path}?fieldValidation=Strict", given)
        assert answer.status == 201, answer.message
        return dict(answer.body)

    async def ask(self, method: str, path: str, body: Any = None, how: str = "") -> Any:
        """A request of somebody else, beside the event loop."""
        kind = how or "application/json"
        return await asyncio.to_thread(self.server.request, method, path, body, kind)

    async def apply_route(self, manifest: Manifest, manager: str) -> Manifest:
        """Server-side apply, taking over fields, as Argo CD does."""
        given = {**manifest, "metadata": {**manifest["metadata"], "namespace": self.namespace}}
        path = f"{self._path}/{given['metadata']['name']}?fieldManager={manager}&force=true"
        answer = await self.ask("PATCH", path, given, "application/apply-patch+yaml")
        assert answer.status == 200, answer.message
        return dict(answer.body)

    async def replace_route(self, manifest: Manifest) -> bool:
        """An editor with the object in his hands; False when somebody else was faster."""
        path = f"{self._path}/{manifest['metadata']['name']}?fieldManager=editor"
        answer = await self.ask("PUT", path, manifest)
        assert answer.status in (200, 409), answer.message
        return bool(answer.status == 200)

    async def delete_route(self, name: str = "chat") -> None:
        await self.ask("DELETE", f"{self._path}/{name}")

    async def route(self, name: str = "chat") -> Manifest:
        return await self.client.get(HTTP_ROUTE, self.namespace, name)

    async def weights(self) -> tuple[int, int]:
        """(stable, canary) of the only rule that lists both."""
        found = {
            backend["name"]: backend["weight"]
            for rule in (await self.route())["spec"]["rules"]
            for backend in rule.get("backendRefs") or []
        }
        return (found["chat-stable"], found["chat-canary"])

    async def selected(self, side: str) -> str | None:
        found = await self.client.get(SERVICE, self.namespace, f"chat-{side}")
        selector: dict[str, str] = found["spec"]["selector"]
        return selector.get(labels.REVISION)

    # The cluster's own controllers.

    async def control(self) -> None:
        """For ever: endpoints follow Services, gateways accept routes."""
        while True:
            try:
                await self._follow_services()
                await self._accept_routes()
            except (Conflict, NotFound):
                continue
            await asyncio.sleep(0.02)

    async def _follow_services(self) -> None:
        for service in await self.client.list(SERVICE, self.namespace):
            name = service["metadata"]["name"]
            revision = (service["spec"].get("selector") or {}).get(labels.REVISION, "")
            endpoints = [
                {
                    "addresses": [f"10.0.0.{number + 1}"],
                    "conditions": {"ready": True},
                    "targetRef": {"kind": "Pod", "name": f"chat-{revision}-6d4-{number}"},
                }
                for number in range(self.pods.get(revision, 0))
            ]
            await self.client.apply(
                ENDPOINT_SLICE,
                {
                    "apiVersion": ENDPOINT_SLICE.api_version,
                    "kind": ENDPOINT_SLICE.kind,
                    "metadata": {
                        "name": f"{name}-1",
                        "namespace": self.namespace,
                        "labels": {"kubernetes.io/service-name": name},
                    },
                    "addressType": "IPv4",
                    "endpoints": endpoints,
                    "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
                },
            )

    async def _accept_routes(self) -> None:
        for route in await self.client.list(HTTP_ROUTE, self.namespace):
            generation = route["metadata"]["generation"]
            told = (route.get("status") or {}).get("parents") or [{}]
            seen = (told[0].get("conditions") or [{}])[0].get("observedGeneration")
            if seen == generation:
                continue
            accepted = {
                "type": "Accepted",
                "status": "True",
                "reason": "Accepted",
                "message": "",
                "observedGeneration": generation,
                "lastTransitionTime": "2026-01-05T12:00:00Z",
            }
            parent = {
                "parentRef": route["spec"]["parentRefs"][0],
                "controllerName": "example.test/gateway",
                "conditions": [accepted],
            }
            path = f"{self._path}/{route['metadata']['name']}/status"
            body = {"status": {"parents": [parent]}}
            await self.ask("PATCH", path, body, "application/merge-patch+json")
