"""What the tap costs the engine that it sits in, measured inside one process of it.

    python -m bench.tap_cost [--rounds 30] [--seconds 2] [--singles 300]
    python -m bench.tap_cost --vllm .../bin/vllm --name tap_cost_vllm

One worker is started, whose tap is left out of every second slice or request (``tap_switch``: two
processes of one engine differ by more than what is looked for). Three measurements, from the most
direct to the least noisy; raw results in ``bench/results/<name>.json``:

* *under load*: users that never pause, in slices of a few seconds with the tap and without, in the
  order AB BA AB ..., so that whatever else the machine does meets both alike. Each pair of slices
  gives one ratio;
* *one at a time*: single requests in turn, and the processor time that each took of the API server
  process (in which the tap runs), of the whole engine, and of the launcher (which listens). On a
  shared machine this says more, because waiting for a processor takes no processor time;
* *alone*: the tap around a program that does nothing else, on one core: microseconds of processor
  time for each request and for each token. Divided by what the engine's API server takes for the
  same answer this is its share, free of the noise of the other two.

Ratios are medians with a 95 % interval (bootstrap). Without ``--vllm`` it is the fake engine, which
is the hard case: its answers cost a fraction of vLLM's. Beware of other work on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from bench.results_file import keep
from bench.tap_alone import measure_alone
from bench.tap_load import Cpu, Engine, Shape, Slice, measure_load, measure_singles
from bench.tap_switch import start_worker


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


async def measure(engine: Engine, shape: Shape) -> dict[str, Any]:
    slices = await measure_load(engine, shape)
    singles = await measure_singles(engine, shape.singles, shape.tokens)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="pairs of slices")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each slice")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--singles", type=int, default=300, help="requests one at a time, each")
    parser.add_argument("--vllm", type=Path, help="the program of a real vLLM on this machine")
    parser.add_argument("--name", default="tap_cost", help="of the file in bench/results")
    chosen = parser.parse_args()
    if chosen.vllm is not None and not chosen.vllm.is_file():
        parser.error(f"--vllm: {chosen.vllm} is no file")
    shape = Shape(chosen.rounds, chosen.seconds, chosen.users, chosen.tokens, chosen.singles)
    with tempfile.TemporaryDirectory() as folder:
        worker = start_worker(Path(folder), chosen.vllm)
        try:
            results = asyncio.run(measure(Engine(worker.engine_port), shape))
        finally:
            worker.terminate()
            worker.wait(60)
    kept = {
        "engine": "vLLM" if chosen.vllm else "the fake engine",
        **asdict(shape),
        "load_average": [round(one, 2) for one in os.getloadavg()],
        **results,
    }
    print(json.dumps({k: v for k, v in kept.items() if not k.startswith("raw")}, indent=1))
    print(keep(chosen.name, kept))


if __name__ == "__main__":
    main()
