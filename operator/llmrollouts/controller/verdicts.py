"""From what was measured to the word that the state machine hears: one ``Gate`` of the stage.

    harm shown                                   Failed, and stays so for the stage
    limit broken by both                         Frozen
    source missing, stale or contradicting       Error          never a pass, never a rollback
    too few requests, unequal load, no baseline  Inconclusive   with what is missing
    else                                         Passed, with or without proof

Harm is harm whatever else is wrong; everything else is said in the order of the list. In mode
Observe the verdict is Passed and the true one stands in the message. Without the tap a pass says
NoTap, proves nothing, and each message says why. Pure; called by controller/measure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from llmrollouts.analysis.finding import Finding
from llmrollouts.analysis.judgement import Judgement, Outcome
from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import Proof, Verdict
from llmrollouts.metrics.comparison import Comparison, Conditions
from llmrollouts.metrics.load import Match
from llmrollouts.metrics.page import NoTap, PageError
from llmrollouts.metrics.port import Source
from llmrollouts.metrics.record import PlaceboResult
from llmrollouts.metrics.timeline import SILENCE, Arm
from llmrollouts.rollout.observation import LATENCY_GATE, Gate, GateNumbers, MetricNumbers

# Without a second that both arms delivered for so long, the measurement is stale.
STALE: Final = 10.0
# The fewest canary requests on which "no harm seen" means anything.
LEAST_REQUESTS: Final = 20

# Said with every verdict of workers that are read by their engine's own histograms.
WITHOUT_TAP: Final = (
    "Without the tap this is judged by the engine's own histograms: a request counts as slower "
    "only beyond the next of their coarse bounds, one that hangs or is given up is not seen, times "
    "end to end are not compared, and nothing is shown to be no worse, so no share above 5% "
    "follows by itself. To mend it run the tap: an engine image whose vLLM takes --middleware, and "
    "spec.revision.engine.tap not false"
)

_SLOWER: Final = frozenset({"ttft", "tpot", "e2e"})
_FAILING: Final = frozenset({"errors", "refusals", "connections"})


@dataclass(frozen=True, slots=True)
class Saying:
    """A verdict before it becomes a gate."""

    verdict: Verdict
    reason: str
    message: str


def error(reason: Reason, message: str) -> Saying:
    return Saying("Error", str(reason), message)


def wait(reason: Reason, message: str) -> Saying:
    return Saying("Inconclusive", str(reason), message)


def no_worker(selector: str) -> Saying:
    """Nothing was found where something must be (R24)."""
    return error(
        Reason.NO_WORKER_FOUND, f"no worker with an address was found by the labels {selector}"
    )


def unheard(whose: str, why: PageError | None) -> Saying:
    """No worker of one side gives samples."""
    if isinstance(why, NoTap):
        return wait(
            Reason.NO_TAP,
            f"{why}: latencies cannot be compared and nothing can be proven; use an engine image "
            "that can run the tap, or set spec.gates.latency.mode to Off",
        )
    return error(
        Reason.GATE_ERROR, f"no worker of {whose} gives samples" + (f": {why}" if why else "")
    )


def note_means(source: Source, placebo: PlaceboResult | None) -> tuple[str, ...]:
    """How it was measured, where a person must know. placebo: None when it was not asked for."""
    if source == "engine":
        lost = ("the placebo needs the tap and does not run",) if placebo is not None else ()
        return (WITHOUT_TAP, *lost)
    if placebo is None:
        return ()
    told = f"the same test fired in {placebo.firings} of {placebo.stages} stages"
    return (f"placebo: {told} of single stable workers",)


def word_of_proof(judgement: Judgement | None, *, reverses: bool) -> Proof:
    """After the promotion nothing is left to prove."""
    if reverses:
        return "NotNeeded"
    return "Proven" if judgement is not None and judgement.proven else "Collecting"


def judge(compared: Comparison, judgement: Judgement, conditions: Conditions, now: float) -> Saying:
    """What the running stage has shown by ``now``."""
    match judgement.outcome:
        case Outcome.ROLL_BACK:
            return Saying("Failed", str(_reason(judgement.finding)), judgement.message)
        case Outcome.FREEZE:
            return Saying("Frozen", str(Reason.OBJECTIVE_MISSED), judgement.message)
        case Outcome.GOOD:
            problem = _source_problem(compared, now) or _shortage(compared, judgement, conditions)
            if problem is not None:
                return problem
            if compared.source == "engine":
                return Saying("Passed", str(Reason.NO_TAP), judgement.message)
            if judgement.proven:
                return Saying("Passed", str(Reason.PROVEN), judgement.message)
            told = judgement.message
            if not conditions.proves_unmatched and compared.load.match is Match.IDLER:
                # In a shadow step that is as it should be, but a person wonders.
                told = f"{told.rstrip('.')}; {compared.load.describe()}, so they prove nothing"
            return Saying("Passed", str(Reason.NO_HARM), told)


def make_gate(
    said: Saying,
    stage: str,
    proof: Proof,
    numbers: GateNumbers | None = None,
    first_seen: datetime | None = None,
    detected: datetime | None = None,
    *,
    observes: bool = False,
    notes: tuple[str, ...] = (),
) -> Gate:
    """The gate as the state machine hears it."""
    message = ". ".join((said.message.rstrip("."), *notes))
    gate = Gate(
        LATENCY_GATE,
        said.verdict,
        said.reason,
        message,
        proof=proof,
        first_seen_at=first_seen,
        detected_at=detected,
        numbers=numbers,
        stage=stage,
    )
    if not observes:
        return gate
    told = "" if said.verdict == "Passed" else f"only observed, else {said.verdict}: "
    return replace(gate, verdict="Passed", message=f"{told}{message}", proof="NotNeeded")


def describe_numbers(judgement: Judgement, cut_streams: int | None) -> GateNumbers:
    """The evidence metric by metric."""
    return GateNumbers(
        canary_requests=judgement.canary_requests,
        control_requests=judgement.control_requests,
        metrics=tuple(_describe(finding) for finding in judgement.findings),
        cut_streams=cut_streams,
    )


def moment(second: int | None) -> datetime | None:
    """A tick second as a time: the reader's clock counts the seconds since 1970."""
    return None if second is None else datetime.fromtimestamp(second, UTC)


