"""From the gate's state to its judgement: which metric decided, what it found, what is missing.

Reads the state only; everything that latches (a decision, an accepted proof) was written when its
second was taken in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmrollouts.analysis.finding import Finding
from llmrollouts.analysis.findings import find_band, find_metric, name_in
from llmrollouts.analysis.gateplan import ERROR_LIMIT, MetricRuns, band_name
from llmrollouts.analysis.judgement import Judgement, Outcome, ProofLine
from llmrollouts.analysis.ledger import GateState
from llmrollouts.analysis.proof import PROOF_NAMES, proof_key
from llmrollouts.analysis.stage import Stage
from llmrollouts.analysis.thresholds import COMPARED
from llmrollouts.analysis.tick import MIN_CANARY_REQUESTS
from llmrollouts.analysis.wording import describe_proof

# A metric of which neither arm had a request while another had so many in each is not used.
MANY_REQUESTS: Final = 200


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a stage stands, without a word: what a ``Judgement`` of the same state says too.
    canary_requests: of the metric that most canary requests speak of."""

    outcome: Outcome
    proven: bool
    canary_requests: int


def read_standing(
    stage: Stage,
    levels: Mapping[str, float],
    tests: Mapping[str, MetricRuns],
    state: GateState,
) -> Standing:
    left_out = find_unused(stage, state)
    required = [
        proof_key(metric, quantile)
        for metric, places in stage.thresholds.items()
        if metric.value not in left_out
        for quantile in range(len(places.promotion))
    ]
    outcome = Outcome.GOOD
    if state.decided:
        outcome = Outcome.ROLL_BACK
    elif any(_breaks_limit(metric, levels, tests, state) for metric in tests):
        outcome = Outcome.FREEZE
    seen = (cell.canary_total for cells in state.totals.values() for cell in cells)
    proven = bool(required) and all(state.proof.accepted(key) for key in required)
    return Standing(outcome, proven, max(seen, default=0))


def make_judgement(
    stage: Stage,
    levels: Mapping[str, float],
    tests: Mapping[str, MetricRuns],
    state: GateState,
) -> Judgement:
    findings = [find_metric(stage, levels, metric, runs, state) for metric, runs in tests.items()]
    findings += [
        find_band(stage, metric, levels, state)
        for metric in stage.thresholds
        if band_name(metric) in state.decided
    ]
    left_out = find_unused(stage, state)
    proof = _read_proof(stage, state, left_out)
    standing = read_standing(stage, levels, tests, state)
    outcome = standing.outcome
    decisive = min(
        (finding for finding in findings if finding.decided is not None),
        key=lambda finding: (finding.decided, finding.needed / max(finding.evidence, 1e-300)),
        default=None,
    )
    if outcome is Outcome.FREEZE:
        decisive = next(f for f in findings if _breaks_limit(f.metric, levels, tests, state))
    canary = standing.canary_requests
    seen = (cell.stable_total for cells in state.totals.values() for cell in cells)
    control = max(seen, default=0)
    seconds = max((run.wealth.ticks for run in state.runs.values()), default=0)
    return Judgement(
        outcome=outcome,
        finding=decisive,
        findings=tuple(findings),
        proven=standing.proven,
        proof=proof,
        canary_requests=canary,
        control_requests=control,
        seconds=seconds,
        first_seen=decisive.first_seen if decisive is not None else None,
        decided=decisive.decided if decisive is not None else None,
        left_out=left_out,
        message=_sum_up(stage, outcome, decisive, proof, left_out, (canary, control), seconds),
    )


def find_unused(stage: Stage, state: GateState) -> tuple[str, ...]:
    """Metrics that cannot be compared: stable had too few such requests before the stage, or
    neither arm had one while another metric had many in both."""
    absent = tuple(metric.value for metric in COMPARED if metric not in stage.thresholds)
    most: dict[str, tuple[int, int]] = {}
    for metric in stage.thresholds:
        cells = state.totals.get(metric.value, ())
        most[metric.value] = (
            max((cell.canary_total for cell in cells), default=0),
            max((cell.stable_total for cell in cells), default=0),
        )
    if not any(min(counts) >= MANY_REQUESTS for counts in most.values()):
        return absent
    return absent + tuple(name for name, counts in most.items() if counts == (0, 0))


def _breaks_limit(
    metric: str, levels: Mapping[str, float], tests: Mapping[str, MetricRuns], state: GateState
) -> bool:
    """A hard limit is broken now, whatever stable does."""
    runs = tests.get(metric)
    if runs is None or not runs.all_of:
        return False
    seen = max((cell.canary_total for cell in state.totals.get(metric, ())), default=0)
    enough = metric == ERROR_LIMIT or seen >= MIN_CANARY_REQUESTS
    return enough and state.runs[runs.runs[0]].log_e >= -math.log(levels[metric])


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
    seconds: int,
) -> str:
    names = {metric.value: name_in(stage, metric.value) for metric in COMPARED}
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
        text += f"; {describe_proof(proof, names, requests[0] / max(1, seconds))}"
    if left_out:
        text += (
            f"; not compared, for want of such requests: {', '.join(names[m] for m in left_out)}"
        )
    return text + "."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
