"""Weights of a real HTTPRoute on a real API server: two numbers change, and nothing else (R20)."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator
from pathlib import Path

import jq
import pytest

from llmrollouts.api import labels
from llmrollouts.api.deployment import read_spec
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import ALL, NONE, WHOLE, Share
from llmrollouts.controller.route_store import KubeRoutes
from llmrollouts.kube.client import KubeClient
from llmrollouts.kube.connection import connect
from llmrollouts.kube.port import SERVICE
from llmrollouts.resources.children import Owner
from llmrollouts.rollout.intent import DeploymentTraffic, Endpoint, RevisionTraffic, RouteRule
from llmrollouts.traffic.httproute import HTTPRouteTraffic, RouteTiming
from llmrollouts.traffic.weights import UnusableRoute
from tests.apiserver import ApiServer, start_apiserver
from tests.controller.route_cluster import DOCS, RouteCluster, read_blocks

pytestmark = pytest.mark.apiserver

A, B = "aaaaaaaaaa", "bbbbbbbbbb"
UID = "00000000-0000-4000-8000-000000000001"
QUICK = RouteTiming(propagation=0.1, soon=0.05, active=0.2)
WAIT = 20.0


class Lead:
    def may_push(self) -> bool:
        return True

    def lease_is_fresh(self) -> bool:
        return True


def make_traffic(
    namespace: str, share: Share = NONE, default: str = A, rule: RouteRule | None = None
) -> DeploymentTraffic:
    workers = (Endpoint("10.0.0.1", 8000, "pod"),)
    revisions = (RevisionTraffic(A, workers), RevisionTraffic(B, workers, share=share, fallback=A))
    return DeploymentTraffic(
        namespace, "chat", UID, default, revisions, rule or RouteRule("chat", name="users")
    )


def read_route() -> Manifest:
    """The route of docs/httproute.md, with all that others may have put into it."""
    route = read_blocks(DOCS / "httproute.md")[1]
    users = route["spec"]["rules"][0]
    users["backendRefs"].insert(1, {"name": "legacy", "port": 8080, "weight": 5})
    users["backendRefs"][0]["filters"] = [
        {
            "type": "ResponseHeaderModifier",
            "responseHeaderModifier": {"set": [{"name": "x-side", "value": "stable"}]},
        }
    ]
    users["filters"] = [
        {
            "type": "RequestMirror",
            "requestMirror": {"backendRef": {"name": "auditor", "port": 80}},
        }
    ]
    users["timeouts"] = {"request": "0s"}
    route["spec"]["hostnames"] = ["llm.example"]
    route["spec"]["rules"].insert(
        0,
        {
            "name": "docs",
            "matches": [{"path": {"type": "Exact", "value": "/docs"}}],
            "backendRefs": [
                {"name": "docs-a", "port": 80, "weight": 3},
                {"name": "docs-b", "port": 80, "weight": 4},
            ],
        },
    )
    return route


def without_weights(route: Manifest) -> Manifest:
    spec = copy.deepcopy(route["spec"])
    for backend in spec["rules"][1]["backendRefs"]:
        if backend["name"].startswith("chat-"):
            del backend["weight"]
    return dict(spec)


@pytest.fixture(scope="module")
def routes(apiserver: ApiServer) -> ApiServer:
    apiserver.install_route_crd()
    return apiserver


@pytest.fixture
async def cluster(routes: ApiServer, namespace: str) -> AsyncIterator[RouteCluster]:
    async with KubeClient(await connect(routes.kubeconfig)) as client:
        made = RouteCluster(routes, client, namespace)
        made.pods = {A: 2, B: 1}
        controllers = asyncio.get_running_loop().create_task(made.control())
        try:
            yield made
        finally:
            controllers.cancel()
            await asyncio.gather(controllers, return_exceptions=True)
    # Connections of requests that were cut off close in a later turn of the loop.
    await asyncio.sleep(0.2)


@pytest.fixture
async def provider(cluster: RouteCluster) -> AsyncIterator[HTTPRouteTraffic]:
    made = HTTPRouteTraffic(
        KubeRoutes(cluster.client, cluster.client), Lead(), lambda *name: None, QUICK
    )

    async def decide() -> None:
        while True:
            made.renew(UID)
            await asyncio.sleep(0.5)

    rounds = asyncio.get_running_loop().create_task(decide())
    try:
        yield made
    finally:
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)
        await made.stop()


async def settle(provider: HTTPRouteTraffic, wanted: DeploymentTraffic) -> float:
    began = time.monotonic()
    provider.program(wanted)
    provider.renew(UID)
    while not provider.observe(UID).settled:
        assert time.monotonic() - began < WAIT, provider.observe(UID)
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def wait_for_weights(cluster: RouteCluster, wanted: tuple[int, int]) -> float:
    began = time.monotonic()
    while (found := await cluster.weights()) != wanted:
        assert time.monotonic() - began < WAIT, found
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_r20_two_weights_of_the_named_rule_change_and_nothing_else(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    before = await cluster.put_route(read_route())
    for share in (Share(1), Share(5_000), Share(333_333), ALL, NONE):
        await settle(provider, make_traffic(cluster.namespace, share))
        after = await cluster.route()
        assert await cluster.weights() == (WHOLE - share.ppm, share.ppm)
        assert without_weights(after) == without_weights(before)
        for part in ("labels", "annotations", "ownerReferences", "finalizers"):
            assert after["metadata"].get(part) == before["metadata"].get(part)


async def test_r20_unmanaged_backends_keep_their_weights_through_a_whole_promotion(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    before = await cluster.put_route(read_route())
    namespace = cluster.namespace
    stages = [
        make_traffic(namespace, Share(500_000)),
        make_traffic(namespace, ALL),
        make_traffic(namespace, ALL, default=B),
        make_traffic(namespace, NONE, default=B),
    ]
    for stage in stages:
        await settle(provider, stage)
    assert await cluster.weights() == (WHOLE, 0)
    assert [await cluster.selected(side) for side in ("stable", "canary")] == [B, B]
    assert without_weights(await cluster.route()) == without_weights(before)


async def test_a_rollback_is_in_the_route_within_a_second(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    await cluster.put_route(read_route())
    await settle(provider, make_traffic(cluster.namespace, Share(500_000)))
    provider.program(make_traffic(cluster.namespace, NONE))
    assert await wait_for_weights(cluster, (WHOLE, 0)) < 1.0
    await settle(provider, make_traffic(cluster.namespace, NONE))
    assert await cluster.selected("canary") == A


async def test_r20_an_editor_and_the_operator_at_once_lose_nothing_of_each_other(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    await cluster.put_route(read_route())
    await settle(provider, make_traffic(cluster.namespace))
    edits = 0

    async def edit() -> None:
        nonlocal edits
        while True:
            route = await cluster.route()
            docs = route["spec"]["rules"][0]["backendRefs"][0]
            docs["weight"] += 1
            route["spec"]["rules"][1]["backendRefs"].reverse()
            edits += await cluster.replace_route(route)
            await asyncio.sleep(0.005)

    editor = asyncio.get_running_loop().create_task(edit())
    for ppm in range(1_000, 200_000, 1_000):
        provider.program(make_traffic(cluster.namespace, Share(ppm)))
        await asyncio.sleep(0.05)
        if edits >= 10 and ppm >= 20_000:
            break
    editor.cancel()
    await asyncio.gather(editor, return_exceptions=True)
    await settle(provider, make_traffic(cluster.namespace, Share(190_000)))
    assert edits >= 10
    assert await cluster.weights() == (810_000, 190_000)
    docs = (await cluster.route())["spec"]["rules"][0]["backendRefs"][0]
    # The last edit may have been cut off between its answer and its count.
    assert docs["weight"] - 3 in (edits, edits + 1)


def read_ignored() -> tuple[str, list[str]]:
    """The route's name and the paths of docs/argo-cd.md."""
    application = read_blocks(DOCS / "argo-cd.md")[0]["spec"]
    assert "RespectIgnoreDifferences=true" in application["syncPolicy"]["syncOptions"]
    (given,) = application["ignoreDifferences"]
    assert (given["group"], given["kind"]) == ("gateway.networking.k8s.io", "HTTPRoute")
    return given["name"], given["jqPathExpressions"]


