"""What the operator costs while nothing happens: processor, memory, requests; and how it starts.

    nice -n 5 python -m bench.idle [--counts 1 100 1000] [--seconds 120]

One world (bench/local_world.py: real API server, operator, two Envoys; pods by a stand-in) grows
from count to count. At each: all deployments serve and no round has run for a while; then nothing
is touched for ``--seconds``. Afterwards the operator and both Envoys are started anew, and the
time until every route is in every Envoy is taken. Requests are counted twice, by the operator's
own metric and by the API server's audit log. Results: bench/results/idle.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.local_world import (
    World,
    create_deployments,
    load_average,
    read_all,
    start_world,
    wait_phase,
)
from bench.operator_process import OperatorProcess, total
from bench.results_file import keep
from tests.traffic.proxy import Proxy

STRATEGY = {"steps": [{"canary": {"share": "0.5%", "duration": "30m"}}]}
PROMISE = {"cores": 0.01, "MiB": 180.0, "requests_per_second": 2.0}
_QUIET = 12.0


async def measure_idle(world: World, operator: OperatorProcess, seconds: float) -> dict[str, Any]:
    """Leave everything alone for ``seconds`` and say what the operator used of the machine."""
    metrics, audited = await operator.metrics(), world.audited()
    restarts = operator.restarts
    load, cpu, began = load_average(), operator.cpu_seconds(), time.monotonic()
    await asyncio.sleep(seconds)
    cores = (operator.cpu_seconds() - cpu) / (time.monotonic() - began)
    memory = operator.memory()
    metrics_after, audited_after = await operator.metrics(), world.audited()
    requests = count_between(metrics, metrics_after, "llmrollouts_api_requests_total")
    seen = audited_after - audited
    watches = sum(count for name, count in seen.items() if name.startswith("watch "))
    return {
        "seconds": seconds,
        "cores": round(cores, 5),
        "resident_MiB": round(memory["resident"], 1),
        "peak_MiB": round(memory["peak"], 1),
        "requests_per_second": round(seen.total() / seconds, 3),
        "requests_by_the_audit_log": dict(seen),
        "requests_by_the_operator": round(requests) + watches,
        "status_writes": count_statuses(metrics, metrics_after),
        "restarts": operator.restarts - restarts,
        "rounds": round(count_between(metrics, metrics_after, "llmrollouts_rounds_total")),
        "load_average": [load, load_average()],
    }


def count_between(before: Mapping[str, float], after: Mapping[str, float], name: str) -> float:
    return total(dict(after), name) - total(dict(before), name)


def count_statuses(before: Mapping[str, float], after: Mapping[str, float]) -> int:
    name, part = "llmrollouts_api_requests_total", "verb=replace_status"
    return round(total(dict(after), name, part) - total(dict(before), name, part))


async def measure_start(world: World, count: int) -> dict[str, Any]:
    """A fresh operator and fresh Envoys: seconds until ready, leading, and all routes are there."""
    began, load = time.monotonic(), load_average()
    async with world.operator(f"operator-start-{count}") as operator:
        async with world.proxies(operator) as proxies:
            await operator.wait_ready()
            ready = time.monotonic() - began
            routed = await wait_routes(proxies, count, 300) - began
            cpu_routed = operator.cpu_seconds()
            await operator.settle(_QUIET, 600)
            settled = time.monotonic() - began - _QUIET
            metrics = await operator.metrics()
        return {
            "restarts": operator.restarts,
            "ready_seconds": round(ready, 2),
            "all_routes_in_all_proxies_seconds": round(routed, 2),
            "cpu_seconds_until_then": round(cpu_routed, 2),
            "settled_seconds": round(settled, 1),
            "cpu_seconds_until_settled": round(operator.cpu_seconds(), 2),
            "requests_until_settled": round(total(metrics, "llmrollouts_api_requests_total")),
            "status_writes_until_settled": count_statuses({}, metrics),
            "memory_MiB": {k: round(v, 1) for k, v in operator.memory().items()},
            "load_average": load,
        }


async def wait_routes(proxies: Sequence[Proxy], count: int, within: float) -> float:
    """The moment at which each proxy has routes to ``count`` deployments."""
    async with asyncio.timeout(within):
        while True:
            if all([len(await routed_deployments(proxy)) >= count for proxy in proxies]):
                return time.monotonic()
            await asyncio.sleep(0.25)


async def routed_deployments(proxy: Proxy) -> set[str]:
    """The uids of the deployments whose clusters this proxy's routes name."""
    with contextlib.suppress(OSError):
        _, text = await proxy.admin("/config_dump?resource=dynamic_route_configs")
        return set(find_uids(json.loads(text)))
    return set()


def find_uids(dump: Any) -> list[str]:
    """Of every cluster named ``live/<uid>/<revision>`` anywhere in a dump."""
    if isinstance(dump, dict):
        return [uid for value in dump.values() for uid in find_uids(value)]
    if isinstance(dump, list):
        return [uid for value in dump for uid in find_uids(value)]
    if isinstance(dump, str) and dump.startswith("live/") and dump.count("/") == 2:
        return [dump.split("/")[1]]
    return []


async def settle_at(world: World, operator: OperatorProcess, had: int, count: int) -> float:
    """Grow from ``had`` deployments to ``count``; seconds until the last one serves."""
    began = time.monotonic()
    await create_deployments(world.api, range(had, count), STRATEGY)
    await wait_phase(world.api, "Serving", count, 120 + count)
    took = time.monotonic() - began
    await operator.settle(_QUIET, 120 + count)
    return took


async def measure(counts: Sequence[int], seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    async with start_world(serve=False) as world:
        had = 0
        for count in counts:
            async with world.operator(f"operator-{count}") as operator:
                await operator.wait_ready()
                async with world.proxies(operator) as proxies:
                    serving = await settle_at(world, operator, had, count)
                    await wait_routes(proxies, count, 60)
                    idle = await measure_idle(world, operator, seconds)
            start = await measure_start(world, count)
            phases = Counter(i["status"]["phase"] for i in await read_all(world.api))
            results[str(count)] = {
                "deployments_made": count - had,
                "seconds_until_all_served": round(serving, 1),
                "idle": idle,
                "start": start,
                "phases": dict(phases),
            }
            print(count, json.dumps(results[str(count)], indent=1), flush=True)
            had = count
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--name", default="idle", help="of the file in bench/results")
    chosen = parser.parse_args()
    results = asyncio.run(measure(sorted(chosen.counts), chosen.seconds))
    print(keep(chosen.name, {"promise_at_1000": PROMISE, "counts": results}))


if __name__ == "__main__":
    main()
