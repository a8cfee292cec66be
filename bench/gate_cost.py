"""What the canary gate costs the operator: 100 rollouts at 850 requests/s each, every second.

    python -m bench.gate_cost [--rollouts 100] [--seconds 20]

Pages come from the launcher's own sampler, made outside of what is timed. Timed is what the
operator does with them: parse, merge, gate, verdict, and every ten seconds the stored record. Then
the same reads over HTTP on loopback, and for comparison one page of vLLM's /metrics parsed the way
a scraper does (prometheus_client). Processor time is this process's own, but others' work
empties its caches: beside the mean stands the median. Fails when 100 rollouts need a core, or half
of the ticks 2 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from bench.results_file import keep
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.stage import freeze_stage
from llmrollouts.api.share import Share
from llmrollouts.controller import verdicts
from llmrollouts.controller.memory import Memory
from llmrollouts.metrics.baseline import BaselineCollector
from llmrollouts.metrics.comparison import Comparison, Conditions
from llmrollouts.metrics.fetch import PageFetcher
from llmrollouts.metrics.page import parse_page
from llmrollouts.metrics.port import Candidate, Query, Reading, Worker
from llmrollouts.metrics.tap import TapReader
from llmrollouts.rollout.intent import (
    DeploymentTraffic,
    RequestCounts,
    RevisionTraffic,
    TrafficObservation,
)
from tests.fakes.taps import FakeTap, Law

RATE = 850.0
MOST_CORES = 1.0
MOST_TICK = 0.002
START = 1_767_614_400.0
CONDITIONS = Conditions("canary", "stable", matches_load=True, proves_unmatched=False)


class Fleet:
    """The workers of one rollout that are read: a canary and its control group."""

    def __init__(self, canary: int, control: int, rate: float) -> None:
        self.time = START
        self.rng = random.Random(1)
        self.rate = rate
        self.canary = [self._tap(f"c{i}") for i in range(canary)]
        self.control = [self._tap(f"s{i}") for i in range(control)]
        self.sent = 0

    def _tap(self, name: str) -> FakeTap:
        return FakeTap(name, lambda: self.time, skew=START - 500)

    def second(self) -> None:
        for tap in (*self.canary, *self.control):
            at = self.rng.expovariate(self.rate)
            while at < 1:
                tap.serve(self.time + at, Law(), self.rng)
                at += self.rng.expovariate(self.rate)
        self.sent += round(self.rate * len(self.canary))
        self.time += 1

    def traffic(self) -> TrafficObservation:
        canary = RevisionTraffic("canary", (), Share(5000), Share(195_000))
        programmed = DeploymentTraffic("n", "n", "u", "stable", (canary,))
        counts = {
            "canary": RequestCounts(self.sent // 40, 0, 0, self.sent - self.sent // 40),
            "stable": RequestCounts(4 * self.sent),
        }
        return TrafficObservation(programmed, True, 2, 2, 0.5, counts=counts, source="x")


def candidates(taps: list[FakeTap]) -> tuple[Candidate, ...]:
    return tuple(Candidate(tap.worker, True, True) for tap in taps)


def make_comparison(fleet: Fleet) -> Comparison:
    """A stage with every metric and every limit, on a real baseline."""
    collector = BaselineCollector(fleet.time)
    for _ in range(2):
        for tap in fleet.control:
            uid = tap.worker.uid
            query = Query(*collector.ask(uid))
            page = parse_page(tap.page(query), tap.worker.name, query.measurement)
            collector.take(uid, page, fleet.time)
    limits = {"ttft": 0.35, "tpot": 0.04, "duration": 30.0}
    policy = Policy.from_plain({**Policy().to_plain(), "limits": limits, "errorLimit": 0.002})
    stage = freeze_stage(
        "r/1/1-Canary-5000", policy, collector.baseline, 0.002, 1800, len(fleet.canary)
    )
    control = {tap.worker.uid: tap.worker.name for tap in fleet.control}
    return Comparison(stage, control, math.floor(fleet.time) + 1)


def run(canary: int, control: int, rollouts: int, seconds: int) -> dict[str, Any]:
    """Processor time of so many rollouts, a second."""
    fleet = Fleet(canary, control, RATE / (canary + control))
    for _ in range(100):
        fleet.second()
    compared = [make_comparison(fleet) for _ in range(rollouts)]
    memory = Memory(stage="r/1/1-Canary-5000", level=0.002)
    ticks: list[float] = []
    cores: list[float] = []
    sizes: list[int] = []
    for second in range(seconds):
        fleet.second()
        pages: dict[str, bytes] = {}
        spent = 0.0
        for number, each in enumerate(compared):
            began = time.process_time()
            each.enlist(candidates(fleet.canary), candidates(fleet.control))
            asked = each.ask()
            spent_here = time.process_time() - began
            if number == 0:
                taps = {tap.worker.uid: tap for tap in (*fleet.canary, *fleet.control)}
                pages = {worker.uid: taps[worker.uid].page(query) for worker, query in asked}
                sizes += [len(page) for page in pages.values()]
            began = time.process_time()
            for worker, query in asked:
                page = parse_page(pages[worker.uid], worker.name, query.measurement)
                each.take(worker, Reading(page, fleet.time))
            each.close(fleet.time, fleet.traffic(), CONDITIONS)
            judgement = each.judge(fleet.time)
            said = verdicts.judge(each, judgement, CONDITIONS, fleet.time)
            verdicts.make_gate(
                said, "s", "Collecting", verdicts.describe_numbers(judgement, each.cut_streams)
            )
            if (second + number) % 10 == 0:
                memory.make_record(each, None, None, fleet.time).to_data()
            spent_here += time.process_time() - began
            spent += spent_here
            ticks.append(spent_here)
        cores.append(spent)
    # The first seconds only fix clocks.
    steady, ticks = cores[seconds // 2 :], ticks[len(ticks) // 2 :]
    return {
        "workers_read": canary + control,
        "requests_per_second_each": RATE,
        "rollouts": rollouts,
        "cores": round(statistics.mean(steady), 3),
        "tick_ms_median": round(1000 * statistics.median(ticks), 3),
        "tick_ms_mean": round(1000 * statistics.mean(ticks), 3),
        "tick_ms_p99": round(1000 * statistics.quantiles(ticks, n=100)[98], 3),
        "page_bytes_median": statistics.median(sizes),
        "record_bytes": len(
            memory.make_record(compared[0], None, None, fleet.time).to_data()["evidence.json"]
        ),
    }


def serve_pages(ready: Connection, page: bytes) -> None:
    """A worker's port in a process of its own."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=page, content_type="application/json")

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/samples", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ready.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(serve())


