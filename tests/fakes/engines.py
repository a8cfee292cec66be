"""Engines that show vLLM's page of metrics, on the real reader's side of the wire.

A request is told to the engine when it arrives, with all that will become of it; the page counts
what has come to pass by the moment it is asked. Bounds are those of the recorded vLLM.
"""

from __future__ import annotations

import json
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llmrollouts.metrics.fetch import Fetched, PageFetcher
from llmrollouts.metrics.page import PageError
from llmrollouts.metrics.port import Worker
from tests.fakes.taps import Law

_RECORDED: Final = json.loads(
    (Path(__file__).parents[2] / "worker_image" / "fake_engine" / "recorded.json").read_text()
)["metrics"]
TTFT: Final = "vllm:time_to_first_token_seconds"
TPOT: Final = "vllm:request_time_per_output_token_seconds"
E2E: Final = "vllm:e2e_request_latency_seconds"
NAMES: Final = (TTFT, TPOT, E2E)
COMPLETIONS: Final = "/v1/completions"


def vllm_bounds(name: str) -> list[float]:
    """Without the infinite one."""
    return [float(bound) for bound in _RECORDED[name]["buckets"][:-1]]


@dataclass
class PageWriter:
    """Counters that are written as vLLM and the launcher write them."""

    bounds: dict[str, list[float]] = field(
        default_factory=lambda: {name: vllm_bounds(name) for name in NAMES}
    )
    started: str = "1.7676e+09"
    counts: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=lambda: {"2xx": 0, "4xx": 0, "5xx": 0})
    ends: dict[str, int] = field(default_factory=lambda: {"length": 0, "error": 0})
    running: int = 0
    probes: int = 0
    hidden: set[str] = field(default_factory=set)

    def observe(self, name: str, value: float) -> None:
        slots = self.counts.setdefault(name, [0] * (len(self.bounds[name]) + 1))
        slots[bisect_left(self.bounds[name], value)] += 1

    def probe(self) -> None:
        """One token for the launcher, as it looks on the page."""
        self.observe(TTFT, 0.004)
        self.observe(TPOT, 0.0)
        self.observe(E2E, 0.004)
        self.statuses["2xx"] += 1
        self.ends["length"] += 1
        self.probes += 1

    def text(self) -> str:
        labels = 'engine="0",model_name="chat"'
        lines = ["# HELP process_start_time_seconds Start time.", "# TYPE python_info gauge"]
        if self.started:
            lines.append(f"process_start_time_seconds {self.started}")
        for name in NAMES:
            lines += [f"# HELP {name} Histogram of it.", f"# TYPE {name} histogram"]
            slots = self.counts.get(name, [0] * (len(self.bounds[name]) + 1))
            sums = 0
            for bound, count in zip([*map(str, self.bounds[name]), "+Inf"], slots, strict=True):
                sums += count
                lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {sums:.1f}')
            lines += [f"{name}_count{{{labels}}} {sums:.1f}", f"{name}_sum{{{labels}}} 1.5"]
        lines.append("# TYPE vllm:inter_token_latency_seconds histogram")
        lines.append(f'vllm:inter_token_latency_seconds_bucket{{{labels},le="+Inf"}} 99999.0')
        lines.append("# TYPE vllm:request_success_total counter")
        for reason, count in self.ends.items():
            lines.append(
                f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {count:.1f}'
            )
        lines.append("# TYPE http_requests_total counter")
        for status, count in self.statuses.items():
            told = f'handler="{COMPLETIONS}",method="POST",status="{status}"'
            lines.append(f"http_requests_total{{{told}}} {count:.1f}")
        lines.append('http_requests_total{handler="/v1/models",method="GET",status="2xx"} 7.0')
        lines.append("# TYPE vllm:num_requests_running gauge")
        lines.append(f"vllm:num_requests_running{{{labels}}} {self.running:.1f}")
        lines.append(f"vllm:num_requests_waiting{{{labels}}} 0.0")
        lines.append("# TYPE llmrollouts_launcher_idle_probes_total counter")
        lines.append(f'llmrollouts_launcher_idle_probes_total{{result="token"}} {self.probes}')
        kept = (line for line in lines if not any(name in line for name in self.hidden))
        return "\n".join(kept) + "\n"


class FakeEngine:
    """One worker without a tap. ``clock``: the reader's."""

    def __init__(self, name: str, clock: Callable[[], float], probes: bool = True) -> None:
        self.worker = Worker(f"uid-{name}", name, "10.0.0.1")
        self._clock = clock
        self.silent = False
        self._probes = probes
        self._life = 0
        self.restart()

    def restart(self) -> None:
        self._life += 1
        self.page = PageWriter(started=f"{1.7e9 + self._life}")
        self._events: list[tuple[float, Callable[[], None]]] = []
        self._probed = math.floor(self._clock())

    def serve(self, at: float, law: Law, rng: random.Random, mirrored: bool = False) -> None:
        """A request that arrives at ``at`` on the reader's clock; no page tells copies apart."""
        page = self.page

        def arrive() -> None:
            page.running += 1

        self._events.append((at, arrive))
        if law.hangs:
            return
        first = law.ttft * math.exp(law.sigma * rng.gauss(0, 1))
        if rng.random() < law.failing:

            def fail() -> None:
                page.running -= 1
                page.statuses["5xx"] += 1

            self._events.append((at + first, fail))
            return
        token = law.token * math.exp(0.2 * rng.gauss(0, 1))
        last = first + token * (law.tokens - 1)

        def end() -> None:
            page.running -= 1
            page.observe(TPOT, token if law.tokens > 1 else 0.0)
            page.observe(E2E, last)
            page.statuses["2xx"] += 1
            page.ends["length"] += 1

        self._events.append((at + first, lambda: page.observe(TTFT, first)))
        self._events.append((at + last, end))

    def show(self) -> bytes:
        """The page of now."""
        now = self._clock()
        for _, event in sorted((e for e in self._events if e[0] <= now), key=lambda e: e[0]):
            event()
        self._events = [e for e in self._events if e[0] > now]
        while self._probes and self._probed < math.floor(now) - 4:
            self._probed += 5
            self.page.probe()
        return self.page.text().encode()


class FakeFetcher(PageFetcher):
    """Answers from the engines of a test."""

    def __init__(self, clock: Callable[[], float], engines: Sequence[FakeEngine] = ()) -> None:
        super().__init__()
        self._now = clock
        self.engines = {engine.worker.uid: engine for engine in engines}
        self.status = 200

    async def fetch(self, worker: Worker, path: str) -> Fetched:
        engine = self.engines.get(worker.uid)
        if engine is None or engine.silent:
            raise PageError(f"{worker.name} did not answer within 0.8s")
        assert path == "/engine-metrics"
        return Fetched(self.status, engine.show(), self._now())
