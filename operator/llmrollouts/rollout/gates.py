"""What the gates say of the revision that is tried, and what follows from it.

A gate is any check of the new revision that yields a verdict (analysis/ and metrics/ make them; the
controller puts them into the observation). The rules, whatever the gate:

Failed        rolls back and rejects, in every stage, at once
Frozen        holds for a person: a limit is broken, but stable breaks it too; never a rollback
Inconclusive, no answer, NaN, too few samples, stale: the step waits until its deadline and never
Error         passes on it (R05, R08, R11)
Passed        no harm seen. Enough for shares up to 5 %; a step before a larger share and the last
              one also wait until the gate has *shown* the revision to be no worse (proof)

A gate that the spec asks for and that says nothing is Inconclusive. A verdict on another stage than
the running one is not heard. A gate in mode Observe is reported and decides nothing.
Called by plan() and by the checks of steps; never measures anything.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import Share
from llmrollouts.api.status import GateMetric, GateStatus, LLMDeploymentStatus
from llmrollouts.rollout.attempt import tried
from llmrollouts.rollout.checks import REASONS, Objection
from llmrollouts.rollout.clock import COMMIT_EVERY
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts, read_share
from llmrollouts.rollout.observation import LATENCY_GATE, Gate, MetricNumbers
from llmrollouts.rollout.reach import show_reach, warn_of_blind_step

# Up to here it is enough that no harm was seen; beyond, the revision must be shown no worse.
UNPROVEN_SHARE: Final = Share.parse("5%")
PROMETHEUS_PREFIX: Final = "prometheus/"


def heard(status: LLMDeploymentStatus, facts: Facts) -> tuple[Gate, ...]:
    """What each gate says of the running stage; a silent one that must speak is Inconclusive."""
    if tried(status) is None:
        return ()
    stage = status.attempt.stage if status.attempt is not None else ""
    mode = facts.spec.gates.latency.mode
    spoken = tuple(
        gate
        for gate in facts.observation.gates
        if gate.stage in ("", stage) and not (gate.name == LATENCY_GATE and mode == "Off")
    )
    names = {gate.name for gate in spoken}
    return (*spoken, *(_silent(name) for name in _expected(facts) if name not in names))


def deciding(status: LLMDeploymentStatus, facts: Facts) -> tuple[Gate, ...]:
    """The gates whose verdicts count."""
    observed = facts.spec.gates.latency.mode == "Observe"
    return tuple(
        gate for gate in heard(status, facts) if not (observed and gate.name == LATENCY_GATE)
    )


def failed_gate(status: LLMDeploymentStatus, facts: Facts) -> Gate | None:
    return next((gate for gate in deciding(status, facts) if gate.verdict == "Failed"), None)


def frozen_gate(status: LLMDeploymentStatus, facts: Facts) -> Gate | None:
    return next((gate for gate in deciding(status, facts) if gate.verdict == "Frozen"), None)


def describe(gate: Gate) -> str:
    return f"gate {gate.name}: {gate.verdict}, {gate.reason}: {gate.message}"


def gates_pass(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    """The objection of the first gate that does not say Passed."""
    for gate in deciding(status, facts):
        told = describe(_as_told(gate, status))
        match gate.verdict:
            case "Passed":
                continue
            case "Failed":
                return Objection(Reason.GATE_FAILED, told)
            case "Frozen":
                return Objection(Reason.GATE_FROZEN, told, evidence=True)
            case "Inconclusive":
                reason = REASONS.get(gate.reason, Reason.GATE_INCONCLUSIVE)
                return Objection(reason, told, evidence=True)
            case "Error":
                return Objection(Reason.GATE_ERROR, told, evidence=True)
    return None


def is_proven(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    """Before a share above 5 % and before the promotion: the gates that prove have done so."""
    step = status.step
    if step is None:
        return None
    following = facts.steps[step.index + 1 : step.index + 2]
    if following and (following[0].kind == "Shadow" or following[0].share <= UNPROVEN_SHARE):
        return None
    return _unproven(status, facts)


def begins_small(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    """A rollout whose very first step is above 5 % begins with 5 %: nothing was shown before it."""
    step = status.step
    if step is None or step.index != 0 or step.kind != "Canary" or status.promotion is not None:
        return None
    if facts.steps[:1] and facts.steps[0].share <= UNPROVEN_SHARE:
        return None
    why = _unproven(status, facts)
    if why is None:
        return None
    return replace(why, message=f"begins with {UNPROVEN_SHARE}: {why.message}")


def is_compared(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    """Before the first users: a canary that is compared with nothing yet gets none.

    A comparison begins within seconds where users are many, and later where they are few; a fault
    in between would be found late. A canary step that a person passed by hand lets users on.
    """
    step = status.step
    if step is None or step.kind != "Canary" or status.promotion is not None:
        return None
    if read_share(status.share) or any(s.kind == "Canary" for s in facts.steps[: step.index]):
        return None
    for gate in deciding(status, facts):
        blind = gate.verdict in ("Inconclusive", "Error") and gate.numbers is None
        if gate.name == LATENCY_GATE and blind:
            return Objection(
                REASONS.get(gate.reason, Reason.GATE_INCONCLUSIVE),
                f"no user meets {status.canary_revision} before it is compared: "
                f"{describe(_as_told(gate, status))}",
                evidence=True,
            )
    return None


def describe_gates(status: LLMDeploymentStatus, facts: Facts) -> str | None:
    """What the first gate that is not content waits for, in one sentence; None when all are."""
    why = gates_pass(status, facts) or is_proven(status, facts)
    return why.message if why is not None else None


def note_gates(draft: Draft, facts: Facts, *, commits: bool) -> Draft:
    """What the gates say goes into the status: at once when a verdict or a proof changes, else
    every ten seconds, or when the status is written anyway (``commits``).

    After the rollout the last word stays, as the evidence of what was decided.
    """
    status = draft.status
    if tried(status) is None:
        return draft
    old = {told.name: told for told in status.gates}
    spoken = heard(status, facts)
    made = [_tell(gate, old.get(gate.name), facts.now) for gate in spoken]
    due = commits or any(_is_due(told, old.get(told.name)) for told in made)
    if not due and len(made) == len(old):
        return draft
    for gate in spoken:
        was = old.get(gate.name)
        shown = gate.proof == "Proven" and was is not None and was.proof == "Collecting"
        if shown and not _was_told(status):
            draft = draft.tell(
                "Normal",
                Reason.PROVEN,
                f"Gate {gate.name} has shown that {tried(status)} is at most "
                f"{facts.spec.objectives.promotion_margin} slower: {gate.message}",
                revision=tried(status) or "",
                at=facts.now,
            )
        freezes = gate.verdict == "Frozen" and (was is None or was.verdict != "Frozen")
        if freezes and status.canary_revision is None:
            # After the promotion nothing is left to hold: a person is told, the watch goes on.
            draft = draft.tell(
                "Warning",
                Reason.GATE_FROZEN,
                f"{describe(gate)}; nothing is rolled back, because the warm revision is no "
                "better: look at both",
                revision=status.stable_revision or "",
                at=facts.now,
            )
    draft = warn_of_blind_step(draft, deciding(status, facts), facts)
    kept = [
        was if (was := old.get(told.name)) is not None and _same(told, was) else told
        for told in made
    ]
    return draft.put(gates=kept) if kept != status.gates else draft


def _expected(facts: Facts) -> tuple[str, ...]:
    """The gates that the spec asks for, in every step and in the watch after the promotion."""
    gates = facts.spec.gates
    latency = (LATENCY_GATE,) if gates.latency.mode != "Off" else ()
    return (*latency, *(f"{PROMETHEUS_PREFIX}{gate.name}" for gate in gates.prometheus))


def _silent(name: str) -> Gate:
    return Gate(
        name,
        "Inconclusive",
        str(Reason.GATE_SILENT),
        "it has not said anything about this stage yet",
        proof="Collecting" if name == LATENCY_GATE else "NotNeeded",
    )


def _unproven(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    for gate in deciding(status, facts):
        if gate.proof == "Collecting":
            return Objection(
                Reason.NOT_PROVEN,
                f"gate {gate.name}: not yet shown to be at most "
                f"{facts.spec.objectives.promotion_margin} slower ("
                f"{_as_told(gate, status).message})",
                evidence=True,
            )
    return None


def _as_told(gate: Gate, status: LLMDeploymentStatus) -> Gate:
    """With the message of the status, which changes every ten seconds and not in each round."""
    told = next((told for told in status.gates if told.name == gate.name), None)
    if told is None or told.verdict != gate.verdict or told.reason != gate.reason:
        return gate
    return replace(gate, message=told.message)


def _tell(gate: Gate, was: GateStatus | None, now: datetime) -> GateStatus:
    numbers = gate.numbers
    return GateStatus(
        name=gate.name,
        verdict=gate.verdict,
        reason=gate.reason,
        message=gate.message,
        since=was.since if was is not None and was.verdict == gate.verdict else now,
        updated_at=now,
        proof=gate.proof,
        canary_requests=numbers.canary_requests if numbers is not None else None,
        control_requests=numbers.control_requests if numbers is not None else None,
        power=show_reach(gate.power),
        metrics=[_tell_metric(m) for m in numbers.metrics] if numbers is not None else [],
    )


def _tell_metric(numbers: MetricNumbers) -> GateMetric:
    return GateMetric(
        name=numbers.name,
        evidence=_number(numbers.evidence),
        needed=_number(numbers.needed),
        p50=_number(numbers.p50),
        p95=_number(numbers.p95),
        p99=_number(numbers.p99),
        ks=_number(numbers.ks),
        ks_lower=_number(numbers.ks_lower),
        message=numbers.message or None,
    )


def _number(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _was_told(status: LLMDeploymentStatus) -> bool:
    """Whether this attempt has been proven before: each stage takes it up from the one before."""
    since = status.attempt.started_at if status.attempt is not None else None
    return any(
        entry.event == Reason.PROVEN and (since is None or entry.at >= since)
        for entry in status.history
    )


def _is_due(told: GateStatus, was: GateStatus | None) -> bool:
    if was is None:
        return True
    changed = (told.verdict, told.reason, told.proof) != (was.verdict, was.reason, was.proof)
    aged = (told.updated_at - was.updated_at).total_seconds()
    return changed or not 0 <= aged < COMMIT_EVERY


def _same(told: GateStatus, was: GateStatus) -> bool:
    """Whether nothing but the time of reading differs."""
    return told.model_copy(update={"updated_at": was.updated_at}) == was