def _describe(finding: Finding) -> MetricNumbers:
    ratios = finding.ratios or {}
    banded = finding.total_canary > 0 and finding.ratios is not None
    return MetricNumbers(
        name=finding.metric,
        evidence=finding.evidence,
        needed=finding.needed,
        p50=ratios.get("p50"),
        p95=ratios.get("p95"),
        p99=ratios.get("p99"),
        ks=finding.ks if banded else None,
        ks_lower=finding.ks_lower if banded and math.isfinite(finding.ks_lower) else None,
        message=finding.message,
    )


def _reason(finding: Finding | None) -> Reason:
    metric = finding.metric if finding is not None else ""
    if metric in _SLOWER or metric.startswith("ks:"):
        return Reason.SLOWER
    return Reason.MORE_ERRORS if metric in _FAILING else Reason.OBJECTIVE_MISSED


def _source_problem(compared: Comparison, now: float) -> Saying | None:
    """Data that is missing, old or contradicts itself."""
    if compared.unanswered is not None:
        return wait(Reason.NO_TAP, compared.unanswered.describe())
    if compared.disagreement is not None:
        return error(Reason.MEASUREMENT_DISAGREES, compared.disagreement.describe())
    if not compared.control:
        return error(
            Reason.NO_WORKER_FOUND,
            "every worker of the control group is gone: nothing is left to compare with until the "
            "next step",
        )
    arms: tuple[tuple[Arm, str], ...] = (
        ("canary", "the new revision"),
        ("control", "the stable revision"),
    )
    for arm, whose in arms:
        if not compared.heard(arm, now) and now - compared.start > SILENCE:
            return unheard(whose, compared.first_failure(arm))
    since = compared.closed_at if compared.closed_at is not None else compared.start
    if now - since > STALE:
        return error(
            Reason.GATE_ERROR,
            f"no second was measured in both revisions for {now - since:.0f}s",
        )
    return None


def _shortage(compared: Comparison, judgement: Judgement, conditions: Conditions) -> Saying | None:
    """Data that is too little, or of unequal load."""
    load = compared.load
    if judgement.canary_requests < LEAST_REQUESTS:
        need = LEAST_REQUESTS - judgement.canary_requests
        rate = load.canary * len(compared.canary)
        soon = (
            f"about {math.ceil(need / rate)}s at this rate ({rate:.1f}/s)"
            if rate > 0
            else "and none has come lately"
        )
        return wait(Reason.TOO_FEW_SAMPLES, f"needs {need} more requests of the canary, {soon}")
    if conditions.matches_load and load.match in (Match.BUSIER, Match.IDLER):
        told = load.describe()
        if load.match is Match.BUSIER:
            told += (
                ". More workers make them equal: raise spec.strategy.maxExtraReplicas; with "
                "matchLoad: false such a step compares failures only"
            )
        return wait(Reason.LOAD_NOT_MATCHED, told)
    return None
