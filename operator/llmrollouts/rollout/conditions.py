"""The conditions: observations in detail, each with its reason and what a person can do next.

They are printed and never read back by a decision. Called by plan() at the end of each round.
"""

from __future__ import annotations

from typing import Final, Literal

from llmrollouts.api.reasons import ConditionType, Reason
from llmrollouts.api.status import MESSAGE_LENGTH, Condition, LLMDeploymentStatus
from llmrollouts.rollout.attempt import tried
from llmrollouts.rollout.bootstrap import why_not_serving
from llmrollouts.rollout.capacity import carried_share, plan_capacity, returnable_share
from llmrollouts.rollout.checks import REASONS, Objection, plural
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.intent import DeploymentTraffic
from llmrollouts.rollout.provider import (
    describe_telling,
    find_route,
    no_guarantees,
    rule_of,
)
from llmrollouts.rollout.revisions import Wanted, lost_revisions, texts_differ
from llmrollouts.rollout.start import why_not_started
from llmrollouts.rollout.step_checks import describe_progress, waiting

State = Literal["True", "False", "Unknown"]
Finding = tuple[ConditionType, State, Reason, str]


def observe_conditions(
    before: LLMDeploymentStatus,
    draft: Draft,
    wanted: Wanted,
    traffic: DeploymentTraffic,
    facts: Facts,
) -> list[Condition]:
    """All conditions; the time of the last transition is kept while the state stays."""
    found = [
        _ready(draft, facts),
        _progressing(draft, facts),
        _source_resolved(wanted, facts),
        _source_changed(facts),
        _revision_lost(draft.status, facts),
        _instant_rollback(draft.status, facts),
        _guarantees(traffic, facts),
        _lapsed(draft.status),
        _refused(draft.status),
    ]
    old = {condition.type: condition for condition in before.conditions}
    rule = rule_of(facts)
    if rule is not None:
        found.append(find_route(rule, traffic, facts))
    result = [_carry(old.get(str(each[0])), each, facts) for each in found]
    measured = _measured(draft.status)
    if measured is not None:
        result.append(_carry(old.get(str(ConditionType.MEASURED)), measured, facts))
    rebuilt = _rebuilt(draft, facts)
    if rebuilt is not None:
        result.append(_carry(None, rebuilt, facts))
    elif str(ConditionType.STATUS_REBUILT) in old:
        result.append(old[str(ConditionType.STATUS_REBUILT)])
    return result


def _carry(old: Condition | None, found: Finding, facts: Facts) -> Condition:
    kind, state, reason, message = found
    text = message if len(message) <= MESSAGE_LENGTH else message[: MESSAGE_LENGTH - 1] + "…"
    since = old.last_transition_time if old is not None and old.status == state else facts.now
    return Condition(
        type=str(kind),
        status=state,
        reason=str(reason),
        message=text,
        last_transition_time=since,
        observed_generation=facts.deployment.generation,
    )


def _ready(draft: Draft, facts: Facts) -> Finding:
    kind = ConditionType.READY
    stable = draft.status.stable_revision
    if stable is None:
        why = why_not_serving(draft, facts)
        return (kind, "False", why.reason, why.message)
    ready = facts.ready(stable)
    count = f"{ready} of {plural(facts.replicas, 'worker')} of {stable} ready"
    if ready == 0:
        why_not = facts.why_not_ready(stable)
        return (
            kind,
            "False",
            Reason.WORKERS_UNAVAILABLE,
            count + (f": {why_not}" if why_not else ""),
        )
    problem = facts.traffic.problem
    if problem is not None:
        return (kind, "False", problem.reason, f"{problem.message}; {count}")
    if facts.traffic.gateways == 0:
        if (rule := rule_of(facts)) is not None:
            told = f"no gateway has accepted HTTPRoute {rule.route}; {count}"
            return (kind, "False", Reason.ROUTE_NOT_ACCEPTED, told)
        return (kind, "False", Reason.GATEWAY_UNAVAILABLE, f"no gateway is connected; {count}")
    if not facts.reaches_users(stable):
        told = f"{describe_telling(facts)}; {count}"
        return (kind, "False", Reason.WAITING_FOR_GATEWAYS, told)
    return (kind, "True", Reason.SERVING, count)


