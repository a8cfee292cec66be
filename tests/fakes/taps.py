"""Workers with the launcher's real sampler, on clocks of their own, behind the reader's port.

A request is told to the sampler when it arrives, with all that will become of it: what a page says
of it at an age does not depend on what comes after that age. Faults are switched on by a test:
``silent`` workers do not answer; ``restart`` begins a new life with a clock that goes on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from llmrollouts.metrics.engine_metrics import NoEngineMetrics
from llmrollouts.metrics.page import PageError, make_parameters, parse_page
from llmrollouts.metrics.port import Query, Reading, Worker
from worker_image.launcher.cohorts import Request
from worker_image.launcher.sampler import Sampler
from worker_image.launcher.samples import make_samples
from worker_image.launcher.tap.llmrollouts_tap import wire


@dataclass(frozen=True)
class Law:
    """How a revision answers. ttft: median seconds to the first token; sigma: of its logarithm;
    token: median seconds for each further token; tokens: of an answer; failing: the part that
    fails, failing_at: its age then (None: when the first token would have come); hangs: nothing is
    ever answered."""

    ttft: float = 0.095
    sigma: float = 0.5
    token: float = 0.01
    tokens: int = 64
    failing: float = 0.0
    failing_at: float | None = None
    hangs: bool = False


class FakeTap:
    """One worker. ``clock``: the reader's; the worker's own is ``skew`` seconds apart."""

    def __init__(self, name: str, clock: Callable[[], float], skew: float = 0.0) -> None:
        self.worker = Worker(f"uid-{name}", name, "10.0.0.1")
        self._clock = clock
        self.skew = skew
        self.silent = False
        self.reads = 0
        self.restart()
        self._number = 0

    def restart(self) -> None:
        self.sampler = Sampler(clock=lambda: self._clock() - self.skew)
        self.sampler.heard = True

    def now(self) -> float:
        return self._clock() - self.skew

    def serve(self, at: float, law: Law, rng: random.Random, mirrored: bool = False) -> Request:
        """A request that arrives at ``at`` on the reader's clock."""
        self._number += 1
        request = Request((1, self._number), at - self.skew, streamed=True, mirrored=mirrored)
        self.sampler.cohorts.start(request)
        self.sampler.arrivals["mirrored" if mirrored else "live"] += 1
        if law.hangs:
            return request
        first = law.ttft * math.exp(law.sigma * rng.gauss(0, 1))
        if rng.random() < law.failing:
            age = first if law.failing_at is None else law.failing_at
            request.end, request.end_age = wire.FAILED, age
            return request
        token = law.token * math.exp(0.2 * rng.gauss(0, 1))
        marks = [first + token * (2**power - 1) for power in range(law.tokens.bit_length())]
        request.marks.extend(marks)
        request.tokens = law.tokens
        request.last_age = first + token * (law.tokens - 1)
        request.end, request.end_age = wire.OK, request.last_age
        self.sampler.answer_lengths[law.tokens.bit_length() - 1] += 1
        return request

    def page(self, query: Query) -> bytes:
        text = make_parameters(query.measurement, query.since, query.boot)
        making = make_samples(self.sampler, text)
        while True:
            try:
                making.send(None)  # it only ever gives others their turn
            except StopIteration as made:
                page = made.value
                break
        assert page.status == 200, page.body
        return str(page.body).encode()


@dataclass
class FakeReader:
    """Implements SampleReader over the workers of a test."""

    clock: Callable[[], float]
    taps: dict[str, FakeTap] = field(default_factory=dict)
    closed: bool = False

    def add(self, tap: FakeTap) -> FakeTap:
        self.taps[tap.worker.uid] = tap
        return tap

    async def read(self, worker: Worker, query: Query) -> Reading:
        tap = self.taps.get(worker.uid)
        if tap is None or tap.silent:
            raise PageError(f"{worker.name} did not answer within 0.8s")
        if query.source == "engine":
            raise NoEngineMetrics(f"{worker.name} has no tap, and no page of metrics either")
        tap.reads += 1
        body = tap.page(query)
        return Reading(parse_page(body, worker.name, query.measurement), self.clock())

    async def close(self) -> None:
        self.closed = True
