"""Multi-turn conversations through the fake engine's own prefix cache, request by request.

Each request goes to a worker at random, as the gateway sends them, so a conversation's earlier
turns are cached only on the workers that saw them. Five workers, one of them the canary, five
requests a second; the first ten minutes warm the caches and are not judged.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from bench.analysis.many_gates import ManyGates
from bench.analysis.rollouts import STEPS, plan_steps
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.evalues import IntArray
from llmrollouts.analysis.grid import BOUNDS
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.replay import read_baseline
from llmrollouts.analysis.stage import Stage, freeze_stage
from llmrollouts.analysis.trace import Fate, Trace, read_fates
from worker_image.fake_engine.batch import PrefixCache

RATE: Final = 5.0
WARM: Final = 600  # seconds
_WORKERS: Final = 5
_SYSTEM: Final = 256  # tokens that all prompts begin with
_BLOCK: Final = 128
_BLOCKS: Final = 3000  # a worker remembers: less than an hour's conversations, so some are lost
_TURNS: Final = 6
_MS_A_TOKEN: Final = 0.2


def simulate(rng: np.random.Generator, seconds: int) -> Trace:
    """The requests of so many seconds; the canary is worker 0."""
    caches = [PrefixCache(_BLOCK, _BLOCKS) for _ in range(_WORKERS)]
    count = rng.poisson(RATE * seconds)
    arrival = np.sort(rng.uniform(0, seconds, count))
    worker = rng.integers(0, _WORKERS, count)
    ends = rng.random(count)
    lengths = rng.integers(30, 400, count)
    tokens = np.clip(rng.lognormal(4.2, 0.6, count), 2, 800).astype(np.int64)
    system = list(range(_SYSTEM))
    open_talks: list[list[int]] = []
    fresh = 10**6
    missing = np.empty(count)
    for number in range(count):
        if not open_talks or ends[number] < 1 / _TURNS or len(open_talks) < 40:
            talk = list(system)
            open_talks.append(talk)
            if len(open_talks) > 400:
                open_talks.pop(0)
        else:
            talk = open_talks[int(ends[number] * 1e6) % len(open_talks)]
            if len(talk) > 4000:
                del talk[_SYSTEM:]
        added = int(lengths[number])
        talk.extend(range(fresh, fresh + added))
        fresh += added
        missing[number] = len(talk) - caches[worker[number]].look_up_and_store(talk)
    noise = np.exp(rng.normal(0, 0.2, (2, count)))
    ttft = (0.02 + _MS_A_TOKEN / 1000 * missing) * noise[0]
    tpot = 0.012 * noise[1]
    return Trace(
        arrival,
        worker == 0,
        ttft,
        tpot,
        ttft + tpot * (tokens - 1),
        tokens,
        np.full(count, 200),
        math.inf,
    )


def count_prefix_rollbacks(runs: int, seed: int) -> tuple[int, dict[str, int]]:
    """How many whole rollouts of a good revision were rolled back, and by what."""
    policy = Policy()
    length = WARM + sum(seconds for *_, seconds in STEPS)
    lost = 0
    blamed: dict[str, int] = {}
    for run in range(runs):
        trace = simulate(np.random.default_rng([seed, run]), length)
        second, gone = WARM, False
        for step in plan_steps(RATE, policy):
            before = _between(trace, max(WARM // 2, second - 600), second)
            stage = freeze_stage(
                step.name, policy, read_baseline(before), step.level, step.seconds, 1, step.watch
            )
            part = _between(trace, second, second + step.seconds)
            for metric, when in ManyGates(stage).run(_count(stage, part, second)).decided.items():
                if np.isfinite(when[0]) and not gone:
                    blamed[f"{step.name}/{metric}"] = blamed.get(f"{step.name}/{metric}", 0) + 1
                    gone = True
            second += step.seconds
        lost += gone
    return lost, blamed


def _between(trace: Trace, begin: int, end: int) -> Trace:
    first, last = np.searchsorted(trace.arrival, [begin, end])
    return trace.part(slice(int(first), int(last)))


def _count(stage: Stage, trace: Trace, begin: int) -> dict[str, IntArray]:
    """The cells of one run, by the same fates as replay's."""
    cells: dict[str, IntArray] = {}
    at, seconds = trace.second - begin, stage.ticks

    def count(rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> IntArray:
        return np.bincount(at[rows], minlength=seconds)

    reference = stage.measurement.reference_tokens
    for stream in stage.streams:
        places = stage.thresholds[stream.metric]
        fate, value = read_fates(trace, stream, reference)
        value = np.where(fate == Fate.OVER, math.inf, value)
        spoken = fate != Fate.NOTHING
        table = cells.setdefault(
            stream.metric.value, np.zeros((1, seconds, len(places.lags), 4), dtype=np.int64)
        )
        for number, lag in enumerate(places.lags):
            if lag == stream.lag:
                ours, theirs = (
                    BOUNDS[bounds[number]]
                    for bounds in (places.canary_bounds, places.control_bounds)
                )
                table[0, :, number, 0] = count(trace.canary & spoken & (value > ours))
                table[0, :, number, 1] = count(trace.canary & spoken)
                table[0, :, number, 2] = count(~trace.canary & spoken & (value > theirs))
                table[0, :, number, 3] = count(~trace.canary & spoken)
    assert Metric.TTFT.value in cells
    return cells
