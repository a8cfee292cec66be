"""Why a share does not rise, a step does not pass or a promotion does not grow: the checks.

Each is one reason with one message for a person; the lists at the end give their order. They read
and never change anything. Used by steps, grants, promotion and the printed summaries.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from llmrollouts.api.duration import format_duration
from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.capacity import plan_capacity
from llmrollouts.rollout.checks import REASONS, Check, Objection, first_objection, plural
from llmrollouts.rollout.clock import elapsed, flows, requests, waited
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts, Step, read_share
from llmrollouts.rollout.gates import (
    begins_small,
    describe_gates,
    gates_pass,
    is_compared,
    is_proven,
)
from llmrollouts.rollout.lapse import HEALTHY_AFTER
from llmrollouts.rollout.provider import rule_of, why_unread


def waiting(draft: Draft, facts: Facts) -> Objection | None:
    """The first reason why the step does not pass now; None when it has all it needs."""
    if draft.target != draft.status.canary_revision:
        return Objection(
            Reason.STEP_RUNNING,
            "the revision of the spec cannot be read now; nothing advances until it can",
        )
    promotion = draft.status.promotion
    if promotion is not None and promotion.stage != "Growing":
        return None
    checks = STEP_CHECKS if promotion is None else GROWTH_CHECKS
    return first_objection(checks, draft.status, facts)


def describe_progress(draft: Draft, facts: Facts) -> str:
    """Where the rollout stands and what it waits for, in one sentence."""
    status = draft.status
    step, canary = status.step, status.canary_revision
    if step is None:
        return f"{canary} has no step"
    why = waiting(draft, facts)
    share, mirror = read_share(status.share), read_share(status.shadow_share)
    if status.promotion is not None:
        told = f"Promoting {canary}, {status.promotion.stage.lower()}: {share} of users on it"
        return f"{told}; {why.message}" if why is not None else told
    place = f"{step.kind} step {step.index + 1} of {len(facts.steps)}"
    if step.kind == "Shadow":
        told = f"{place}: {mirror} of the requests copied to {canary}"
    else:
        told = f"{place}: {share} of users on {canary}"
    parts = [told, *_describe_counts(status, facts)]
    if why is not None and why.reason != Reason.STEP_RUNNING:
        parts.append(why.message)
    elif (gates := describe_gates(status, facts)) is not None:
        parts.append(gates)
    if why is not None and why.evidence:
        parts.append(_describe_deadline(status, facts))
    following = facts.steps[step.index + 1 : step.index + 2]
    parts.append(f"next: {following[0].share}" if following else "next: promotion")
    return "; ".join(parts)


def _describe_counts(status: LLMDeploymentStatus, facts: Facts) -> list[str]:
    running = _running(status, facts)
    if running is None:
        return []
    held = min(int(elapsed(status, facts)), int(running.duration))
    counted = f"{requests(status, facts)} of {plural(running.min_requests, 'request')}"
    if not facts.traffic.counts_requests:
        counted = "requests are not counted"
    return [f"{format_duration(held)} of {format_duration(running.duration)}, {counted}"]


def _describe_deadline(status: LLMDeploymentStatus, facts: Facts) -> str:
    """Until when the evidence may come, and what happens then."""
    running = _running(status, facts)
    left = max(0.0, running.deadline - waited(status, facts)) if running is not None else 0.0
    outcome = facts.spec.strategy.on_inconclusive
    then = "the rollout is held" if outcome == "Hold" else "the revision is rolled back"
    # Rounded up to the minute, so that the text changes as seldom as its meaning.
    by = facts.now + timedelta(seconds=left + 59)
    return f"without it {then} at {by:%Y-%m-%d %H:%MZ}"


def describe_requests(status: LLMDeploymentStatus, facts: Facts) -> str:
    if not facts.traffic.counts_requests:
        return "requests not counted"
    return plural(requests(status, facts), "request")


def _not_paused(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:  # noqa: ARG001
    if not status.paused:
        return None
    return Objection(Reason.PAUSED, "paused by a person; `resume` goes on, `rollback` ends it")


def _not_held(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:  # noqa: ARG001
    return Objection(Reason.HELD, status.hold) if status.hold is not None else None


def _not_lapsed(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:  # noqa: ARG001
    lapse = status.lapse
    if lapse is None or not lapse.active:
        return None
    if lapse.healthy_since is None:
        return Objection(
            REASONS.get(lapse.cause, Reason.STALE_EVIDENCE),
            f"the share is 0 ({lapse.cause} since {lapse.since:%H:%M:%SZ}); it comes back after "
            f"{HEALTHY_AFTER.total_seconds():.0f}s of health",
        )
    until = lapse.healthy_since + HEALTHY_AFTER
    return Objection(Reason.HEALTHY, f"healthy again; the share comes back at {until:%H:%M:%SZ}")


def _evidence_is_fresh(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:  # noqa: ARG001
    if facts.fresh:
        return None
    if (unread := why_unread(facts)) is not None:
        return Objection(Reason.WEIGHTS_UNSET, unread)
    return Objection(
        Reason.WAITING_FOR_GATEWAYS,
        "no gateway is connected" if not facts.traffic.gateways else "waits for gateway reports",
    )


def _capacity_is_ready(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    sizes = plan_capacity(status, facts)
    ready = facts.ready(status.canary_revision)
    if ready >= sizes.needed:
        return None
    if sizes.shrinks and sizes.canary <= 0:
        return Objection(
            Reason.NO_ROOM,
            "maxExtraReplicas leaves no room for a canary worker beside the only stable one: "
            "raise spec.strategy.maxExtraReplicas to at least 1",
        )
    why = facts.why_not_ready(status.canary_revision)
    late = ""
    step = status.step
    since = status.promotion.started_at if status.promotion else step and step.started_at
    reason = Reason.WAITING_FOR_CAPACITY
    if since and facts.now - since >= facts.ready_timeout:
        reason = Reason.NOT_READY_IN_TIME
        late = f", longer than readyTimeout ({facts.spec.strategy.ready_timeout})"
    return Objection(
        reason,
        f"{ready} of {sizes.needed} canary workers ready{late}" + (f": {why}" if why else ""),
    )


def _share_flows(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    if flows(status, facts):
        return None
    traffic = facts.traffic
    if (rule := rule_of(facts)) is not None:
        return Objection(
            Reason.WAITING_FOR_GATEWAYS,
            f"HTTPRoute {rule.route} does not carry the share yet; condition RouteProgrammed says "
            "why",
        )
    return Objection(
        Reason.WAITING_FOR_GATEWAYS,
        f"{traffic.settled_gateways} of {plural(traffic.gateways, 'gateway')} have acknowledged",
    )


def _held_long_enough(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    duration = _running(status, facts)
    held = elapsed(status, facts)
    if duration is None or held >= duration.duration:
        return None
    return Objection(
        Reason.STEP_RUNNING,
        f"{format_duration(int(held))} of {format_duration(duration.duration)}",
    )


def _enough_requests(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    step = _running(status, facts)
    if step is None or not facts.traffic.counts_requests:
        return None
    missing = step.min_requests - requests(status, facts)
    if missing <= 0:
        return None
    rate = _request_rate(status, facts)
    eta = (
        f"about {format_duration(max(1, round(missing / rate)))} at this rate"
        if rate > 0
        else "and none arrives now"
    )
    return Objection(
        Reason.WAITING_FOR_REQUESTS,
        f"needs {plural(missing, 'more request')}, {eta}",
        evidence=True,
    )


def _request_rate(status: LLMDeploymentStatus, facts: Facts) -> float:
    """Requests of the canary per second, live and mirrored."""
    canary = status.canary_revision or ""
    traffic = facts.traffic
    part = traffic.recent_live.get(canary, 0.0) + traffic.recent_mirrored.get(canary, 0.0)
    if traffic.recent_rate * part > 0:
        return traffic.recent_rate * part
    held = elapsed(status, facts)
    return requests(status, facts) / held if held > 0 else 0.0


def _running(status: LLMDeploymentStatus, facts: Facts) -> Step | None:
    index = status.step.index if status.step is not None else -1
    return facts.steps[index] if 0 <= index < len(facts.steps) else None


# What must be so before a share or a mirror rises; its capacity is checked with the numbers.
RAISE_CHECKS: Final[tuple[Check, ...]] = (
    _not_paused,
    _not_held,
    _not_lapsed,
    _evidence_is_fresh,
    is_compared,
)
# What must be so before a step passes.
STEP_CHECKS: Final[tuple[Check, ...]] = (
    _not_paused,
    _not_held,
    _not_lapsed,
    _capacity_is_ready,
    _evidence_is_fresh,
    begins_small,
    is_compared,
    _share_flows,
    _held_long_enough,
    _enough_requests,
    gates_pass,
    is_proven,
)
# What must be so before a promotion grows into its next stage.
GROWTH_CHECKS: Final[tuple[Check, ...]] = (
    _not_paused,
    _not_held,
    _not_lapsed,
    _capacity_is_ready,
    _evidence_is_fresh,
)
