"""What the tap costs the engine that it sits in, measured beside the same engine without it.

    python -m bench.tap_cost [--rounds 30] [--seconds 2]
    python -m bench.tap_cost --tapped-port 8001 --bare-port 8002 --name tap_cost_vllm

Two workers, one with the tap and one without, are loaded in turn, in slices of a few seconds, in
the order AB BA AB ..., so that whatever else the machine does meets both alike. Each pair of slices
gives one ratio; the result is their mean with a 95 % interval (bootstrap over the pairs). Two costs
are told, because on a shared machine the second is far less noisy:

* requests/s under a closed loop of users that never pause;
* processor time for each request: of the API server process, in which the tap runs, of the whole
  engine, and of the launcher, which listens.

Without ports it starts the fake engine twice, which is the hard case: its answers cost a tenth of
vLLM's. With ports it measures workers that already run (the real vLLM; start two launchers whose
launcher.json differ in `tap`, the ports and nothing else); they must run on this machine, because
the processor time is read from /proc. Raw slices in ``bench/results/<name>.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.results_file import keep, summarise
from e2e.models.tiny_model import RECIPES, make_model
from tests.worker_image.programs import HOST, Worker

END_OF_CHUNKS = b"0\r\n\r\n"
PROBES = {"intervalSeconds": 600, "failures": 3, "timeoutSeconds": 60, "busyIntervalSeconds": 600}


@dataclass(frozen=True)
class Slice:
    """One engine under load for a few seconds. Latencies in milliseconds."""

    tapped: bool
    requests: int
    seconds: float
    cpu: Cpu
    ttft: dict[str, float]
    latency: dict[str, float]

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


@dataclass(frozen=True)
class Cpu:
    """Seconds: of the process that serves HTTP, of the engine with all its processes, of the
    launcher, which takes the datagrams in."""

    api: float
    engine: float
    launcher: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.api - other.api, self.engine - other.engine, self.launcher - other.launcher)


class Engine:
    """A running engine and the processes it consists of."""

    def __init__(self, port: int, *, tapped: bool) -> None:
        self.port = port
        self.tapped = tapped
        self.api_pid = _find_server(port)

    def cpu_seconds(self) -> Cpu:
        session = _fields(self.api_pid)[3]
        launcher = int(_fields(self.api_pid)[1])
        everyone = 0.0
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if _fields(int(entry.name))[3] == session:
                        everyone += _cpu_of(int(entry.name))
                except OSError:
                    continue  # it ended in this moment
        return Cpu(_cpu_of(self.api_pid), everyone, _cpu_of(launcher))


def _fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on: [1] is the parent, [3] the session."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def _cpu_of(pid: int) -> float:
    """Seconds on a processor, of all threads; to the nanosecond, where /proc/PID/stat has 10 ms."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text(encoding="utf-8").split()[0]) for task in tasks) / 1e9


