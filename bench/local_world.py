"""A small world of real parts on loopback: API server, operator, Envoys, and stand-ins for nodes.

What is real: etcd, kube-apiserver, the operator's process with its own service account, Envoy with
the project's start files and the certificates that the operator makes. What is not: kubelet,
scheduler, controller-manager and the engines (bench/stand_in.py). Nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.kube_api import Json, KubeApi, Refused, open_api
from bench.operator_process import NAMESPACE, OperatorProcess, start_operator
from bench.stand_in import StandIn, start_stand_in
from llmrollouts.api import labels
from llmrollouts.kube.certificates import GATEWAY_SECRET
from tests.apiserver import ApiServer, start_apiserver
from tests.traffic.proxy import Proxy, start_proxy

ACCOUNT = "llm-rollouts"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
GATEWAYS = ("gateway-0", "gateway-1")
# Deployments are spread over this many namespaces.
NAMESPACES = 10
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    # One line a request: a watch is told when it begins, everything else when it ends.
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "Metadata",
            "users": [USER],
            "verbs": ["watch"],
            "omitStages": ["ResponseComplete"],
        },
        {"level": "Metadata", "users": [USER], "omitStages": ["ResponseStarted"]},
        {"level": "None"},
    ],
}


@dataclass
class World:
    """The parts that last; operators and proxies come and go."""

    folder: Path
    server: ApiServer
    api: KubeApi
    stand_in: StandIn
    operator_config: Path
    audit_log: Path

    def operator(self, name: str) -> AbstractAsyncContextManager[OperatorProcess]:
        """A life of the operator; ``name`` is its pod's."""
        return start_operator(self.folder, self.operator_config, name)

    @contextlib.asynccontextmanager
    async def proxies(self, operator: OperatorProcess) -> AsyncIterator[Sequence[Proxy]]:
        """Two gateways, connected by mutual TLS with the Secret that the operator has made."""
        tls = self.folder / "tls"
        await self._write_gateway_secret(tls)
        home = Path(tempfile.mkdtemp(prefix="proxies-", dir=self.folder))
        async with contextlib.AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    start_proxy(
                        home,
                        operator.xds_port,
                        name=name,
                        server_name=f"llm-rollouts-xds.{NAMESPACE}.svc",
                        tls_folder=tls,
                    )
                )
                for name in GATEWAYS
            ]

    async def _write_gateway_secret(self, folder: Path) -> None:
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{GATEWAY_SECRET}"
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(Refused):
                    data = (await self.api.request("GET", path))["data"]
                    break
                await asyncio.sleep(0.1)
        write_secret(folder, data)

    def audited(self) -> Counter[str]:
        """Requests of the operator so far as the API server counts them, by verb and resource."""
        with self.audit_log.open(encoding="utf-8") as lines:
            entries = [json.loads(line) for line in lines]
        return Counter(
            f"{e['verb']} {(e.get('objectRef') or {}).get('resource', e['requestURI'])}"
            for e in entries
        )


def write_secret(folder: Path, data: Json) -> None:
    """As the kubelet mounts it: a file for each key."""
    folder.mkdir(exist_ok=True)
    for name, value in data.items():
        file = folder / name
        file.touch(mode=0o600)
        file.write_bytes(base64.b64decode(value))


def namespace_of(number: int) -> str:
    return f"bench-{number % NAMESPACES}"


def name_of(number: int) -> str:
    return f"chat-{number:04d}"


def path_of(number: int) -> str:
    """Of one LLMDeployment at the API server."""
    place = f"/apis/{labels.API_VERSION}/namespaces/{namespace_of(number)}"
    return f"{place}/{labels.PLURAL}/{name_of(number)}"


