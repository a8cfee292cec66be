"""The rights that httpRoute.enabled gives are enough; without them the provider says so."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from llmrollouts.api.reasons import Reason
from llmrollouts.controller.route_store import KubeRoutes
from llmrollouts.kube.client import KubeClient
from llmrollouts.kube.connection import connect
from llmrollouts.resources.children import Owner
from llmrollouts.traffic.weights import UnusableRoute
from tests.apiserver import Answer, ApiServer
from tests.chart.conftest import Rendered
from tests.fakes.routes import make_route

pytestmark = pytest.mark.apiserver

Render = Callable[..., Rendered]
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def ask(server: ApiServer, path: str, body: object) -> Answer:
    answer = server.request("POST", path, body)
    assert answer.status in (200, 201), answer.message
    return answer


@asynccontextmanager
async def operator_with(
    role: dict[str, object], server: ApiServer, namespace: str, folder: Path
) -> AsyncIterator[KubeRoutes]:
    """The store as a service account that has this ClusterRole and nothing else."""
    name = f"operator-{secrets.token_hex(4)}"
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    ask(server, accounts, {"metadata": {"name": name}})
    ask(server, f"{RBAC}/clusterroles", {**role, "metadata": {"name": name}})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    ask(server, f"{RBAC}/clusterrolebindings", binding)
    wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = ask(server, f"{accounts}/{name}/token", wanted).body["status"]["token"]
    config = yaml.safe_load(server.kubeconfig.read_text(encoding="utf-8"))
    config["users"][0]["user"]["token"] = token
    file = folder / name
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    async with KubeClient(await connect(file)) as client:
        yield KubeRoutes(client, client)


async def test_the_provider_needs_no_more_than_the_chart_gives(
    render: Render, apiserver: ApiServer, namespace: str, tmp_path: Path
) -> None:
    apiserver.install_route_crd()
    route = make_route()
    route["metadata"] = {"name": "chat", "namespace": namespace}
    routes = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes"
    ask(apiserver, routes, route)
    owner = Owner(namespace, "chat", "00000000-0000-4000-8000-000000000001")
    weight = {"op": "replace", "path": "/spec/rules/1/backendRefs/0/weight", "value": 5000}
    enough = render(httpRoute={"enabled": True}).find("ClusterRole", "llm-rollouts-operator")
    async with operator_with(enough, apiserver, namespace, tmp_path) as store:
        await store.read_route(namespace, "chat")
        await store.patch_route(namespace, "chat", [weight])
        assert await store.point_service(owner, "stable", "aaaaaaaaaa")
        assert await store.point_service(owner, "stable", "bbbbbbbbbb")
        assert await store.read_endpoints(owner, "stable") == frozenset()
    found = apiserver.request("GET", f"{routes}/chat").body
    assert found["spec"]["rules"][1]["backendRefs"][0]["weight"] == 5000


async def test_without_the_rights_the_condition_names_the_charts_value(
    render: Render, apiserver: ApiServer, namespace: str, tmp_path: Path
) -> None:
    apiserver.install_route_crd()
    owner = Owner(namespace, "chat", "00000000-0000-4000-8000-000000000001")
    role = render().find("ClusterRole", "llm-rollouts-operator")
    async with operator_with(role, apiserver, namespace, tmp_path) as store:
        for asked in (
            store.read_route(namespace, "chat"),
            store.patch_route(namespace, "chat", []),
            store.point_service(owner, "canary", "aaaaaaaaaa"),
            store.read_endpoints(owner, "canary"),
        ):
            with pytest.raises(UnusableRoute) as refused:
                await asked
            assert refused.value.problem.reason is Reason.ROUTE_REFUSED
            assert "httpRoute.enabled=true" in refused.value.problem.message
