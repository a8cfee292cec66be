"""Simulated services: what a canary and its control group would be counted as, second by second.

A run is drawn as counts at the stage's own thresholds: Poisson arrivals, each with the chance that
its second's latency law gives it. Every nuisance is a path of ln latency (common to both arms, or
of one arm's workers), a part of the requests that is stalled, or a part that fails. The three
latency metrics are drawn independently of each other, the worst case for a union of tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtr

from llmrollouts.analysis.baseline import Baseline
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.evalue import FloatArray
from llmrollouts.analysis.evalues import IntArray
from llmrollouts.analysis.grid import BOUNDS
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.stage import Stage, freeze_stage

# (median in seconds, standard deviation of the logarithm); TTFT as in the specification.
LAWS = {Metric.TTFT: (0.095, 0.5), Metric.TPOT: (0.012, 0.3), Metric.E2E: (1.6, 0.35)}
STALL = math.log(4.0)
_BASELINE = 20_000
Mixture = tuple[tuple[float, float], ...]  # (part of the requests, ln factor of their latency)
PLAIN: Mixture = ((1.0, 0.0),)
# Short, long and very long prompts.
PROMPTS: Mixture = ((0.7, 0.0), (0.25, math.log(4.0)), (0.05, math.log(20.0)))


@dataclass(frozen=True)
class Rates:
    """Requests a second of the two arms, and the workers of the canary."""

    canary: float
    control: float
    workers: int = 1
    control_workers: int = 4


@dataclass
class Paths:
    """What happens in each second of each run; arrays of shape (runs, seconds). shift: ln factor of
    the latency; stalled: part of the requests that are four times slower, of the canary by worker:
    (runs, seconds, workers); failing: part that fails; silent: workers that take no requests; load:
    factor of the rate; prompts: part of the requests that moves from short to long prompts."""

    shift: FloatArray
    canary_shift: FloatArray
    control_shift: FloatArray
    canary_stalled: FloatArray
    control_stalled: FloatArray
    canary_failing: FloatArray
    canary_load: FloatArray
    load: FloatArray
    lengthened: FloatArray
    mixture: Mixture = PLAIN


@dataclass(frozen=True)
class Regression:
    """What is wrong with the canary from ``onset`` seconds on; nothing by default. ratios: factor
    of each latency metric; tail: the part of the requests that is five times slower."""

    ratios: Mapping[Metric, float] = field(default_factory=dict)
    tail: float = 0.0
    failing: float = 0.0
    onset: int = 0


def calm(runs: int, seconds: int) -> Paths:
    zero = np.zeros((runs, seconds))
    one = np.ones((runs, seconds))
    return Paths(zero, zero, zero, zero[:, :, None], zero, zero, one, one, zero)


def walk(rng: np.random.Generator, runs: int, seconds: int, sd: float, tau: float) -> FloatArray:
    """A stationary first-order walk: standard deviation sd, memory of tau seconds."""
    phi = math.exp(-1 / tau)
    steps = rng.normal(0, sd * math.sqrt(1 - phi * phi), (runs, seconds))
    path = np.empty((runs, seconds))
    now = rng.normal(0, sd, runs)
    for second in range(seconds):
        now = phi * now + steps[:, second]
        path[:, second] = now
    return path


def stall(
    rng: np.random.Generator, runs: int, seconds: int, workers: int, every: float = 600.0
) -> FloatArray:
    """The part of each worker's requests that meets it stalled, shape (runs, seconds, workers): it
    stalls for 3 s, on average once in ``every`` seconds, and starts somewhere within a second."""
    part = np.zeros((runs, seconds + 4, workers))
    for worker in range(workers):
        hits = np.argwhere(rng.random((runs, seconds)) < 1 / every)
        begun = rng.random(len(hits))
        for offset, weight in ((0, 1 - begun), (1, 1.0), (2, 1.0), (3, begun)):
            np.add.at(part[:, :, worker], (hits[:, 0], hits[:, 1] + offset), weight)
    return np.minimum(part[:, :seconds], 1.0)


def survival(
    metric: Metric, seconds: FloatArray, shift: FloatArray, mixture: Mixture, lengthened: FloatArray
) -> FloatArray:
    """P(latency > each of ``seconds``), shape (runs, seconds of the run, places)."""
    median, sigma = LAWS[metric]
    points = (np.log(seconds) - math.log(median))[None, None, :] - shift[..., None]
    chance = np.zeros(points.shape)
    for number, (part, factor) in enumerate(mixture):
        moved = lengthened * mixture[0][0]
        share = part - moved if number == 0 else part + moved / (len(mixture) - 1)
        # Prompts are read before the first token: only that waits for their length.
        slower = factor if metric is Metric.TTFT else 0.0
        chance += np.asarray(share)[..., None] * ndtr(-(points - slower) / sigma)
    return chance


def make_stage(
    policy: Policy, level: float, ticks: int, workers: int, mixture: Mixture = PLAIN,
    *, watch: bool = False,
) -> Stage:  # fmt: skip
    """A stage whose baseline is the stable law itself."""
    latency = {}
    one = np.zeros((1, 1))
    for metric in LAWS:
        beyond = survival(metric, np.array(BOUNDS), one, mixture, one)[0, 0]
        within = np.concatenate([1 - beyond, [1.0]])
        counts = np.diff(np.round(_BASELINE * within), prepend=0)
        latency[metric] = tuple(int(n) for n in counts)
    baseline = Baseline(latency, (0,) * 6 + (_BASELINE,), 64)
    return freeze_stage("simulated", policy, baseline, level, ticks, workers, watch)


def draw_cells(
    rng: np.random.Generator,
    stage: Stage,
    rates: Rates,
    paths: Paths,
    regression: Regression,
    *,
    errors: float = 0.001,
    proof: bool = False,
) -> dict[str, IntArray]:
    """The cells of ``many_gates`` for all runs of ``paths``, and of several canary workers those of
    each."""
    seconds = paths.shift.shape[1]
    on = (np.arange(seconds) >= regression.onset)[None, :]
    each = rates.canary / rates.workers * paths.load * paths.canary_load
    arrivals = rng.poisson(np.repeat(each[:, :, None], rates.workers, axis=2))
    others = rng.poisson(rates.control * paths.load)
    failing = np.maximum(paths.canary_failing, regression.failing * on)
    failing = failing + (1 - failing) * errors
    failed, lost = rng.binomial(arrivals, failing[:, :, None]), rng.binomial(others, errors)
    asked = arrivals.sum(axis=2)
    refused, theirs_refused = rng.binomial(asked, errors), rng.binomial(others, errors)
    cells = {
        "errors": np.stack([failed.sum(axis=2), asked, lost, others], axis=-1)[:, :, None],
        "refusals": np.stack([refused, asked, theirs_refused, others], axis=-1)[:, :, None],
    }
    for metric, places in stage.thresholds.items():
        ratio = math.log(regression.ratios.get(metric, 1.0)) * on
        ours = _Law(metric, paths, paths.shift + paths.canary_shift + ratio, paths.canary_stalled)
        theirs = _Law(metric, paths, paths.shift + paths.control_shift, paths.control_stalled)
        tail = np.where(on, regression.tail, 0.0)
        canary_bounds = [BOUNDS[bound] for bound in places.canary_bounds]
        control_bounds = [BOUNDS[bound] for bound in places.control_bounds]
        if proof:
            # All places of a metric are read of the same requests.
            canary_bounds += [stage.policy.promotion_margin * x for x in places.promotion]
            control_bounds += list(places.promotion)
        each_over = _draw(rng, arrivals, failed, ours.beyond(canary_bounds, tail))
        over = each_over.sum(axis=2)
        stable_over = _draw(rng, others, lost, theirs.beyond(control_bounds, 0.0))
        table = np.stack(
            [
                over,
                np.broadcast_to(asked[..., None], over.shape),
                stable_over,
                np.broadcast_to(others[..., None], over.shape),
            ],
            axis=-1,
        )
        cells[metric.value] = table[:, :, : len(places.lags)]
        if rates.workers > 1:
            many = each_over[..., : len(places.lags)]
            own = np.stack([many, np.broadcast_to(arrivals[..., None], many.shape)], axis=-1)
            cells[f"workers:{metric.value}"] = own.swapaxes(2, 3)
        if proof:
            cells[f"proof:{metric.value}"] = table[:, :, len(places.lags) :]
    return cells


@dataclass(frozen=True)
class _Law:
    """One arm's latency of one metric; ``stalled``: of the arm, or of each of its workers."""

    metric: Metric
    paths: Paths
    shift: FloatArray
    stalled: FloatArray

    def beyond(self, bounds: list[float], tail: FloatArray | float) -> FloatArray:
        at = np.array(bounds)
        chance = self._survival(at, 0.0)
        if np.any(np.asarray(tail) > 0):
            part = np.broadcast_to(np.asarray(tail), self.shift.shape)[..., None]
            chance = (1 - part) * chance + part * self._survival(at, math.log(5.0))
        stalled = self.stalled[..., None]
        if self.stalled.ndim > self.shift.ndim:
            chance = chance[:, :, None]
        if self.stalled.any():
            slow = self._survival(at, STALL).reshape(*chance.shape)
            chance = (1 - stalled) * chance + stalled * slow
        return chance

    def _survival(self, at: FloatArray, more: float) -> FloatArray:
        paths = self.paths
        return survival(self.metric, at, self.shift + more, paths.mixture, paths.lengthened)


def _draw(
    rng: np.random.Generator, arrivals: IntArray, failed: IntArray, chance: FloatArray
) -> IntArray:
    """How many exceed each place: the failed exceed all, the others by their chance; places in
    any order, nested as latencies are (who exceeds a larger value exceeds a smaller one)."""
    order = np.argsort(-chance.reshape(-1, chance.shape[-1])[0])
    left, before = arrivals - failed, np.ones(arrivals.shape)
    over = np.empty((*arrivals.shape, len(order)), dtype=np.int64)
    for place in order.tolist():
        here = np.minimum(chance[..., place], before)
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(before > 0, here / before, 0.0)
        left = rng.binomial(left, np.clip(part, 0, 1))
        over[..., place] = left + failed
        before = here
    return over