def _find_server(port: int) -> int:
    """The process that was started with `--port PORT`: the leader of its session."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        pairs = itertools.pairwise(command)
        if (b"--port", str(port).encode()) in pairs and _fields(int(entry.name))[3] == entry.name:
            return int(entry.name)
    raise SystemExit(f"no engine of this machine was started with --port {port}")


class Load:
    """Users that stream one completion after the other."""

    def __init__(self, port: int, users: int, tokens: int) -> None:
        body = json.dumps(
            {
                "model": "chat",
                "prompt": "hello",
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
        )
        self._request = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self._port = port
        self._users = users
        self._over = False
        self.ttft: list[float] = []
        self.latency: list[float] = []

    async def run(self, seconds: float) -> float:
        """Load for about so long; the seconds it took until the last answer."""
        self._over = False
        self.ttft.clear()
        self.latency.clear()
        asyncio.get_running_loop().call_later(seconds, self._stop)
        began = time.perf_counter()
        await asyncio.gather(*(self._one_user() for _ in range(self._users)))
        return time.perf_counter() - began

    def _stop(self) -> None:
        self._over = True

    async def _one_user(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._port)
        while not self._over:
            began = time.perf_counter()
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            received = await reader.read(65536)
            first = time.perf_counter()
            while not received.endswith(END_OF_CHUNKS):
                part = await reader.read(65536)
                assert part, "the engine cut an answer"
                received = received[-8:] + part
            self.ttft.append((first - began) * 1e3)
            self.latency.append((time.perf_counter() - began) * 1e3)
        writer.close()
        await writer.wait_closed()


async def measure_slice(engine: Engine, load: Load, seconds: float) -> Slice:
    before = engine.cpu_seconds()
    took = await load.run(seconds)
    after = engine.cpu_seconds()
    return Slice(
        tapped=engine.tapped,
        requests=len(load.latency),
        seconds=took,
        cpu=after - before,
        ttft=summarise(load.ttft),
        latency=summarise(load.latency),
    )


async def measure(
    tapped: Engine, bare: Engine, *, rounds: int, seconds: float, users: int, tokens: int
) -> list[Slice]:
    """2 * rounds slices; the order within a round turns each time."""
    loads = {engine.port: Load(engine.port, users, tokens) for engine in (tapped, bare)}
    for engine in (tapped, bare):
        await loads[engine.port].run(seconds)  # connections are open, code is warm
    slices = []
    for number in range(rounds):
        for engine in (tapped, bare) if number % 2 else (bare, tapped):
            slices.append(await measure_slice(engine, loads[engine.port], seconds))
        with_tap, without = sorted(slices[-2:], key=lambda one: not one.tapped)
        print(
            f"round {number + 1} of {rounds}: {without.rate:.0f}/s without, "
            f"{with_tap.rate:.0f}/s with the tap",
            flush=True,
        )
    return slices


def compare(slices: Sequence[Slice]) -> dict[str, Any]:
    """Tapped divided by bare, paired by round."""
    pairs = [
        tuple(sorted(slices[place : place + 2], key=lambda one: not one.tapped))
        for place in range(0, len(slices), 2)
    ]

    def ratios(of: Any) -> dict[str, float]:
        return _interval([of(tapped) / of(bare) for tapped, bare in pairs])

    def per_request(of: Any) -> dict[str, float]:
        """Microseconds of processor time: added by the tap, and without it."""
        added = [(of(t) / t.requests - of(b) / b.requests) * 1e6 for t, b in pairs]
        without = statistics.mean(of(b) / b.requests * 1e6 for _, b in pairs)
        return {"without": round(without, 1), **_interval(added)}

    return {
        "requests_per_second_ratio": ratios(lambda one: one.rate),
        "api_server_cpu_per_request_ratio": ratios(lambda one: one.cpu.api / one.requests),
        "engine_cpu_per_request_ratio": ratios(lambda one: one.cpu.engine / one.requests),
        "median_ttft_ratio": ratios(lambda one: one.ttft["median"]),
        "median_latency_ratio": ratios(lambda one: one.latency["median"]),
        "p99_latency_ratio": ratios(lambda one: one.latency["p99"]),
        "api_server_cpu_added_microseconds_per_request": per_request(lambda one: one.cpu.api),
        "engine_cpu_added_microseconds_per_request": per_request(lambda one: one.cpu.engine),
        "launcher_cpu_added_microseconds_per_request": per_request(lambda one: one.cpu.launcher),
        "requests": sum(one.requests for one in slices),
        "requests_per_second_without": round(statistics.mean(b.rate for _, b in pairs), 1),
    }


def _interval(values: Sequence[float]) -> dict[str, float]:
    """The mean and its 95 % interval by bootstrap."""
    draw = random.Random(1)
    means = sorted(statistics.mean(draw.choices(values, k=len(values))) for _ in range(2000))
    return {
        "mean": round(statistics.mean(values), 4),
        "low": round(means[50], 4),
        "high": round(means[-51], 4),
    }


async def measure_fake(rounds: int, seconds: float, users: int, tokens: int) -> list[Slice]:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "v1"
        make_model(RECIPES["v1"], model, {})
        fast = {"FAKE_ENGINE_TTFT_MS": "0", "FAKE_ENGINE_TPOT_MS": "0"}
        workers = [
            Worker(
                model,
                Path(folder) / name,
                settings={"tap": tapped, "idleProbe": PROBES},
                environment=fast,
            )
            for name, tapped in (("tapped", True), ("bare", False))
        ]
        try:
            engines = [
                Engine(worker.until_ready().engine_port, tapped=not place)
                for place, worker in enumerate(workers)
            ]
            return await measure(
                *engines, rounds=rounds, seconds=seconds, users=users, tokens=tokens
            )
        finally:
            for worker in workers:
                worker.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="pairs of slices")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each slice")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--tapped-port", type=int, help="of a running engine with the tap")
    parser.add_argument("--bare-port", type=int, help="of a running engine without it")
    parser.add_argument("--name", default="tap_cost", help="of the file in bench/results")
    chosen = parser.parse_args()
    if (chosen.tapped_port is None) != (chosen.bare_port is None):
        parser.error("--tapped-port and --bare-port go together")
    shape: dict[str, Any] = {
        "rounds": chosen.rounds,
        "seconds": chosen.seconds,
        "users": chosen.users,
        "tokens": chosen.tokens,
    }
    if chosen.tapped_port is None:
        slices = asyncio.run(measure_fake(**shape))
    else:
        tapped = Engine(chosen.tapped_port, tapped=True)
        slices = asyncio.run(measure(tapped, Engine(chosen.bare_port, tapped=False), **shape))
    engine = "fake engine" if chosen.tapped_port is None else "running workers"
    compared = compare(slices)
    print(json.dumps(compared, indent=1))
    print(keep(chosen.name, {"engine": engine, **shape, **compared, "raw": [*map(asdict, slices)]}))


if __name__ == "__main__":
    main()
