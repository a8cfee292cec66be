"""Loads one engine with the tap and without it in turn, and reads what each took.

It gives raw numbers only (requests, latencies, processor time from /proc); bench.tap_cost, which
calls it, says what they mean. It starts and ends no engine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

from bench.results_file import summarise
from bench.tap_switch import OFF, SWITCH
from tests.worker_image.programs import HOST
from worker_image.launcher.tap.llmrollouts_tap.outlet import GATHER_SECONDS

END_OF_CHUNKS = b"0\r\n\r\n"


@dataclass(frozen=True)
class Shape:
    """How much is measured, and of what."""

    rounds: int
    seconds: float
    users: int
    tokens: int
    singles: int


@dataclass(frozen=True)
class Slice:
    """A few seconds under load. Latencies in milliseconds."""

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

    def __init__(self, port: int) -> None:
        self.port = port
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
    """Users that stream one completion after the other, with the tap or without it."""

    def __init__(self, port: int, users: int, tokens: int, *, tapped: bool) -> None:
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
            f"{SWITCH}: {'on' if tapped else OFF}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
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


def _make_loads(engine: Engine, users: int, tokens: int) -> dict[bool, Load]:
    return {tapped: Load(engine.port, users, tokens, tapped=tapped) for tapped in (True, False)}


async def measure_load(engine: Engine, shape: Shape) -> list[Slice]:
    """2 * rounds slices; the order within a round turns each time."""
    loads = _make_loads(engine, shape.users, shape.tokens)
    for load in loads.values():
        await load.run(shape.seconds)  # connections are open, code is warm
    slices: list[Slice] = []
    for number in range(shape.rounds):
        for tapped in (True, False) if number % 2 else (False, True):
            slices.append(await _measure_slice(engine, loads[tapped], shape.seconds, tapped=tapped))
        with_tap, without = sorted(slices[-2:], key=lambda one: not one.tapped)
        print(
            f"round {number + 1} of {shape.rounds}: {without.rate:.0f}/s without, "
            f"{with_tap.rate:.0f}/s with the tap",
            flush=True,
        )
    return slices


async def _measure_slice(engine: Engine, load: Load, seconds: float, *, tapped: bool) -> Slice:
    before = engine.cpu_seconds()
    took = await load.run(seconds)
    after = engine.cpu_seconds()
    return Slice(
        tapped=tapped,
        requests=len(load.latency),
        seconds=took,
        cpu=after - before,
        ttft=summarise(load.ttft),
        latency=summarise(load.latency),
    )


async def measure_singles(engine: Engine, count: int, tokens: int) -> dict[str, list[Cpu]]:
    """Processor seconds of single requests, in turn."""
    loads = _make_loads(engine, 1, tokens)
    spent: dict[str, list[Cpu]] = {"tapped": [], "bare": []}
    for number in range(count):
        for tapped in (True, False) if number % 2 else (False, True):
            before = engine.cpu_seconds()
            await loads[tapped].run(0)
            await asyncio.sleep(GATHER_SECONDS * 2)  # what the tap keeps back is sent by then
            spent["tapped" if tapped else "bare"].append(engine.cpu_seconds() - before)
    return spent
