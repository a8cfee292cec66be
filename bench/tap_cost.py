"""What the tap costs the engine that it sits in, measured beside the same engine without it.

    python -m bench.tap_cost [--rounds 30] [--seconds 2] [--singles 300]
    python -m bench.tap_cost --tapped-port 8001 --bare-port 8002 --name tap_cost_vllm

Three measurements, from the most direct to the least noisy; raw results in
``bench/results/<name>.json``:

* *under load*: two workers, one with the tap and one without, are loaded by users that never pause,
  in turn, in slices of a few seconds, in the order AB BA AB ..., so that whatever else the machine
  does meets both alike. Each pair of slices gives one ratio;
* *one at a time*: single requests in turn to both, and the processor time that each took of the API
  server process (in which the tap runs), of the whole engine, and of the launcher (which listens).
  On a shared machine this says more, because waiting for a processor takes no processor time;
* *alone*: the tap around a program that does nothing else, on one core: microseconds of processor
  time for each request and for each token. Divided by what the engine's API server takes for the
  same answer this is its share, free of the noise of the other two.

Ratios are medians with a 95 % interval (bootstrap). Without ports it starts the fake engine twice,
which is the hard case: its answers cost a third of vLLM's. With ports it measures workers that
already run (the real vLLM; start two launchers whose launcher.json differ in `tap`, the ports and
nothing else, both with long `idleProbe` intervals); they must run on this machine, because the
processor time is read from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from bench.results_file import keep, summarise
from e2e.models.tiny_model import RECIPES, make_model
from tests.worker_image.programs import HOST, Worker
from worker_image.launcher.tap.llmrollouts_tap import Tap
from worker_image.launcher.tap.llmrollouts_tap.outlet import GATHER_SECONDS
from worker_image.launcher.tap.llmrollouts_tap.wire import (
    ADDRESS_VARIABLE,
    TOKEN_VARIABLE,
    socket_address,
)

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
        # At least one request of each user, however short the time is.
        began = time.perf_counter()
        await asyncio.gather(*(self._one_user() for _ in range(self._users)))
        return time.perf_counter() - began

    def _stop(self) -> None:
        self._over = True

    async def _one_user(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._port)
        while True:
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
            if self._over:
                break
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


async def measure(tapped: Engine, bare: Engine, shape: Shape) -> list[Slice]:
    """2 * rounds slices; the order within a round turns each time."""
    loads = {engine.port: Load(engine.port, shape.users, shape.tokens) for engine in (tapped, bare)}
    rounds, seconds = shape.rounds, shape.seconds
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


async def measure_singles(
    tapped: Engine, bare: Engine, count: int, tokens: int
) -> dict[str, list[Cpu]]:
    """Processor seconds of single requests, in turn."""
    loads = {engine.port: Load(engine.port, 1, tokens) for engine in (tapped, bare)}
    spent: dict[str, list[Cpu]] = {"tapped": [], "bare": []}
    for number in range(count):
        for engine in (tapped, bare) if number % 2 else (bare, tapped):
            before = engine.cpu_seconds()
            await loads[engine.port].run(0)
            await asyncio.sleep(GATHER_SECONDS * 2)  # what the tap keeps back is sent by then
            spent["tapped" if engine.tapped else "bare"].append(engine.cpu_seconds() - before)
    return spent


def compare_singles(spent: dict[str, list[Cpu]]) -> dict[str, Any]:
    pairs = list(zip(spent["tapped"], spent["bare"], strict=True))

    def of_each(part: Callable[[Cpu], float]) -> dict[str, Any]:
        return {
            "microseconds_without": round(statistics.median(part(b) for _, b in pairs) * 1e6, 1),
            "microseconds_added": _interval([(part(t) - part(b)) * 1e6 for t, b in pairs]),
        }

    return {
        "api_server": of_each(lambda cpu: cpu.api),
        "api_server_ratio": _interval([t.api / b.api for t, b in pairs]),
        "engine": of_each(lambda cpu: cpu.engine),
        "engine_ratio": _interval([t.engine / b.engine for t, b in pairs]),
        "launcher": of_each(lambda cpu: cpu.launcher),
        "requests": len(pairs),
    }


# -- the tap alone ---------------------------------------------------------------------------------

CHUNK = (
    b'data: {"id":"cmpl-b598222b032b27ed","object":"text_completion","created":1795396278,"model":'
    b'"chat","choices":[{"index":0,"text":" barley","logprobs":null,"finish_reason":null,'
    b'"stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null}]}\n\n'
)


async def _idle_program(scope: Any, receive: Any, send: Any) -> None:
    """Streams CHUNK as many times as the scope says, and does nothing else."""
    await receive()
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(scope["tokens"]):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def measure_alone(repeats: int = 15, requests: int = 200) -> dict[str, Any]:
    """Microseconds of processor time of one thread, sending the datagrams included."""
    address = f"@llmrollouts-bench-{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(socket_address(address))
    stopped = threading.Event()

    def listen() -> None:
        listener.settimeout(0.1)
        while not stopped.is_set():
            with contextlib.suppress(TimeoutError):
                listener.recv(65536)

    listening = threading.Thread(target=listen)
    listening.start()
    os.environ[ADDRESS_VARIABLE], os.environ[TOKEN_VARIABLE] = address, "00" * 16
    tap = Tap(_idle_program)
    scope = {
        "type": "http",
        "path": "/v1/completions",
        "method": "POST",
        "headers": [(b"host", b"x"), (b"accept", b"*/*"), (b"content-type", b"application/json")],
    }

    async def receive() -> dict[str, Any]:
        body = b'{"model": "chat", "prompt": "hello", "stream": true}'
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_message: Any) -> None:
        return

    async def once(program: Any, tokens: int) -> float:
        began = time.thread_time()
        for _ in range(requests):
            await program({**scope, "tokens": tokens}, receive, send)
        await asyncio.sleep(GATHER_SECONDS * 2)
        return (time.thread_time() - began) / requests * 1e6

    added: dict[int, list[float]] = {1: [], 257: []}
    for _ in range(repeats):
        for tokens, values in added.items():
            values.append(await once(tap, tokens) - await once(_idle_program, tokens))
    stopped.set()
    listening.join()
    listener.close()
    if tap.outlet is not None:
        tap.outlet.close()
    first, long = (statistics.median(values) for values in added.values())
    return {
        "microseconds_per_request": round(first, 2),
        "microseconds_per_further_token": round((long - first) / 256, 3),
        "raw_microseconds": {str(n): [round(x, 2) for x in v] for n, v in added.items()},
    }


# -- the results -----------------------------------------------------------------------------------


def compare(slices: Sequence[Slice]) -> dict[str, Any]:
    """Tapped divided by bare, paired by round."""
    pairs = [
        tuple(sorted(slices[place : place + 2], key=lambda one: not one.tapped))
        for place in range(0, len(slices), 2)
    ]

    def ratios(of: Any) -> dict[str, float]:
        return _interval([of(tapped) / of(bare) for tapped, bare in pairs])

    return {
        "requests_per_second_ratio": ratios(lambda one: one.rate),
        "api_server_cpu_per_request_ratio": ratios(lambda one: one.cpu.api / one.requests),
        "engine_cpu_per_request_ratio": ratios(lambda one: one.cpu.engine / one.requests),
        "median_ttft_ratio": ratios(lambda one: one.ttft["median"]),
        "median_latency_ratio": ratios(lambda one: one.latency["median"]),
        "p99_latency_ratio": ratios(lambda one: one.latency["p99"]),
        "requests": sum(one.requests for one in slices),
        "requests_per_second_without": round(statistics.mean(b.rate for _, b in pairs), 1),
    }


def _interval(values: Sequence[float]) -> dict[str, float]:
    """The median and its 95 % interval by bootstrap."""
    draw = random.Random(1)
    found = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return {
        "median": round(statistics.median(values), 4),
        "low": round(found[50], 4),
        "high": round(found[-51], 4),
    }


def shares_of(
    alone: dict[str, Any], slices: Sequence[Slice], singles: dict[str, Any], tokens: int
) -> dict[str, float]:
    """The tap's own time for one answer, as a share of what the API server takes without it.

    Under load the server joins tokens into fewer events, so its own time is shorter; the tap's is
    counted as if none were joined.
    """
    own = alone["microseconds_per_request"] + alone["microseconds_per_further_token"] * (tokens - 1)
    bare = [one.cpu.api / one.requests * 1e6 for one in slices if not one.tapped]
    return {
        "share_of_the_api_servers_time_under_load": round(own / statistics.median(bare), 5),
        "share_one_at_a_time": round(own / singles["api_server"]["microseconds_without"], 5),
    }


@dataclass(frozen=True)
class Shape:
    """How much is measured, and of what."""

    rounds: int
    seconds: float
    users: int
    tokens: int
    singles: int


async def measure_both(tapped: Engine, bare: Engine, shape: Shape) -> dict[str, Any]:
    slices = await measure(tapped, bare, shape)
    singles = await measure_singles(tapped, bare, shape.singles, shape.tokens)
    alone = await measure_alone()
    compared = compare_singles(singles)
    return {
        "under_load": compare(slices),
        "one_at_a_time": compared,
        "alone": {**alone, **shares_of(alone, slices, compared, shape.tokens)},
        "raw_slices": [asdict(one) for one in slices],
        "raw_singles": {
            name: [[round(x * 1e6, 1) for x in astuple(cpu)] for cpu in spent]
            for name, spent in singles.items()
        },
    }


async def measure_fake(shape: Shape) -> dict[str, Any]:
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
            tapped, bare = (
                Engine(worker.until_ready().engine_port, tapped=not place)
                for place, worker in enumerate(workers)
            )
            return await measure_both(tapped, bare, shape)
        finally:
            for worker in workers:
                worker.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="pairs of slices")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each slice")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--singles", type=int, default=300, help="requests one at a time, each")
    parser.add_argument("--tapped-port", type=int, help="of a running engine with the tap")
    parser.add_argument("--bare-port", type=int, help="of a running engine without it")
    parser.add_argument("--name", default="tap_cost", help="of the file in bench/results")
    chosen = parser.parse_args()
    if (chosen.tapped_port is None) != (chosen.bare_port is None):
        parser.error("--tapped-port and --bare-port go together")
    shape = Shape(chosen.rounds, chosen.seconds, chosen.users, chosen.tokens, chosen.singles)
    if chosen.tapped_port is None:
        engine, results = "the fake engine", asyncio.run(measure_fake(shape))
    else:
        tapped = Engine(chosen.tapped_port, tapped=True)
        bare = Engine(chosen.bare_port, tapped=False)
        engine, results = "running workers", asyncio.run(measure_both(tapped, bare, shape))
    load = [round(one, 2) for one in os.getloadavg()]
    kept = {"engine": engine, **asdict(shape), "load_average": load, **results}
    print(json.dumps({k: v for k, v in kept.items() if not k.startswith("raw")}, indent=1))
    print(keep(chosen.name, kept))


if __name__ == "__main__":
    main()