def make_deployment(number: int, model: str, strategy: Json) -> Json:
    return {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "metadata": {
            "namespace": namespace_of(number),
            "name": name_of(number),
            "annotations": {"example.com/team": "bench"},
        },
        "spec": {
            "replicas": 1,
            "revision": {
                "model": {"uri": f"file:///models/{model}", "servedName": "chat"},
                "engine": {"device": "CPU"},
            },
            "strategy": strategy,
            # Their workers are stand-ins without requests: there is nothing to compare.
            "gates": {"latency": {"mode": "Off"}},
        },
    }


async def create_deployments(api: KubeApi, numbers: Sequence[int], strategy: Json) -> None:
    """Twenty at once, as a pipeline would."""
    left = iter(numbers)

    async def create() -> None:
        for number in left:
            collection = path_of(number).rpartition("/")[0]
            await api.request("POST", collection, make_deployment(number, "v1", strategy))

    await asyncio.gather(*(create() for _ in range(20)))


async def read_all(api: KubeApi) -> list[Json]:
    found = await api.request("GET", f"/apis/{labels.API_VERSION}/{labels.PLURAL}")
    items: list[Json] = found["items"]
    return items


async def wait_phase(api: KubeApi, phase: str, count: int, within: float) -> list[Json]:
    """Wait until ``count`` deployments are in ``phase``; raises TimeoutError that says the rest."""
    found: list[Json] = []
    try:
        async with asyncio.timeout(within):
            while True:
                found = await read_all(api)
                if sum((i.get("status") or {}).get("phase") == phase for i in found) >= count:
                    return found
                await asyncio.sleep(1.0)
    except TimeoutError as error:
        phases = Counter(str((item.get("status") or {}).get("phase")) for item in found)
        raise TimeoutError(f"waited for {count} in phase {phase}, saw {dict(phases)}") from error


@contextlib.asynccontextmanager
async def start_world(*, serve: bool) -> AsyncIterator[World]:
    """serve: a model server at the address of each pod."""
    with tempfile.TemporaryDirectory(prefix="llmr-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        policy, audit_log = folder / "audit.yaml", folder / "audit.log"
        policy.write_text(yaml.safe_dump(_AUDIT), encoding="utf-8")
        arguments = (f"--audit-policy-file={policy}", f"--audit-log-path={audit_log}")
        with start_apiserver(folder / "kube", arguments) as server:
            server.install_crd()
            async with open_api(server) as api, start_stand_in(api, serve) as stand_in:
                config = await _prepare(api, server, folder)
                yield World(folder, server, api, stand_in, config, audit_log)


async def _prepare(api: KubeApi, server: ApiServer, folder: Path) -> Path:
    """Namespaces, the operator's account and the gateways' endpoints; the operator's kubeconfig."""
    for name in (NAMESPACE, *(f"bench-{number}" for number in range(NAMESPACES))):
        await api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    await api.request("POST", accounts, {"metadata": {"name": ACCOUNT}})
    await api.request(
        "POST",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        {
            "metadata": {"name": ACCOUNT},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        },
    )
    token = await api.request(
        "POST", f"{accounts}/{ACCOUNT}/token", {"spec": {"expirationSeconds": 14400}}
    )
    await _announce_gateways(api)
    config = yaml.safe_load(server.kubeconfig.read_text(encoding="utf-8"))
    config["users"][0]["user"] = {"token": token["status"]["token"]}
    file = folder / "operator.kubeconfig"
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


async def _announce_gateways(api: KubeApi) -> None:
    service = "llm-rollouts-gateway"
    await api.request(
        "POST",
        f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices",
        {
            "metadata": {
                "name": f"{service}-bench",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {
                    # Loopback is refused here; the operator reads only the pods' names.
                    "addresses": [f"192.0.2.{number}"],
                    "conditions": {"ready": True},
                    "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": name},
                }
                for number, name in enumerate(GATEWAYS, start=1)
            ],
        },
    )


def load_average() -> float:
    """Of the last minute: how busy everything on this machine is."""
    return round(os.getloadavg()[0], 2)
