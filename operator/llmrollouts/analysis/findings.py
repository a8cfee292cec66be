"""One metric of a stage so far, put into numbers and a sentence. Reads the state only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.eprocess import LATENCY_BETS, QUANTILES
from llmrollouts.analysis.evalue import Cell
from llmrollouts.analysis.finding import Finding
from llmrollouts.analysis.gateplan import (
    ALLOWED_OF_P99,
    ERROR_LIMIT,
    LATE_ERRORS,
    LIMIT_NAMES,
    MetricRuns,
    band_name,
)
from llmrollouts.analysis.grid import BOUNDS
from llmrollouts.analysis.histogram import compare_quantiles, find_unanswered
from llmrollouts.analysis.ksband import ks_excess, ks_gap
from llmrollouts.analysis.ledger import GateState
from llmrollouts.analysis.stage import Stage
from llmrollouts.analysis.tick import EMPTY
from llmrollouts.analysis.wording import (
    describe_band,
    describe_evidence,
    describe_latency,
    describe_limit,
    describe_outcomes,
    name_metric,
)


def find_metric(
    stage: Stage, levels: Mapping[str, float], metric: str, runs: MetricRuns, state: GateState
) -> Finding:
    """One metric so far, whichever its kind."""
    log_e, level = runs.log_e(state.runs), levels[metric]
    cells = state.totals.get(metric, ())
    spoken = _Spoken(metric, runs.loudest(state.runs), cells, describe_evidence(log_e, level))
    if runs.all_of:
        speech = _speak_of_limit(stage, spoken, runs, level, state)
    elif metric in stage.thresholds:
        speech = _speak_of_latency(stage, spoken, levels, state)
    else:
        speech = _speak_of_outcomes(spoken)
    cell = speech.cell
    return Finding(
        metric=metric,
        evidence=_finite(log_e),
        needed=1 / level,
        over_canary=cell.canary_over,
        total_canary=cell.canary_total,
        over_control=cell.stable_over,
        total_control=cell.stable_total,
        canary_bound=speech.bounds[0] if speech.bounds else None,
        control_bound=speech.bounds[1] if speech.bounds else None,
        ratios=speech.ratios,
        ks=ks_gap(cells),
        ks_lower=speech.ks_lower,
        p_value=min(1.0, math.exp(-runs.peak(state.runs))),
        first_seen=state.runs[spoken.run].rising,
        decided=state.decided.get(metric),
        message=speech.text,
    )


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A metric to speak of: its loudest e-process, its counts, its evidence in words."""

    metric: str
    run: str
    cells: tuple[Cell, ...]
    evidence: str


@dataclass(frozen=True, slots=True)
class _Speech:
    cell: Cell
    text: str
    bounds: tuple[float, float] | None = None
    ratios: Mapping[str, float] | None = None
    ks_lower: float = -1.0


def _speak_of_latency(
    stage: Stage, spoken: _Spoken, levels: Mapping[str, float], state: GateState
) -> _Speech:
    metric = Metric(spoken.metric)
    places = stage.thresholds[metric]
    number = _loudest_threshold(spoken.run, state)
    # A threshold that is read at a later age may have no second yet.
    cell = spoken.cells[number] if number < len(spoken.cells) else EMPTY
    bounds = BOUNDS[places.canary_bounds[number]], BOUNDS[places.control_bounds[number]]
    histogram = state.histograms.get(metric.value)
    ratios = compare_quantiles(histogram, max(places.lags)) if histogram is not None else None
    unanswered = find_unanswered(histogram) if histogram is not None else frozenset()
    if metric is Metric.TPOT and ratios is not None:
        # The age of a request without tokens bounds no time per token from below.
        ratios = {name: ratio for name, ratio in ratios.items() if name not in unanswered}
        unanswered = frozenset()
    text = describe_latency(name_in(stage, metric.value), cell, bounds, ratios, unanswered)
    lower = max(-1.0, ks_excess(spoken.cells, levels[band_name(metric)]))
    return _Speech(cell, f"{text}; {spoken.evidence}", bounds, ratios, lower)


def _speak_of_outcomes(spoken: _Spoken) -> _Speech:
    late = spoken.run == LATE_ERRORS and len(spoken.cells) > 1
    cell = spoken.cells[1 if late else 0] if spoken.cells else EMPTY
    return _Speech(cell, f"{describe_outcomes(spoken.metric, cell)}; {spoken.evidence}")


def _speak_of_limit(
    stage: Stage, spoken: _Spoken, runs: MetricRuns, level: float, state: GateState
) -> _Speech:
    cell = spoken.cells[0] if spoken.cells else EMPTY
    limit, allowed = _limit_of(stage, spoken.metric)
    broken, worse = (describe_evidence(state.runs[run].log_e, level) for run in runs.runs)
    text = describe_limit(spoken.metric, limit, allowed, cell)
    return _Speech(cell, f"{text}; that it is broken: {broken}; that stable is better: {worse}")


def find_band(
    stage: Stage, metric: Metric, levels: Mapping[str, float], state: GateState
) -> Finding:
    """The Kolmogorov-Smirnov band decided: its two bands lay apart at its level."""
    name = band_name(metric)
    cells = state.totals[metric.value]
    places = stage.thresholds[metric]
    number = max(range(len(cells)), key=lambda place: ks_excess(cells[place : place + 1], 0.05))
    cell, level = cells[number], levels[name]
    gap = ks_gap(cells)
    return Finding(
        metric=name,
        evidence=1 / level,
        needed=1 / level,
        over_canary=cell.canary_over,
        total_canary=cell.canary_total,
        over_control=cell.stable_over,
        total_control=cell.stable_total,
        canary_bound=BOUNDS[places.canary_bounds[number]],
        control_bound=BOUNDS[places.control_bounds[number]],
        ratios=None,
        ks=gap,
        ks_lower=max(-1.0, ks_excess(cells, level)),
        p_value=level,
        first_seen=min(
            (s for s in (_rising(metric, state),) if s is not None), default=state.decided[name]
        ),
        decided=state.decided[name],
        message=describe_band(
            name_in(stage, metric.value), gap, cell.canary_total, cell.stable_total
        ),
    )


def _limit_of(stage: Stage, metric: str) -> tuple[float, float]:
    """(the limit in seconds, the fraction that may exceed it)."""
    if metric == ERROR_LIMIT:
        return 0.0, stage.policy.error_limit or 0.0
    limits = stage.policy.limits
    return next(limits[m] for m, name in LIMIT_NAMES.items() if name == metric), ALLOWED_OF_P99


def _loudest_threshold(run: str, state: GateState) -> int:
    """Of E2E the run's own threshold; else the one whose bets have won most; p95 when none has."""
    _, _, number = run.partition(":")
    if number:
        return int(number)
    if state.runs[run].log_e <= 0:
        return QUANTILES.index(0.95)
    wealth = state.runs[run].wealth.wealth
    won: dict[int, list[float]] = {}
    for bet, value in zip(LATENCY_BETS, wealth, strict=True):
        won.setdefault(bet.threshold, []).append(value)
    return max(won, key=lambda place: sum(won[place]) / len(won[place]))


def _rising(metric: Metric, state: GateState) -> int | None:
    runs = [run for name, run in state.runs.items() if name.partition(":")[0] == metric.value]
    return max(runs, key=lambda run: run.log_e).rising


def name_in(stage: Stage, metric: str) -> str:
    return name_metric(metric, stage.measurement.reference_tokens)


def _finite(log_e: float) -> float:
    return math.exp(min(log_e, 700.0))
