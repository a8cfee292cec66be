"""What makes pods of worker Deployments on an API server that has no controllers: ready at once.

Pods are real objects with a real status; nothing runs in them. Used beside RouteCluster.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.client import KubeClient
from llmrollouts.kube.port import DEPLOYMENT, POD, Conflict, NotFound
from tests.apiserver import ApiServer
from tests.controller.route_cluster import RouteCluster


class RouteWorkers:
    """Keeps as many ready pods as each worker Deployment wants, and tells the cluster of them."""

    def __init__(self, server: ApiServer, client: KubeClient, cluster: RouteCluster) -> None:
        self._server = server
        self._client = client
        self._cluster = cluster
        self._born = 0

    async def control(self) -> None:
        while True:
            try:
                await self._follow()
            except (Conflict, NotFound):
                continue
            await asyncio.sleep(0.05)

    async def _follow(self) -> None:
        namespace = self._cluster.namespace
        deployments = await self._client.list(DEPLOYMENT, namespace)
        pods = list(await self._client.list(POD, namespace, {labels.DEPLOYMENT: "chat"}))
        wanted = {d["metadata"]["labels"][labels.REVISION]: d for d in deployments}
        ready: dict[str, int] = {}
        for revision, deployment in wanted.items():
            mine = [p for p in pods if p["metadata"]["labels"][labels.REVISION] == revision]
            size = int(deployment["spec"]["replicas"])
            for pod in mine[size:]:
                await self._client.delete(POD, namespace, pod["metadata"]["name"])
            for _ in range(size - len(mine)):
                await self._start(deployment)
            ready[revision] = size
        for pod in pods:
            if pod["metadata"]["labels"][labels.REVISION] not in wanted:
                await self._client.delete(POD, namespace, pod["metadata"]["name"])
        self._cluster.pods = ready

    async def _start(self, deployment: Manifest) -> None:
        self._born += 1
        name, namespace = deployment["metadata"]["name"], self._cluster.namespace
        template = deployment["spec"]["template"]
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        owner = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": f"{name}-{digest}",
            "uid": f"00000000-0000-4000-8000-{self._born:012d}",
            "controller": True,
        }
        pod: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-{digest}-{self._born:05d}",
                "namespace": namespace,
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "spec": template["spec"],
        }
        made = await self._client.create(POD, pod)
        made["status"] = {
            "phase": "Running",
            "podIP": f"10.1.0.{self._born}",
            "podIPs": [{"ip": f"10.1.0.{self._born}"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{made['metadata']['name']}/status"
        answer = await asyncio.to_thread(self._server.request, "PUT", path, made)
        assert answer.status == 200, answer.message
