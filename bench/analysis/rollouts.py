"""Whole simulated rollouts of a good revision, in one nuisance each.

The steps are the default plan and the watch after the promotion, with the budget split over them
as the operator does. The shadow step of 24 hours and the watch of one hour are cut to their first
30 minutes. The service has five workers where nothing else is said; mirrored requests keep the
canary as busy as stable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.analysis.many_gates import ManyGates
from bench.analysis.worlds import (
    PLAIN,
    PROMPTS,
    Mixture,
    Paths,
    Rates,
    Regression,
    calm,
    draw_cells,
    make_stage,
    stall,
    walk,
)
from llmrollouts.analysis.budget import Budget
from llmrollouts.analysis.evalue import FloatArray
from llmrollouts.analysis.policy import Policy
from llmrollouts.api.share import WHOLE, Share
from llmrollouts.api.strategy import Strategy
from llmrollouts.rollout.capacity import canary_workers

WORKERS: Final = 5
LARGE_STEPS: Final = ("25%", "50%")  # with several canary workers
# Share of the users, seconds; the last is the watch.
STEPS: Final = (
    ("shadow 5%", 0.05, 1800),
    ("0.5%", 0.005, 1800),
    ("5%", 0.05, 900),
    ("25%", 0.25, 600),
    ("50%", 0.5, 600),
    ("watch", 0.99, 1800),
)
_NAMES: Final = tuple(name for name, _, _ in STEPS)


@dataclass(frozen=True)
class Step:
    """One stage of a rollout, with its part of the budget."""

    name: str
    rates: Rates
    seconds: int
    level: float

    @property
    def watch(self) -> bool:
        return self.name == "watch"


Nuisance = Callable[[np.random.Generator, Step, FloatArray, int], Paths]


@dataclass(frozen=True)
class World:
    """A nuisance at a total rate of requests a second. offset: standard deviation of what sets a
    worker apart for the whole rollout, as ln latency."""

    name: str
    rate: float
    paths: Nuisance
    mixture: Mixture = PLAIN
    offset: float = 0.0
    workers: int = WORKERS


def stalled_service(workers: int) -> World:
    """Stalls every ten minutes on each of so many workers."""
    return World(f"{workers} workers", 4.25 * workers, _stalls(600), workers=workers)


def plan_steps(rate: float, policy: Policy, service: int = WORKERS) -> list[Step]:
    """The stages of a service of so many workers, with canary workers as the product has them:
    stable keeps its size, and copies fill a canary worker to the load of a stable one."""
    budget = Budget(policy.error_budget)
    steps = []
    for number, (name, share, seconds) in enumerate(STEPS):
        level, budget = budget.allot(len(STEPS) - number)
        if name == "watch":
            rates = Rates(rate * share, rate * (1 - share), math.ceil(share * service), 1)
        else:
            users = 0.0 if name.startswith("shadow") else share
            workers = _count_workers(users, share, service)
            each = rate * (1 - users) / service
            rates = Rates(each * workers, each * service, workers, service)
        steps.append(Step(name, rates, seconds, level))
    return steps


def _count_workers(users: float, share: float, service: int) -> int:
    if not users:
        return math.ceil(share * service)
    return canary_workers(Share(round(users * WHOLE)), service, Strategy())


def count_rollbacks(
    world: World,
    runs: int,
    seed: int,
    block: int = 50,
    names: Collection[str] = _NAMES,
) -> tuple[int, dict[str, int]]:
    """How many of ``runs`` rollouts were rolled back, and by which metric in which step; names:
    the steps that are simulated."""
    policy = Policy()
    lost = 0
    blamed: dict[str, int] = {}
    block = max(1, min(block, 500 // world.workers))
    for begin in range(0, runs, block):
        rng = np.random.default_rng([seed, begin])
        size = min(block, runs - begin)
        offset = rng.normal(0, 1, (2, size)) * world.offset
        gone = np.zeros(size, dtype=bool)
        for step in plan_steps(world.rate, policy, world.workers):
            if step.name not in names:
                continue
            stage = make_stage(
                policy, step.level, step.seconds, step.rates.workers, world.mixture,
                watch=step.watch,
            )  # fmt: skip
            paths = world.paths(rng, step, offset, size)
            paths.mixture = world.mixture
            cells = draw_cells(rng, stage, step.rates, paths, Regression())
            for metric, when in ManyGates(stage).run(cells).decided.items():
                hit = np.isfinite(when) & ~gone
                if hit.any():
                    name = f"{step.name}/{metric}"
                    blamed[name] = blamed.get(name, 0) + int(hit.sum())
                gone |= np.isfinite(when)
        lost += int(gone.sum())
    return lost, blamed


def _iid(_: np.random.Generator, step: Step, __: FloatArray, runs: int) -> Paths:
    return calm(runs, step.seconds)


def _drift(rng: np.random.Generator, step: Step, _: FloatArray, runs: int) -> Paths:
    paths = calm(runs, step.seconds)
    turn = np.arange(step.seconds) / 1800 * math.pi
    paths.shift = walk(rng, runs, step.seconds, 0.10, 120) + 0.15 * np.sin(turn)
    return paths


def _day(rng: np.random.Generator, step: Step, _: FloatArray, runs: int) -> Paths:
    """A day in an hour: the load swings threefold, and latencies follow it."""
    paths = calm(runs, step.seconds)
    phase = rng.uniform(0, 2 * math.pi, (runs, 1))
    swing = np.sin(2 * math.pi * np.arange(step.seconds) / 3600 + phase)
    paths.load = 1 + 0.5 * swing
    paths.shift = 0.3 * swing
    return paths


def _pods(rng: np.random.Generator, step: Step, offset: FloatArray, runs: int) -> Paths:
    """Workers differ by 2 % for good, and each wanders by another 2 %."""
    paths = calm(runs, step.seconds)
    ours, theirs = math.sqrt(step.rates.workers), math.sqrt(step.rates.control_workers)
    paths.canary_shift = (walk(rng, runs, step.seconds, 0.02, 60) + offset[0][:, None]) / ours
    paths.control_shift = (walk(rng, runs, step.seconds, 0.02, 60) + offset[1][:, None]) / theirs
    return paths


def _stalls(every: float) -> Nuisance:
    """Each worker is four times slower for three seconds, on average once in ``every`` seconds."""

    def paths_of(rng: np.random.Generator, step: Step, _: FloatArray, runs: int) -> Paths:
        paths = calm(runs, step.seconds)
        paths.canary_stalled = stall(rng, runs, step.seconds, step.rates.workers, every)
        others = stall(rng, runs, step.seconds, step.rates.control_workers, every)
        paths.control_stalled = others.mean(axis=2)
        return paths

    return paths_of


def _prompts(rng: np.random.Generator, step: Step, _: FloatArray, runs: int) -> Paths:
    """Short, long and very long prompts, whose mixture wanders."""
    paths = calm(runs, step.seconds)
    paths.lengthened = np.clip(walk(rng, runs, step.seconds, 0.2, 300), 0, 0.6)
    return paths


def _crash(chance_per_second: float | None) -> Nuisance:
    """A canary worker dies: half a second and two whole ones of failures, then a minute without
    it. None: once in every step."""

    def paths_of(rng: np.random.Generator, step: Step, _: FloatArray, runs: int) -> Paths:
        paths = calm(runs, step.seconds)
        failing, load = np.zeros((runs, step.seconds)), np.ones((runs, step.seconds))
        workers = step.rates.workers
        for run in range(runs):
            if chance_per_second is None:
                moments = rng.integers(0, step.seconds, 1)
            else:
                many = rng.poisson(chance_per_second * workers * step.seconds)
                moments = rng.integers(0, step.seconds, many)
            for moment in moments.tolist():
                failing[run, moment : moment + 1] = 0.5 / workers
                failing[run, moment + 1 : moment + 3] = 1 / workers
                load[run, moment + 3 : moment + 63] = 1 - 1 / workers
        paths.canary_failing, paths.canary_load = failing, load
        return paths

    return paths_of


WORLDS: Final = (
    World("independent requests", 21.25, _iid),
    World("common drift", 21.25, _drift),
    World("day curve", 21.25, _day),
    World("pod-to-pod 2 %", 21.25, _pods, offset=0.02),
    World("stalls", 21.25, _stalls(600)),
    World("prompt lengths", 21.25, _prompts, PROMPTS),
    World("pod crashes, one a worker and day", 21.25, _crash(1 / 86_400)),
    World("one canary crash in every step", 21.25, _crash(None)),
    World("1 request/s", 1.0, _iid),
    World("5 requests/s", 5.0, _iid),
    World("50 requests/s", 50.0, _iid),
    World("stalls, one a worker and hour", 21.25, _stalls(3600)),
    World("stalls, 20 workers", 85.0, _stalls(600), workers=20),
    World("stalls, 40 workers", 170.0, _stalls(600), workers=40),
)
