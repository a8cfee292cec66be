"""Which tests read which stream: a stage's e-processes, limits and proofs, laid out once.

Built when a ``Gate`` is made. Decides how the stage's level is split; never looks at counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from llmrollouts.analysis.ages import LATE_LAG
from llmrollouts.analysis.budget import split_over_metrics
from llmrollouts.analysis.counts import Metric, Stream
from llmrollouts.analysis.eprocess import (
    ERROR_BETS,
    ERROR_CAP,
    LATENCY_BETS,
    LIMIT_BETS,
    QUANTILES,
    Bet,
    EProcess,
)
from llmrollouts.analysis.grid import GROWTH, bucket_of
from llmrollouts.analysis.histogram import Ranks
from llmrollouts.analysis.ledger import Run
from llmrollouts.analysis.limit import AbsoluteLimit
from llmrollouts.analysis.noninferiority import PROMOTION_QUANTILES
from llmrollouts.analysis.proof import proof_key
from llmrollouts.analysis.stage import Stage
from llmrollouts.analysis.standout import odds_of
from llmrollouts.analysis.thresholds import COMPARED, bound_below, limit_lag

LATE_WEIGHT: Final = 0.1  # of the restarts, for a stage that is held past its planned end
ENOUGH_TO_FOLLOW: Final = 500  # requests of stable before its own quantiles of the stage count
GATEWAY_LAG: Final = 0.0  # the gateway's own counts: an attempt to connect has no age
ERRORS, REFUSALS, CONNECTIONS = "errors", "refusals", "connections"
ERROR_LIMIT: Final = "errorRate"
LATE_ERRORS: Final = f"{ERRORS}:{LATE_LAG:g}"
ALLOWED_OF_P99: Final = 0.01
LIMIT_NAMES: Final = {
    Metric.TTFT: "ttftP99",
    Metric.TPOT: "tpotP99",
    Metric.DURATION: "e2eP99",
}
# How a stage's level is split. What users feel gets the most; refusals and connections usually
# show in latency or errors too; a hard limit needs two tests at once and fires far later than the
# relative test beside it; the Kolmogorov-Smirnov band is a slow second opinion on the same counts.
_WEIGHTS: Final = {ERRORS: 4.0, REFUSALS: 1.0, CONNECTIONS: 1.0}
_LATENCY_WEIGHT: Final = 4.0
_LIMIT_WEIGHT: Final = 1.0
_BAND_WEIGHT: Final = 0.2


def band_name(metric: Metric) -> str:
    return f"ks:{metric.value}"


@dataclass(frozen=True)
class Process:
    """One e-process. run: its name; metric: the finding it serves; log_weight: ln of its share of
    the finding's level; thresholds: the places, among the finding's thresholds, that it reads."""

    run: str
    metric: str
    rule: EProcess
    log_weight: float
    thresholds: tuple[int, ...]


@dataclass(frozen=True)
class Limit:
    """A hard limit: both tests must reach the level. ``exact``: its place among the exact values;
    ``bound``: the bucket that stands in where nothing was counted exactly. Neither for errors."""

    metric: str
    absolute: AbsoluteLimit
    relative: EProcess
    exact: int = 0
    bound: int = 0

    @property
    def runs(self) -> tuple[str, str]:
        return f"{self.metric}:absolute", f"{self.metric}:relative"


@dataclass(frozen=True)
class ProofPlace:
    """One test of the promotion proof: places of x and of margin times x among the exact values,
    and the buckets that stand in for them (the canary's rounded down, so against it). quantile: of
    stable, at which x lay when the stage began; shift: the margin in whole buckets, rounded down.
    """

    key: str
    exact: int
    canary_exact: int
    bound: int
    canary_bound: int
    quantile: float
    shift: int

    def follow(self, control: Ranks) -> ProofPlace | None:
        """Where to look instead, by what stable has done in this stage so far; None: here.

        Stable that has become faster no longer exceeds x, and nothing could ever be shown there.
        The choice looks at earlier seconds of stable alone, so the proof stays one.
        """
        if control.requests < ENOUGH_TO_FOLLOW:
            return None
        bound = control.bucket_at(self.quantile)
        if bound >= self.bound:
            return None
        return replace(self, exact=-1, bound=bound, canary_bound=bound + self.shift)


@dataclass(frozen=True)
class LatencyPlan:
    """What one latency stream feeds. bounds, canary_bounds: of all thresholds of the metric;
    draws: whether this stream's counts are the ones that reports show; key: the stream's name;
    asks: the thresholds of all processes, one after the other; bets: ln omega of these, and of the
    limits; odds: of these, for a worker to stand out."""

    metric: Metric
    bounds: tuple[int, ...]
    canary_bounds: tuple[int, ...]
    processes: tuple[Process, ...]
    proofs: tuple[ProofPlace, ...]
    limits: tuple[Limit, ...]
    draws: bool
    notes: bool
    key: str
    name: str = field(init=False)
    asks: tuple[int, ...] = field(init=False)
    bets: tuple[tuple[float, ...], ...] = field(init=False)
    odds: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        bets = [logs for process in self.processes for _, _, logs in process.rule.groups]
        bets += [limit.relative.groups[0][2] for limit in self.limits]
        asks = tuple(number for process in self.processes for number in process.thresholds)
        object.__setattr__(self, "name", self.metric.value)
        object.__setattr__(self, "asks", asks)
        object.__setattr__(self, "bets", tuple(bets))
        object.__setattr__(self, "odds", tuple(odds_of(QUANTILES[number]) for number in asks))


@dataclass(frozen=True)
class OutcomePlan:
    """What one stream of outcomes feeds. limits: errorRate, judged on what failed."""

    key: str
    processes: tuple[Process, ...]
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class MetricRuns:
    """The e-processes behind one metric; ``all_of``: a hard limit, which needs both."""

    runs: tuple[str, ...]
    all_of: bool

    def log_e(self, runs: Mapping[str, Run]) -> float:
        """ln E of the metric now."""
        values = [runs[name].log_e for name in self.runs]
        return min(values) if self.all_of else max(values)

    def peak(self, runs: Mapping[str, Run]) -> float:
        """The most that ln E was; for a hard limit no less than that."""
        values = [runs[name].peak for name in self.runs]
        return min(values) if self.all_of else max(values)

    def loudest(self, runs: Mapping[str, Run]) -> str:
        """The e-process that tells most: of a limit, the comparison with stable."""
        if self.all_of:
            return self.runs[-1]
        return max(self.runs, key=lambda name: runs[name].log_e)


def group_runs(plans: Iterable[LatencyPlan | OutcomePlan]) -> Mapping[str, MetricRuns]:
    """By metric, in the order of reports: latencies, outcomes, limits."""
    single: dict[str, list[str]] = {}
    limits: dict[str, MetricRuns] = {}
    for plan in plans:
        for process in plan.processes:
            single.setdefault(process.metric, []).append(process.run)
        for limit in plan.limits:
            limits[limit.metric] = MetricRuns(limit.runs, all_of=True)
    order = (*(metric.value for metric in COMPARED), ERRORS, REFUSALS, CONNECTIONS)
    return {
        **{name: MetricRuns(tuple(single[name]), all_of=False) for name in order if name in single},
        **limits,
    }


def split_level(stage: Stage) -> Mapping[str, float]:
    """The level of every metric that can roll this stage back; together the stage's."""
    weights = dict(_WEIGHTS)
    for metric in stage.thresholds:
        weights[metric.value] = _LATENCY_WEIGHT
        weights[band_name(metric)] = _BAND_WEIGHT
    weights |= {LIMIT_NAMES[metric]: _LIMIT_WEIGHT for metric in stage.policy.limits}
    if stage.policy.error_limit is not None:
        weights[ERROR_LIMIT] = _LIMIT_WEIGHT
    return split_over_metrics(stage.level, weights)


def plan_latency(stage: Stage) -> Mapping[Stream, LatencyPlan]:
    return {stream: _plan_stream(stage, stream) for stream in stage.streams}


def plan_outcomes(stage: Stage) -> Mapping[float, OutcomePlan]:
    """By lag. Failures are read early and late, with half of their level each."""
    limits: tuple[Limit, ...] = ()
    allowed = stage.policy.error_limit
    if allowed is not None:
        limits = (
            Limit(
                ERROR_LIMIT,
                AbsoluteLimit(allowed, stage.ticks, late_weight=LATE_WEIGHT),
                _errors(stage),
            ),
        )
    half, quick = math.log(0.5), stage.quick_lag
    return {
        quick: OutcomePlan(
            f"outcomes@{quick:g}",
            (
                Process(f"{ERRORS}:{quick:g}", ERRORS, _errors(stage), half, (0,)),
                Process(REFUSALS, REFUSALS, _errors(stage), 0.0, (0,)),
            ),
        ),
        LATE_LAG: OutcomePlan(
            f"outcomes@{LATE_LAG:g}",
            (Process(LATE_ERRORS, ERRORS, _errors(stage), half, (1,)),),
            limits,
        ),
        GATEWAY_LAG: OutcomePlan(
            f"outcomes@{GATEWAY_LAG:g}",
            (Process(CONNECTIONS, CONNECTIONS, _errors(stage), 0.0, (0,)),),
        ),
    }


def _errors(stage: Stage) -> EProcess:
    return EProcess(ERROR_BETS, stage.ticks, cap=ERROR_CAP, late_weight=LATE_WEIGHT)


def _plan_stream(stage: Stage, stream: Stream) -> LatencyPlan:
    metric, lag = stream.metric, stream.lag
    key = f"{metric.value}@{lag:g}"
    places = stage.thresholds.get(metric)
    limit = stage.policy.limits.get(metric)
    limits: tuple[Limit, ...] = ()
    exact = stage.measurement.exact.get(metric, ())
    if limit is not None and limit_lag(metric, limit, stage.thresholds) == lag:
        absolute = AbsoluteLimit(ALLOWED_OF_P99, stage.ticks, late_weight=LATE_WEIGHT)
        relative = EProcess(LIMIT_BETS, stage.ticks, late_weight=LATE_WEIGHT)
        at, bound = exact.index(limit), bucket_of(limit)
        limits = (Limit(LIMIT_NAMES[metric], absolute, relative, at, bound),)
    if places is None:
        return LatencyPlan(metric, (), (), (), (), limits, draws=False, notes=False, key=key)
    margin = stage.policy.promotion_margin
    proofs = tuple(
        ProofPlace(
            proof_key(metric, quantile),
            exact.index(x),
            exact.index(margin * x),
            bucket_of(x),
            bound_below(margin * x),
            PROMOTION_QUANTILES[quantile],
            math.floor(math.log(margin) / math.log(GROWTH) + 1e-9),
        )
        for quantile, (x, at) in enumerate(zip(places.promotion, places.proof_lags, strict=True))
        if at == lag
    )
    here = tuple(number for number, at in enumerate(places.lags) if at == lag)
    return LatencyPlan(
        metric,
        places.control_bounds,
        places.canary_bounds,
        _processes(stage, metric, here),
        proofs,
        limits,
        draws=lag == max(places.lags),
        notes=lag == min(places.lags),
        key=key,
    )


def _processes(stage: Stage, metric: Metric, here: tuple[int, ...]) -> tuple[Process, ...]:
    """One e-process over all thresholds; for E2E one each, because each has a clock of its own."""
    # Of several workers, one that stalls stands out and is left out (``standout``).
    forgives = stage.canary_workers == 1 and not stage.reversed
    if metric is not Metric.E2E:
        if not here:
            return ()
        rule = EProcess(LATENCY_BETS, stage.ticks, late_weight=LATE_WEIGHT, forgives=forgives)
        return (Process(metric.value, metric.value, rule, 0.0, tuple(range(len(QUANTILES)))),)
    processes = []
    for number in here:
        bets = tuple(Bet(0, bet.omega) for bet in LATENCY_BETS if bet.threshold == number)
        rule = EProcess(bets, stage.ticks, late_weight=LATE_WEIGHT, forgives=forgives)
        weight = math.log(len(bets) / len(LATENCY_BETS))
        run = f"{metric.value}:{number}"
        processes.append(Process(run, metric.value, rule, weight, (number,)))
    return tuple(processes)
