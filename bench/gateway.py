"""What the gateway costs and how fast it obeys, measured on a real Envoy on loopback.

    python -m bench.gateway [--runs 100] [--seconds 10]

Three measurements, raw results in ``bench/results/gateway.json``:

* latency: one request after the other, in turn direct to a worker and through the gateway, so that
  whatever else the machine does meets both alike;
* throughput: requests/s through one gateway thread (``--concurrency 1``), and the processor time
  that Envoy took for each: their quotient is what one full core would carry, which this program
  (client and worker are Python) cannot reach by itself;
* obedience: from ``program`` with share 0 to the last request that reached the canary, and to the
  acknowledgement of the gateway, under load, with a canary at 50 %.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from bench.results_file import keep, summarise
from tests.traffic.control import UID, at_rest, canary, make_traffic, stable, start_control
from tests.traffic.proxy import Proxy, start_proxy
from tests.traffic.users import PATH, steady_users
from tests.traffic.workers import start_worker

# A small worker in raw asyncio: aiohttp's own time would hide the gateway's.
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class SmallWorker(asyncio.Protocol):
    """Answers each request without a body at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *requests, self._rest = (self._rest + data).split(b"\r\n\r\n")
        if requests:
            self._transport.write(ANSWER * len(requests))


def cpu_seconds(proxy: Proxy) -> float:
    assert proxy.process is not None
    fields = Path(f"/proc/{proxy.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure_latency(direct: str, through: str, count: int) -> dict[str, Any]:
    """Milliseconds of ``count`` requests each way, in turn."""
    raw: dict[str, list[float]] = {"direct": [], "through": []}
    async with aiohttp.ClientSession() as session:

        async def once(name: str, url: str) -> None:
            start = time.perf_counter()
            async with session.get(url) as answer:
                await answer.read()
                assert answer.status == 200
            raw[name].append((time.perf_counter() - start) * 1e3)

        for number in range(count + 100):
            await once("direct", direct)
            await once("through", through)
            if number == 99:  # connections are open, code is warm
                raw["direct"].clear()
                raw["through"].clear()
    return {
        "direct_ms": summarise(raw["direct"]),
        "through_ms": summarise(raw["through"]),
        "added_ms": {
            key: summarise(raw["through"])[key] - summarise(raw["direct"])[key]
            for key in ("median", "p99")
        },
        "raw_ms": {name: [round(ms, 4) for ms in values] for name, values in raw.items()},
    }


async def measure_throughput(proxy: Proxy, seconds: float, users: int = 64) -> dict[str, Any]:
    """Requests/s of ``users`` connections that never pause."""
    port = proxy.bootstrap.listen_port
    request = f"GET {PATH} HTTP/1.1\r\nhost: bench\r\n\r\n".encode()
    done = 0
    over = False

    async def one_user() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not over:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            await reader.readexactly(2)
            done += 1
        writer.close()
        await writer.wait_closed()

    tasks = [asyncio.create_task(one_user()) for _ in range(users)]
    await asyncio.sleep(1)
    begun, cpu, start = done, cpu_seconds(proxy), time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - start
    count, used = done - begun, cpu_seconds(proxy) - cpu
    over = True
    await asyncio.gather(*tasks)
    return {
        "requests": count,
        "seconds": took,
        "requests_per_second": count / took,
        "envoy_cores_used": used / took,
        "cpu_microseconds_per_request": used / count * 1e6,
        "requests_per_second_and_core": count / used,
    }


async def measure_obedience(folder: Path, runs: int) -> dict[str, Any]:
    """Milliseconds from ``program`` with share 0."""
    last_request: list[float] = []
    acknowledged: list[float] = []
    canary_requests: list[int] = []
    async with start_worker("v1") as v1, start_worker("v2") as v2:
        up = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="50%"))
        down = at_rest(up)
        clock = asyncio.get_running_loop().time
        async with start_control(up) as control, start_proxy(folder, control.port) as proxy:
            await proxy.wait_ready()
            await control.settle()
            async with steady_users(proxy.url, users=16, pause=0.01) as users:
                for _ in range(runs):
                    await control.settle_on(up)
                    await asyncio.sleep(0.2)
                    v2.live_at.clear()
                    await asyncio.sleep(0.05)
                    start = clock()
                    control.program(down)
                    while not control.traffic.observe(UID).settled:  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
                    acknowledged.append((clock() - start) * 1e3)
                    await asyncio.sleep(0.4)
                    canary_requests.append(len(v2.live_at))
                    last_request.append((max(v2.live_at, default=start) - start) * 1e3)
            assert users.statuses().keys() == {200}, users.statuses()
    return {
        "last_canary_request_ms": summarise([max(0.0, ms) for ms in last_request]),
        "acknowledged_ms": summarise(acknowledged),
        "runs": runs,
        "raw_last_canary_request_ms": [round(ms, 4) for ms in last_request],
        "raw_acknowledged_ms": [round(ms, 4) for ms in acknowledged],
        "raw_canary_requests": canary_requests,
    }


async def measure(runs: int, seconds: float, requests: int) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    server = await asyncio.get_running_loop().create_server(SmallWorker, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        async with start_worker("v1") as named:
            named.port = port
            wanted = make_traffic(stable(named.endpoint))
            async with (
                start_control(wanted) as control,
                start_proxy(folder, control.port, name="gateway-0") as proxy,
            ):
                await proxy.wait_ready()
                await control.settle()
                direct = f"http://127.0.0.1:{port}{PATH}"
                latency = await measure_latency(direct, proxy.url + PATH, requests)
                throughput = await measure_throughput(proxy, seconds)
        server.close()
        second = folder / "obedience"
        second.mkdir()
        obedience = await measure_obedience(second, runs)
    return {
        "load_before": load_before,
        "latency": latency,
        "throughput": throughput,
        "obedience": obedience,
    }


def show(result: dict[str, Any]) -> None:
    table = Table(title="Gateway")
    for heading in ("what", "median", "p95", "p99", "max"):
        table.add_column(heading)
    for name, values in (
        ("direct, ms", result["latency"]["direct_ms"]),
        ("through the gateway, ms", result["latency"]["through_ms"]),
        ("share 0 to last canary request, ms", result["obedience"]["last_canary_request_ms"]),
        ("share 0 to acknowledged, ms", result["obedience"]["acknowledged_ms"]),
    ):
        table.add_row(name, *(f"{values[key]:.2f}" for key in ("median", "p95", "p99", "max")))
    console = Console()
    console.print(table)
    throughput = result["throughput"]
    console.print(
        f"{throughput['requests_per_second']:.0f} requests/s with "
        f"{throughput['envoy_cores_used']:.2f} cores of Envoy: "
        f"{throughput['requests_per_second_and_core']:.0f} requests/s per core"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the gateway on this machine.")
    parser.add_argument("--runs", type=int, default=100, help="rollbacks")
    parser.add_argument("--seconds", type=float, default=10, help="of full throughput")
    parser.add_argument("--requests", type=int, default=3000, help="for the latency, each way")
    args = parser.parse_args()
    result = asyncio.run(measure(args.runs, args.seconds, args.requests))
    file = keep("gateway", result)
    show(result)
    Console().print(f"raw results: {file}")


if __name__ == "__main__":
    main()