def _progressing(draft: Draft, facts: Facts) -> Finding:
    kind = ConditionType.PROGRESSING
    status = draft.status
    if status.stable_revision is None:
        first = why_not_serving(draft, facts)
        failed = first.reason in (Reason.FIRST_REVISION_FAILED, Reason.REJECTED)
        return (kind, "False" if failed else "True", first.reason, first.message)
    if status.canary_revision is not None:
        why = waiting(draft, facts)
        if status.promotion is not None:
            return (kind, "True", Reason.PROMOTING, describe_progress(draft, facts))
        if why is None:
            return (kind, "True", Reason.STEP_PASSED, describe_progress(draft, facts))
        stuck = why.reason in (
            Reason.PAUSED,
            Reason.HELD,
            Reason.NO_ROOM,
            Reason.NOT_READY_IN_TIME,
            Reason.GATE_ERROR,
        )
        return (kind, "False" if stuck else "True", why.reason, describe_progress(draft, facts))
    blocked: Objection | None = why_not_started(draft, facts)
    if blocked is not None:
        stuck = blocked.reason in (Reason.REJECTED, Reason.NO_STEPS)
        return (kind, "False" if stuck else "True", blocked.reason, blocked.message)
    if draft.target is None:
        return (
            kind,
            "False",
            Reason.WAITING_FOR_SOURCE,
            "the revision of the spec is not stored yet; condition SourceResolved says why",
        )
    return (kind, "False", Reason.COMPLETE, f"{status.stable_revision} answers all users")


def _source_resolved(wanted: Wanted, facts: Facts) -> Finding:
    kind = ConditionType.SOURCE_RESOLVED
    if wanted.problem is not None:
        return (
            kind,
            "False",
            wanted.problem.reason,
            f"{wanted.problem.message}; what serves now serves on",
        )
    problem = facts.observation.problem
    if problem is not None:
        return (
            kind,
            "False",
            REASONS.get(problem.reason, Reason.INVALID_SPEC),
            f"{problem.message}; the stored revision is used as it is",
        )
    return (kind, "True", Reason.RESOLVED, "the spec's revision is stored with all its texts")


def _source_changed(facts: Facts) -> Finding:
    kind = ConditionType.SOURCE_CHANGED
    if texts_differ(facts):
        return (
            kind,
            "True",
            Reason.EDITED_IN_PLACE,
            (
                "a referenced ConfigMap reads differently from what the revision holds; nothing is "
                "rolled out for it: `refresh` takes the new text in as a new revision"
            ),
        )
    return (kind, "False", Reason.UNCHANGED, "references read as they are stored")


def _revision_lost(status: LLMDeploymentStatus, facts: Facts) -> Finding:
    kind = ConditionType.REVISION_LOST
    lost = lost_revisions(status, facts)
    if lost:
        return (
            kind,
            "True",
            Reason.RECORD_DELETED,
            (
                f"the ControllerRevision of {', '.join(lost)} was deleted: its pods go on, but "
                "their number cannot be changed; set spec.revision to what it was and the record "
                "is written again"
            ),
        )
    return (kind, "False", Reason.STORED, "the record of every living revision is there")


def _instant_rollback(status: LLMDeploymentStatus, facts: Facts) -> Finding:
    kind = ConditionType.INSTANT_ROLLBACK
    if status.canary_revision is not None:
        sizes = plan_capacity(status, facts)
        if sizes.shrinks:
            return (
                kind,
                "False",
                Reason.TOO_FEW_EXTRA_REPLICAS,
                (
                    f"stable keeps {sizes.stable_target} of {plural(facts.replicas, 'worker')}: "
                    f"{returnable_share(status, facts)} of the users can return at once, the "
                    "rest when more workers have loaded; raise spec.strategy.maxExtraReplicas to "
                    "keep all"
                ),
            )
        return (
            kind,
            "True",
            Reason.STABLE_AT_FULL_SIZE,
            f"{status.stable_revision} keeps all its workers",
        )
    if status.warm is None:
        return (
            kind,
            "False",
            Reason.NO_WARM_REVISION,
            "no replaced revision is warm: going back to one means loading its weights",
        )
    warm = status.warm
    held = facts.workers.get(warm.revision)
    size = held.replicas if held is not None else 0
    until = f"{warm.revision} is warm until {warm.until:%Y-%m-%d %H:%M:%SZ}"
    if size < facts.replicas:
        return (
            kind,
            "False",
            Reason.TOO_FEW_EXTRA_REPLICAS,
            (
                f"{until} with {size} of {plural(facts.replicas, 'worker')}: it carries "
                f"{carried_share(size, facts.replicas)} of the users at once"
            ),
        )
    return (kind, "True", Reason.WARM_UNTIL, f"{until}: `rollback` goes back at once")


