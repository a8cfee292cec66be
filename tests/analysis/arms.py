"""Two simulated arms for tests of the gate: requests drawn, counted as the workers count them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmrollouts.analysis.counts import (
    Counts,
    LatencySecond,
    Metric,
    Outcomes,
    OutcomeSecond,
    Stream,
)
from llmrollouts.analysis.gate import Gate, GateState, start_state
from llmrollouts.analysis.grid import BOUNDS, BUCKETS
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.proof import Proof
from llmrollouts.analysis.stage import Baseline, Stage, freeze_stage

Times = npt.NDArray[np.float64]
Change = Callable[[int, Times], Times]  # second, drawn latencies -> what this arm does to them
_BOUNDS = np.array(BOUNDS)

MEDIANS = {Metric.TTFT: 0.095, Metric.TPOT: 0.03, Metric.E2E: 4.0}
SIGMAS = {Metric.TTFT: 0.5, Metric.TPOT: 0.2, Metric.E2E: 0.5}


def unchanged(second: int, times: Times) -> Times:
    return times


def slower(ratio: float, onset: int = 0) -> Change:
    return lambda second, times: times * ratio if second >= onset else times


def tail(share: float, ratio: float, seed: int = 9) -> Change:
    rng = np.random.default_rng(seed)
    return lambda second, times: np.where(rng.random(times.size) < share, ratio * times, times)


def black_hole(second: int, times: Times) -> Times:
    return np.full_like(times, np.inf)


def count(times: Times, lag: float, exact: tuple[float, ...] = ()) -> Counts:
    """Latencies of one cohort as they are known at ``lag``."""
    answered = times[times <= lag]
    buckets, numbers = np.unique(np.searchsorted(_BOUNDS, answered), return_counts=True)
    beyond = tuple((int((times > value).sum()), times.size) for value in exact)
    done = dict(zip(buckets.tolist(), numbers.tolist(), strict=True))
    return Counts(done, {}, int((times > lag).sum()), beyond)


def draw(rng: np.random.Generator, metric: Metric, requests: int) -> Times:
    return np.asarray(MEDIANS[metric] * np.exp(SIGMAS[metric] * rng.standard_normal(requests)))


def make_baseline(metrics: tuple[Metric, ...] = tuple(MEDIANS), requests: int = 4000) -> Baseline:
    rng = np.random.default_rng(1)
    histograms = {}
    for metric in metrics:
        places = np.searchsorted(_BOUNDS, draw(rng, metric, requests))
        histograms[metric] = tuple(np.bincount(places, minlength=BUCKETS + 1).tolist())
    return Baseline(histograms)


def make_stage(
    metrics: tuple[Metric, ...] = tuple(MEDIANS),
    policy: Policy | None = None,
    level: float = 0.01 / 4,
    ticks: int = 1800,
    canary_workers: int = 4,
    watch: bool = False,
) -> Stage:
    baseline = make_baseline(metrics)
    policy = policy or Policy()
    return freeze_stage("simulated", policy, baseline, level, ticks, canary_workers, watch)


@dataclass
class Arms:
    """rate, control: requests per second; canary, stable: what each arm does to latencies (of the
    metric named, or of all); failing: fractions of requests that fail, (canary, control)."""

    stage: Stage
    rate: float
    control: float
    canary: Change = unchanged
    stable: Change = unchanged
    only: Metric | None = None
    failing: tuple[float, float] = (0.0, 0.0)
    seed: int = 0
    common: Change = unchanged
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def second(self, second: int) -> Iterator[LatencySecond | OutcomeSecond]:
        """Every stream of one arrival second."""
        ours, theirs = int(self.rng.poisson(self.rate)), int(self.rng.poisson(self.control))
        lags, exact = self.stage.measurement.lags, self.stage.measurement.exact
        for metric in lags:
            source = Metric.E2E if metric is Metric.DURATION else metric
            canary = self.common(second, draw(self.rng, source, ours))
            control = self.common(second, draw(self.rng, source, theirs))
            if self.only in (None, source):
                canary, control = self.canary(second, canary), self.stable(second, control)
            for lag in lags[metric]:
                values = exact.get(metric, ())
                yield LatencySecond(
                    Stream(metric, lag),
                    second,
                    count(canary, lag, values),
                    count(control, lag, values),
                )
        failed = (
            int(self.rng.binomial(ours, self.failing[0])),
            int(self.rng.binomial(theirs, self.failing[1])),
        )
        for lag in (0.0, *self.stage.measurement.outcome_lags):
            yield OutcomeSecond(
                lag,
                second,
                Outcomes(ours, failed[0] if lag else 0),
                Outcomes(theirs, failed[1] if lag else 0),
            )


def take(gate: Gate, state: GateState, second: LatencySecond | OutcomeSecond) -> GateState:
    if isinstance(second, LatencySecond):
        return gate.take_latency(state, second)
    return gate.take_outcomes(state, second)


def run(
    arms: Arms, seconds: int, *, stop: bool = True, proof: Proof | None = None
) -> tuple[Gate, GateState, int | None]:
    """Deliver ``seconds`` arrival seconds; the last number is the second of arrivals after which
    the gate would have rolled back (how long its requests took to age is not in it)."""
    gate, state = Gate(arms.stage), start_state(arms.stage, proof)
    decided = None
    for second in range(seconds):
        for part in arms.second(second):
            state = take(gate, state, part)
        if state.decided and decided is None:
            decided = second + 1
            if stop:
                break
    return gate, state, decided