def without_ignored(route: Manifest) -> Manifest:
    """What Argo CD compares: the object without the ignored paths."""
    _, paths = read_ignored()
    program = " | ".join(f"del({path})" for path in paths)
    left: Manifest = jq.compile(program).input_value({"spec": route["spec"]}).first()
    return left


def with_live_values(desired: Manifest, live: Manifest) -> Manifest:
    """What RespectIgnoreDifferences applies: Git's object with the ignored values of the live."""
    _, paths = read_ignored()
    result = copy.deepcopy(desired)
    for path in paths:
        places = jq.compile(f"path({path})").input_value({"spec": live["spec"]}).all()
        for *parents, last in places:
            value = live
            target = result
            for part in parents:
                value, target = value[part], target[part]
            target[last] = value[last]
    return result


async def test_r20_argo_cd_sees_no_difference_and_its_sync_leaves_the_share_alone(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    desired = read_route()
    assert read_ignored()[0] == desired["metadata"]["name"]
    before = await cluster.put_route(desired)
    assert without_ignored(before) == {"spec": without_weights(before)}
    await settle(provider, make_traffic(cluster.namespace, Share(5_000)))
    live = await cluster.route()
    assert live["spec"] != before["spec"]
    assert without_ignored(live) == without_ignored(before)
    synced = await cluster.apply_route(with_live_values(desired, live), "argocd-controller")
    assert await cluster.weights() == (995_000, 5_000)
    assert synced["metadata"]["generation"] == live["metadata"]["generation"]
    # And the operator goes on where it was, beside an owner that applies.
    await settle(provider, make_traffic(cluster.namespace, Share(50_000)))
    assert await cluster.weights() == (950_000, 50_000)


async def test_r20_a_sync_that_puts_gits_weights_back_is_put_right(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    desired = read_route()
    await cluster.put_route(desired)
    await settle(provider, make_traffic(cluster.namespace, Share(5_000)))
    await cluster.apply_route(desired, "argocd-controller")
    assert await wait_for_weights(cluster, (995_000, 5_000)) < 3.0


async def test_the_rules_are_one_field_to_the_api_server_as_the_page_on_argo_cd_says(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    await cluster.put_route(read_route())
    await settle(provider, make_traffic(cluster.namespace, Share(5_000)))
    entries = (await cluster.route())["metadata"]["managedFields"]
    ours = [e for e in entries if e["manager"] == labels.FIELD_MANAGER and "subresource" not in e]
    assert [entry["fieldsV1"]["f:spec"] for entry in ours] == [{"f:rules": {}}]


async def test_the_page_on_routes_is_a_deployment_and_a_route_that_work_together(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    deployment, route = read_blocks(DOCS / "httproute.md")
    spec = read_spec(deployment)
    given = spec.traffic.http_route
    assert given is not None
    path = f"/apis/llmrollouts.dev/v1alpha1/namespaces/{cluster.namespace}/llmdeployments"
    made = await cluster.ask("POST", f"{path}?fieldValidation=Strict", deployment)
    assert made.status == 201, made.message
    await cluster.put_route(route)
    rule = RouteRule(given.name, given.rule_name, given.rule_index)
    await settle(provider, make_traffic(cluster.namespace, Share(5_000), rule=rule))
    assert await cluster.weights() == (995_000, 5_000)


async def test_the_services_are_owned_select_one_revision_and_lead_to_the_engines_port(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    await cluster.put_route(read_route())
    await settle(provider, make_traffic(cluster.namespace, Share(5_000)))
    for side, revision in (("stable", A), ("canary", B)):
        found = await cluster.client.get(SERVICE, cluster.namespace, f"chat-{side}")
        assert [owner["uid"] for owner in found["metadata"]["ownerReferences"]] == [UID]
        assert found["spec"]["selector"] == {labels.DEPLOYMENT: "chat", labels.REVISION: revision}
        (port,) = found["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (80, "http")


async def problem_of(provider: HTTPRouteTraffic, wanted: DeploymentTraffic) -> tuple[Reason, str]:
    began = time.monotonic()
    provider.program(wanted)
    while (found := provider.observe(UID).problem) is None:
        assert time.monotonic() - began < WAIT
        await asyncio.sleep(0.02)
    assert not provider.observe(UID).settled
    return found.reason, found.message


async def test_a_route_that_is_missing_is_told_and_noticed_when_it_comes(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    wanted = make_traffic(cluster.namespace, Share(5_000))
    reason, message = await problem_of(provider, wanted)
    assert reason is Reason.ROUTE_MISSING
    assert "does not exist" in message
    await cluster.put_route(read_route())
    await wait_for_weights(cluster, (995_000, 5_000))


async def test_a_route_that_vanishes_in_a_step_takes_the_users_off_the_canary(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    wanted = make_traffic(cluster.namespace, Share(5_000))
    await cluster.put_route(read_route())
    await settle(provider, wanted)
    await cluster.delete_route()
    await problem_of(provider, wanted)
    assert await cluster.selected("canary") == A


async def test_a_service_of_somebody_else_is_never_taken(
    cluster: RouteCluster, provider: HTTPRouteTraffic
) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "chat-canary", "namespace": cluster.namespace},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    }
    await cluster.client.create(SERVICE, theirs)
    await cluster.put_route(read_route())
    reason, message = await problem_of(provider, make_traffic(cluster.namespace, Share(5_000)))
    assert reason is Reason.SERVICE_TAKEN
    assert "chat-canary" in message
    found = await cluster.client.get(SERVICE, cluster.namespace, "chat-canary")
    assert found["spec"]["selector"] == {"app": "theirs"}
    assert await cluster.weights() == (WHOLE, 0)


async def test_a_cluster_without_the_gateway_api_is_told(tmp_path: Path) -> None:
    with start_apiserver(tmp_path) as server:
        async with KubeClient(await connect(server.kubeconfig)) as client:
            with pytest.raises(UnusableRoute) as refused:
                await KubeRoutes(client, client).read_route("default", "chat")
    assert refused.value.problem.reason is Reason.ROUTE_API_MISSING
    assert "Gateway API" in refused.value.problem.message


async def test_pointing_a_service_twice_writes_once(cluster: RouteCluster) -> None:
    store = KubeRoutes(cluster.client, cluster.client)
    owner = Owner(cluster.namespace, "chat", UID)
    assert await store.point_service(owner, "stable", A)
    assert not await store.point_service(owner, "stable", A)
    assert await store.point_service(owner, "stable", B)
    assert await cluster.selected("stable") == B
