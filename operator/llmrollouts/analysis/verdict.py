"""From the gate's state to its judgement: which metric decided, what it found, what is missing.

Reads the state only; everything that latches (a decision, an accepted proof) was written when its
second was taken in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

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
from llmrollouts.analysis.judgement import Judgement, Outcome, ProofLine
from llmrollouts.analysis.ksband import ks_excess, ks_gap
from llmrollouts.analysis.ledger import GateState
from llmrollouts.analysis.proof import PROOF_NAMES, proof_key
from llmrollouts.analysis.stage import Stage
from llmrollouts.analysis.wording import (
    describe_band,
    describe_evidence,
    describe_latency,
    describe_limit,
    describe_outcomes,
    describe_proof,
    name_metric,
)

# A metric of which neither arm had a request while another had so many in each is not used.
MANY_REQUESTS: Final = 200
_EMPTY: Final = Cell(0, 0, 0, 0)


def make_judgement(
    stage: Stage,
    levels: Mapping[str, float],
    tests: Mapping[str, MetricRuns],
    state: GateState,
) -> Judgement:
    findings = [_find(stage, levels, metric, runs, state) for metric, runs in tests.items()]
    findings += [
        _find_band(stage, metric, levels, state)
        for metric in stage.thresholds
        if band_name(metric) in state.decided
    ]
    left_out = find_unused(stage, state)
    proof = _read_proof(stage, state, left_out)
    required = [line for line in proof if not line.left_out]
    proven = bool(required) and all(line.accepted for line in required)
    decisive = min(
        (finding for finding in findings if finding.decided is not None),
        key=lambda finding: (finding.decided, finding.needed / max(finding.evidence, 1e-300)),
        default=None,
    )
    frozen = next((f for f in findings if _breaks_limit(f.metric, levels, tests, state)), None)
    outcome = Outcome.GOOD
    if decisive is not None:
        outcome = Outcome.ROLL_BACK
    elif frozen is not None:
        outcome, decisive = Outcome.FREEZE, frozen
    seen = [cell for cells in state.totals.values() for cell in cells]
    canary = max((cell.canary_total for cell in seen), default=0)
    control = max((cell.stable_total for cell in seen), default=0)
    return Judgement(
        outcome=outcome,
        finding=decisive,
        findings=tuple(findings),
        proven=proven,
        proof=proof,
        canary_requests=canary,
        control_requests=control,
        seconds=max((run.wealth.ticks for run in state.runs.values()), default=0),
        first_seen=decisive.first_seen if decisive is not None else None,
        decided=decisive.decided if decisive is not None else None,
        left_out=left_out,
        message=_sum_up(stage, outcome, decisive, proof, left_out, (canary, control)),
    )


def find_unused(stage: Stage, state: GateState) -> tuple[str, ...]:
    """Metrics without a request in either arm, while another had many in both."""
    most: dict[str, tuple[int, int]] = {}
    for metric in stage.thresholds:
        cells = state.totals.get(metric.value, ())
        most[metric.value] = (
            max((cell.canary_total for cell in cells), default=0),
            max((cell.stable_total for cell in cells), default=0),
        )
    if not any(min(counts) >= MANY_REQUESTS for counts in most.values()):
        return ()
    return tuple(name for name, counts in most.items() if counts == (0, 0))


def _breaks_limit(
    metric: str, levels: Mapping[str, float], tests: Mapping[str, MetricRuns], state: GateState
) -> bool:
    """A hard limit is broken now, whatever stable does."""
    runs = tests.get(metric)
    if runs is None or not runs.all_of:
        return False
    return state.runs[runs.runs[0]].log_e >= -math.log(levels[metric])


def _find(
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
    cell = spoken.cells[number] if spoken.cells else _EMPTY
    bounds = BOUNDS[places.canary_bounds[number]], BOUNDS[places.control_bounds[number]]
    histogram = state.histograms.get(metric.value)
    ratios = compare_quantiles(histogram, max(places.lags)) if histogram is not None else None
    unanswered = find_unanswered(histogram) if histogram is not None else frozenset()
    text = describe_latency(_name(stage, metric.value), cell, bounds, ratios, unanswered)
    lower = max(-1.0, ks_excess(spoken.cells, levels[band_name(metric)]))
    return _Speech(cell, f"{text}; {spoken.evidence}", bounds, ratios, lower)


def _speak_of_outcomes(spoken: _Spoken) -> _Speech:
    late = spoken.run == LATE_ERRORS and len(spoken.cells) > 1
    cell = spoken.cells[1 if late else 0] if spoken.cells else _EMPTY
    return _Speech(cell, f"{describe_outcomes(spoken.metric, cell)}; {spoken.evidence}")


def _speak_of_limit(
    stage: Stage, spoken: _Spoken, runs: MetricRuns, level: float, state: GateState
) -> _Speech:
    cell = spoken.cells[0] if spoken.cells else _EMPTY
    limit, allowed = _limit_of(stage, spoken.metric)
    broken, worse = (describe_evidence(state.runs[run].log_e, level) for run in runs.runs)
    text = describe_limit(spoken.metric, limit, allowed, cell)
    return _Speech(cell, f"{text}; that it is broken: {broken}; that stable is better: {worse}")


def _find_band(
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
            _name(stage, metric.value), gap, cell.canary_total, cell.stable_total
        ),
    )


def _read_proof(stage: Stage, state: GateState, left_out: tuple[str, ...]) -> tuple[ProofLine, ...]:
    """Every test of the promotion proof, over the whole attempt."""
    needed = 1 / stage.policy.beta
    lines = []
    for metric, places in stage.thresholds.items():
        for quantile in range(len(places.promotion)):
            key = proof_key(metric, quantile)
            evidence, requests = state.proof.evidence(key), state.proof.requests.get(key, 0)
            accepted = state.proof.accepted(key)
            growth = math.log(evidence) / requests if requests and evidence > 0 else 0.0
            more = None
            if growth > 0 and not accepted:
                more = math.ceil(max(1.0, math.log(needed / evidence) / growth))
            lines.append(
                ProofLine(
                    metric=metric.value,
                    quantile=PROOF_NAMES[quantile],
                    evidence=evidence,
                    needed=needed,
                    accepted=accepted,
                    requests=requests,
                    more=more,
                    left_out=metric.value in left_out,
                )
            )
    return tuple(lines)


def _sum_up(
    stage: Stage,
    outcome: Outcome,
    decisive: Finding | None,
    proof: tuple[ProofLine, ...],
    left_out: tuple[str, ...],
    requests: tuple[int, int],
) -> str:
    names = {metric.value: _name(stage, metric.value) for metric in stage.thresholds}
    if decisive is not None and outcome is Outcome.ROLL_BACK:
        return f"The canary is worse than stable. {_capital(decisive.message)}."
    if decisive is not None:
        return (
            "A limit is broken, and the canary is not shown to be worse than stable: going back "
            f"would not help. {_capital(decisive.message)}."
        )
    if not requests[0]:
        return "The canary has not answered any request yet: nothing can be said."
    text = f"No harm was seen in {requests[0]:,} canary and {requests[1]:,} control requests"
    if proof:
        text += f"; {describe_proof(proof, names)}"
    if left_out:
        text += f"; not compared, for want of any request: {', '.join(names[m] for m in left_out)}"
    return text + "."


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


def _name(stage: Stage, metric: str) -> str:
    return name_metric(metric, stage.measurement.reference_tokens)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _finite(log_e: float) -> float:
    return math.exp(min(log_e, 700.0))
