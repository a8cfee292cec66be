"""From a fault of the canary to the verdict, in simulated time: the true measurement, its own loop.

Some stable workers and one canary worker with few requests of its own, as in ``bench/gate_faults``.
Nothing sleeps: the event loop is looptime's. The phases of all clocks, the requests, the way of
each page through the network and the moment of the fault are drawn from one seed. It decides
nothing; ``bench/gate_delay`` keeps what it finds.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from llmrollouts.analysis.policy import Policy
from llmrollouts.controller.assignment import Assignment
from llmrollouts.controller.evidence import EvidenceStore
from llmrollouts.controller.measure import Means, Measurement
from llmrollouts.metrics.page import PageError, parse_page
from llmrollouts.metrics.port import Candidate, Query, Reading, Worker
from llmrollouts.resources.children import Owner
from tests.controller.gate_world import CANARY, KEY, STABLE, START, UID, Gateways
from tests.fakes.kube import FakeKube
from tests.fakes.taps import FakeTap, Law
from worker_image.launcher.cohorts import Request

Fault = Literal["hang", "20 % errors", "empty answers", "twice as slow", "none"]
Nodes = Literal["one node", "many nodes"]

# As in bench/gate_faults: 80 requests/s, 5 % of them to the canary.
LAW = Law(ttft=0.085, sigma=0.15, token=0.008, tokens=32)
SLOW = replace(LAW, ttft=0.34, token=0.016)
RATE, CANARY_RATE = 76.0, 4.0
LEVEL = 0.005
LONGEST = 60.0  # seconds that a verdict is waited for
_REMEMBERED = 75  # seconds of requests that stable's workers remember at the start
_STEP = 0.05  # seconds of requests that are told to the taps at once
# A page's way in seconds, and how often it meets a busy machine.
_WAY, _BUSY, _HELD_UP = 0.002, 0.02, 0.05


@dataclass(frozen=True)
class Delay:
    """verdict: seconds from the fault to the verdict; None: there was none. looks: a second."""

    verdict: float | None
    looks: float


class StoppingTap(FakeTap):
    """Its engine may stop: what it had not said by then it never says."""

    stopped_at = math.inf

    def arrive(self, at: float, law: Law, rng: random.Random) -> None:
        self._cut(self.serve(at, law, rng))

    def stop(self, at: float) -> None:
        self.stopped_at = at
        now = math.floor(at - self.skew)
        for _, requests in self.sampler.cohorts.between(now - 60, now):
            for request in requests:
                self._cut(request)

    def _cut(self, request: Request) -> None:
        left = self.stopped_at - self.skew - request.arrived
        if request.end_age > left:
            request.end, request.end_age = 0, math.inf
        request.marks[:] = [age for age in request.marks if age <= left]


@dataclass
class Network:
    """Implements SampleReader: a page takes its time, and is stamped in the middle of it."""

    taps: dict[str, StoppingTap]
    rng: random.Random
    origin: float
    reads: dict[str, int] = field(default_factory=dict)

    def clock(self) -> float:
        return self.origin + asyncio.get_running_loop().time()

    async def read(self, worker: Worker, query: Query) -> Reading:
        began = self.clock()
        await asyncio.sleep(self._way())
        if worker.uid not in self.taps:
            raise PageError(f"{worker.name} is gone")
        body = self.taps[worker.uid].page(query)
        await asyncio.sleep(self._way())
        self.reads[worker.uid] = self.reads.get(worker.uid, 0) + 1
        page = parse_page(body, worker.name, query.measurement)
        return Reading(page, (began + self.clock()) / 2)

    async def close(self) -> None: ...

    def _way(self) -> float:
        held_up = _HELD_UP if self.rng.random() < _BUSY else 0.0
        return self.rng.expovariate(1 / (_WAY + held_up))


class Story:
    """One rollout, from what stable remembers to the verdict."""

    def __init__(self, seed: int, stable: int, nodes: Nodes, law: Law) -> None:
        self.rng = rng = random.Random(seed)
        self.stable_law = self.canary_law = law
        origin = START + rng.random()
        self.network = Network({}, random.Random(rng.random()), origin)
        self.clock = self.network.clock
        node = rng.random()
        self.taps = []
        for name in [*(f"s{number}" for number in range(stable)), "c0"]:
            phase = node if nodes == "one node" else rng.random()
            tap = StoppingTap(name, self.clock, skew=START - 50_000 - phase)
            self.network.taps[tap.worker.uid] = tap
            self.taps.append(tap)
        self.gateways = Gateways()
        self.found: float | None = None
        self.canary_requests = 0
        self.began = self.clock()
        kube = FakeKube(now=lambda: datetime.fromtimestamp(self.clock(), UTC))
        self.measurement = Measurement(
            self._assignment(),
            Means(self.network, self.gateways, self.clock),
            EvidenceStore(kube, kube, Owner(KEY.namespace, KEY.name, UID)),
            self._hear,
        )

    async def tell(self, fault: Fault) -> Delay:
        *stable, _ = self.taps
        past = self.began - _REMEMBERED
        while past < self.began:
            self._send(past, past + 1, stable)
            past += 1
        tasks = [asyncio.create_task(self.measurement.run()), asyncio.create_task(self._serve())]
        try:
            while self._compared() < 30:
                await asyncio.sleep(0.1)
            await asyncio.sleep(self.rng.uniform(0, 2))
            self._begin(fault)
            began = self.clock()
            while self.found is None and self.clock() < began + LONGEST:
                await asyncio.sleep(0.1)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        looks = self.network.reads["uid-c0"] / (self.clock() - self.began)
        return Delay(None if self.found is None else self.found - began, looks)

    def _begin(self, fault: Fault) -> None:
        match fault:
            case "hang":
                self.taps[-1].stop(self.clock())
            case "20 % errors":
                self.canary_law = replace(self.canary_law, failing=0.2, failing_at=0.002)
            case "empty answers":
                self.canary_law = replace(self.canary_law, failing=1.0, failing_at=0.08)
            case "twice as slow":
                self.canary_law = SLOW
            case "none":
                pass

    def _compared(self) -> int:
        (gate,) = self.measurement.gates()
        return gate.numbers.canary_requests if gate.numbers is not None else 0

    def _hear(self) -> None:
        """The nudge: now a round would begin."""
        (gate,) = self.measurement.gates()
        if gate.verdict == "Failed" and self.found is None:
            self.found = self.clock()

    async def _serve(self) -> None:
        since = self.began
        while True:
            now = self.clock()
            self._send(since, now, self.taps)
            since = now
            await asyncio.sleep(_STEP)

    def _send(self, since: float, until: float, taps: list[StoppingTap]) -> None:
        """The requests that arrived in between."""
        stable = len(self.taps) - 1
        for tap in taps:
            canary = tap is self.taps[-1]
            rate = CANARY_RATE if canary else RATE / stable
            law = self.canary_law if canary else self.stable_law
            at = since + self.rng.expovariate(rate)
            while at < until:
                tap.arrive(at, law, self.rng)
                self.gateways.count(CANARY if canary else STABLE, 1, 0)
                at += self.rng.expovariate(rate)

    def _assignment(self) -> Assignment:
        *stable, canary = (Candidate(tap.worker, ready=True, warm=True) for tap in self.taps)
        return Assignment(
            key=KEY,
            uid=UID,
            stage=f"{CANARY}/1/0-Canary-50000",
            level=LEVEL,
            judged=CANARY,
            reference=STABLE,
            canary=(canary,),
            control=tuple(stable),
            kind="Canary",
            ticks=1800,
            matches_load=False,
            observes=False,
            placebo=False,
            policy=Policy(),
            started_at=datetime.fromtimestamp(self.began, UTC),
        )


async def measure_delay(
    fault: Fault, seed: int, *, stable: int = 1, nodes: Nodes = "one node", law: Law = LAW
) -> Delay:
    """One story; in a loop of looptime, which begins at 0."""
    return await Story(seed, stable, nodes, law).tell(fault)