@contextmanager
def serving(page: bytes) -> Iterator[int]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve_pages, args=(theirs, page), daemon=True
    )
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


async def read_over_http(port: int, query: Query, reads: int) -> float:
    """Processor seconds of one read, parsing included."""
    reader = TapReader(PageFetcher(port=port, time_out=5.0))
    worker = Worker("u", "w", "127.0.0.1")
    await reader.read(worker, query)
    began = time.process_time()
    for _ in range(reads // 20):
        await asyncio.gather(*(reader.read(worker, query) for _ in range(20)))
    spent = (time.process_time() - began) / (reads // 20 * 20)
    await reader.close()
    return spent


def measure_http() -> dict[str, float]:
    fleet = Fleet(1, 4, RATE / 5)
    for _ in range(100):
        fleet.second()
    measurement = make_comparison(fleet).stage.measurement
    tap = fleet.control[0]
    query = Query(measurement, tap.now() - 1.01, tap.sampler.boot)
    page = tap.page(query)
    with serving(page) as port:
        seconds = asyncio.run(read_over_http(port, query, 1000))
    began = time.process_time()
    for _ in range(200):
        parse_page(page, "w", measurement)
    parsing = (time.process_time() - began) / 200
    return {"read_ms": round(1000 * seconds, 3), "of_it_parsing_ms": round(1000 * parsing, 3)}


def make_scrape() -> str:
    """A page of metrics as large as vLLM's: about 50 kB of histograms."""
    lines = []
    for number in range(16):
        name = f"vllm:histogram_{number}_seconds"
        lines.append(f"# TYPE {name} histogram")
        for bound in range(30):
            labels = f'engine="0",model_name="chat",le="{0.001 * 1.6**bound:.4g}"'
            lines.append(f"{name}_bucket{{{labels}}} {bound * 100.0}")
        lines.append(f'{name}_bucket{{engine="0",model_name="chat",le="+Inf"}} 3000.0')
        lines.append(f'{name}_count{{engine="0",model_name="chat"}} 3000.0')
        lines.append(f'{name}_sum{{engine="0",model_name="chat"}} 123.4')
    return "\n".join(lines) + "\n"


def measure_scrape() -> dict[str, float]:
    text = make_scrape()
    began = time.process_time()
    for _ in range(10):
        for family in text_string_to_metric_families(text):
            assert family.samples
    return {
        "bytes": len(text),
        "parse_ms": round(1000 * (time.process_time() - began) / 10, 3),
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rollouts", type=int, default=100)
    options.add_argument("--seconds", type=int, default=20)
    given = options.parse_args()
    shapes = [run(1, 4, given.rollouts, given.seconds), run(5, 20, given.rollouts, given.seconds)]
    http = measure_http()
    for shape in shapes:
        shape["cores_with_http"] = round(
            shape["cores"]
            + given.rollouts
            * shape["workers_read"]
            * (http["read_ms"] - http["of_it_parsing_ms"])
            / 1000,
            3,
        )
        print(shape)
    print(http)
    result = {
        "load_average": os.getloadavg(),
        "gate": shapes,
        "http_read": http,
        "scrape_for_comparison": measure_scrape(),
    }
    print(result["scrape_for_comparison"])
    keep("gate_cost", result)
    usual = shapes[0]
    good = usual["cores_with_http"] < MOST_CORES and usual["tick_ms_median"] < 1000 * MOST_TICK
    print("within its bounds" if good else "over its bounds")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
