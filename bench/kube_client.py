"""What a request to the API server costs this process: time, CPU, and a burst of 100.

    python -m bench.kube_client [--seconds 3] [--out bench/results/kube_client.md]

Starts etcd and a kube-apiserver on loopback (they share the machine's cores: the wall times are
upper bounds, the CPU times are this process's own). Compares the adapter with the official
client's own ways to make the same request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes.aio import client as official
from kubernetes.aio.dynamic import DynamicClient

from llmrollouts.kube.client import KubeClient
from llmrollouts.kube.connection import connect
from llmrollouts.kube.port import CONFIG_MAP, DEPLOYMENT, LLM_DEPLOYMENT
from tests.apiserver import ApiServer, start_apiserver
from tests.kube.objects import config_map, deployment, llm_deployment

Request = Callable[[], Awaitable[Any]]
BURST = 100
POOLS = (8, 16, 32, 64, 128)


async def measure(name: str, request: Request, seconds: float, parallel: int) -> str:
    """One row: requests/s, CPU per request and latency with ``parallel`` requests in flight."""
    await asyncio.gather(*(request() for _ in range(parallel)))  # connections, caches
    latencies: list[float] = []
    cpu, started = time.process_time(), time.perf_counter()

    async def repeat() -> None:
        while time.perf_counter() - started < seconds:
            sent = time.perf_counter()
            await request()
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(repeat() for _ in range(parallel)))
    wall, used = time.perf_counter() - started, time.process_time() - cpu
    cuts = statistics.quantiles(latencies, n=100)
    return (
        f"| {name} | {parallel} | {len(latencies) / wall:.0f} | "
        f"{1000 * used / len(latencies):.2f} | {1000 * cuts[49]:.1f} | {1000 * cuts[98]:.1f} |"
    )


async def measure_requests(server: ApiServer, seconds: float) -> list[str]:
    space = server.create_namespace("bench")
    rows = []
    connection = await connect(server.kubeconfig)
    async with KubeClient(connection) as kube:
        await kube.create(LLM_DEPLOYMENT, llm_deployment(space))
        await kube.create(CONFIG_MAP, config_map(space))
        workers = deployment(space)
        await kube.apply(DEPLOYMENT, workers)
        requests: dict[str, Request] = {
            "adapter: get": lambda: kube.get(LLM_DEPLOYMENT, space, "chat"),
            "adapter: list of 1": lambda: kube.list(DEPLOYMENT, space, {}),
            "adapter: apply, unchanged": lambda: kube.apply(DEPLOYMENT, workers),
        }
        for name, request in requests.items():
            for parallel in (1, 16):
                rows.append(await measure(name, request, seconds, parallel))
        rows.append(await measure("adapter: status write", _status(kube, space), seconds, 1))
    rows += await measure_official(server, space, seconds)
    return rows


def _status(kube: KubeClient, space: str, name: str = "chat") -> Request:
    counter = iter(range(10**9))
    held: dict[str, Any] = {}

    async def write() -> None:
        found = held.get("it") or await kube.get(LLM_DEPLOYMENT, space, name)
        found["status"] = {"epoch": 1, "message": f"round {next(counter)}"}
        held["it"] = await kube.replace_status(LLM_DEPLOYMENT, found)

    return write


async def measure_official(server: ApiServer, space: str, seconds: float) -> list[str]:
    rows = []
    async with official.ApiClient((await connect(server.kubeconfig)).configuration) as api:
        custom = official.CustomObjectsApi(api)
        group, version, plural = "llmrollouts.dev", "v1alpha1", "llmdeployments"

        async def by_custom_objects() -> Any:
            return await custom.get_namespaced_custom_object(group, version, space, plural, "chat")

        dynamic = await DynamicClient(api)
        resource = await dynamic.resources.get(
            api_version=f"{group}/{version}", kind="LLMDeployment"
        )

        async def by_dynamic() -> Any:
            return await dynamic.get(resource, name="chat", namespace=space)

        for name, request in (
            ("official CustomObjectsApi: get", by_custom_objects),
            ("official DynamicClient: get", by_dynamic),
        ):
            for parallel in (1, 16):
                rows.append(await measure(name, request, seconds, parallel))
    return rows


async def measure_burst(server: ApiServer) -> list[str]:
    """100 status writes at once, from a cold pool and from a warm one, by size of the pool."""
    space = server.create_namespace("burst")
    names = [f"chat-{number}" for number in range(BURST)]
    async with KubeClient(await connect(server.kubeconfig)) as kube:
        for name in names:
            manifest = llm_deployment(space)
            manifest["metadata"]["name"] = name
            await kube.create(LLM_DEPLOYMENT, manifest)
    rows = []
    for connections in POOLS:
        async with KubeClient(await connect(server.kubeconfig), connections=connections) as kube:
            writes = [_status(kube, space, name) for name in names]
            for label in ("cold", "warm", "warm again"):
                cpu, started = time.process_time(), time.perf_counter()
                await asyncio.gather(*(write() for write in writes))
                wall, used = time.perf_counter() - started, time.process_time() - cpu
                # The first round of each pool reads every object too.
                what = "read and write" if label == "cold" else "write"
                rows.append(
                    f"| {connections} | {label} | {what} | {1000 * wall:.0f} | {1000 * used:.0f} |"
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="per row")
    parser.add_argument("--out", type=Path, help="write the tables to this file too")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, start_apiserver(Path(folder)) as server:
        server.install_crd()
        requests = asyncio.run(measure_requests(server, arguments.seconds))
        bursts = asyncio.run(measure_burst(server))
    setting = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores shared with etcd, kube-apiserver "
        f"and other work (load {load:.1f} before). `python -m bench.kube_client`"
    )
    table = "\n".join(
        [
            "# Requests to the API server",
            "",
            setting,
            "",
            "| request | in flight | requests/s | CPU ms/request | p50 ms | p99 ms |",
            "|---|---|---|---|---|---|",
            *requests,
            "",
            f"## {BURST} status writes at once",
            "",
            "| connections | pool | each | wall ms | CPU ms |",
            "|---|---|---|---|---|",
            *bursts,
            "",
        ]
    )
    print(table)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