def _guarantees(traffic: DeploymentTraffic, facts: Facts) -> Finding:
    kind = ConditionType.TRAFFIC_GUARANTEES
    rule = rule_of(facts)
    if rule is not None:
        return no_guarantees(rule)
    seen = facts.traffic
    if seen.gateways == 0:
        return (
            kind,
            "False",
            Reason.GATEWAY_UNAVAILABLE,
            "no gateway is connected to the operator: are the gateway pods running?",
        )
    # What was asked for a moment ago is not late yet.
    if not seen.settled and seen.programmed == traffic:
        return (
            kind,
            "False",
            Reason.GATEWAYS_UNSETTLED,
            f"{seen.settled_gateways} of {plural(seen.gateways, 'gateway')} have acknowledged",
        )
    return (kind, "True", Reason.GATEWAYS_SETTLED, "every gateway acknowledges what it is told")


def _lapsed(status: LLMDeploymentStatus) -> Finding:
    kind = ConditionType.LAPSED
    lapse = status.lapse
    if lapse is not None and lapse.active:
        return (
            kind,
            "True",
            REASONS.get(lapse.cause, Reason.STALE_EVIDENCE),
            f"the canary's share is 0 since {lapse.since:%H:%M:%SZ} ({lapse.cause}); it comes back "
            "after 60s of health" + ("" if status.hold is None else " and a person's `resume`"),
        )
    return (kind, "False", Reason.HEALTHY, "no lapse")


# A gate that is only young or short of requests is well.
_ORDINARY: Final = frozenset(
    {
        str(Reason.TOO_FEW_SAMPLES),
        str(Reason.NOT_PROVEN),
        str(Reason.NO_HARM),
        str(Reason.COMPARISON_RESTS),
    }
)


def _measured(status: LLMDeploymentStatus) -> Finding | None:
    """None when nothing is judged: then there is nothing to measure."""
    if tried(status) is None or not status.gates:
        return None
    kind = ConditionType.MEASURED
    for gate in status.gates:
        told = f"gate {gate.name}: {gate.message}"
        if gate.reason == Reason.GATE_SILENT:
            return (kind, "Unknown", Reason.GATE_SILENT, told)
        ill = gate.verdict == "Inconclusive" and gate.reason not in _ORDINARY
        if gate.verdict == "Error" or ill:
            known = REASONS.get(gate.reason, Reason.GATE_ERROR)
            return (kind, "False", known, f"{told}; nothing advances and nothing is blamed for it")
    return (kind, "True", Reason.MEASURED, "every gate gets the data that it needs")


def _refused(status: LLMDeploymentStatus) -> Finding:
    kind = ConditionType.COMMAND_REFUSED
    command = status.command
    if command is None or command.result == "Done":
        return (kind, "False", Reason.COMMAND_DONE, "no command was refused")
    return (
        kind,
        "True",
        REASONS.get(command.reason or "", Reason.COMMAND_INVALID),
        f"{command.value[:80]!r}: {command.message}",
    )


def _rebuilt(draft: Draft, facts: Facts) -> Finding | None:
    told = [
        notice
        for notice in draft.notices
        if notice.reason in (Reason.STATUS_MISSING, Reason.STATUS_UNREADABLE)
    ]
    if not told:
        return None
    unreadable = facts.deployment.status_problem is not None
    return (
        ConditionType.STATUS_REBUILT,
        "True",
        Reason.STATUS_UNREADABLE if unreadable else Reason.STATUS_MISSING,
        told[0].message,
    )
