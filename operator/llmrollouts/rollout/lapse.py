"""Lapse: the share falls to 0 without a verdict, and comes back by itself after 60 s of health.

A lapse blames nobody: the step stays, its clock stands still, nothing is rejected. The second
lapse of a rollout for one cause holds the rollout for a person. Called by plan() in each round of
a rollout; what it does to the share is in steps.py and promotion.py.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LapseStatus, LLMDeploymentStatus, RequestCounter
from llmrollouts.rollout.checks import Check, Objection, first_objection
from llmrollouts.rollout.deaths import common_fault
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import STALE_SECONDS, Facts, read_share
from llmrollouts.rollout.provider import why_unread

HEALTHY_AFTER: Final = timedelta(seconds=60)
LAPSES_FOR_HOLD: Final = 2


def lapse(draft: Draft, facts: Facts) -> Draft:
    """Begin, keep or end a lapse."""
    status = draft.status
    if status.canary_revision is None or status.step is None:
        return draft
    draft = _listen(draft, facts)
    cause = first_objection(CAUSES, draft.status, facts)
    if status.lapse is not None and status.lapse.active:
        return _heal(draft, facts, status.lapse, cause)
    if cause is None or not (read_share(status.share) or read_share(status.shadow_share)):
        return draft
    counts = dict(status.lapse.counts) if status.lapse is not None else {}
    counts[str(cause.reason)] = counts.get(str(cause.reason), 0) + 1
    held = counts[str(cause.reason)] >= LAPSES_FOR_HOLD
    canary = status.canary_revision
    draft = draft.put(
        lapse=LapseStatus(active=True, cause=str(cause.reason), since=facts.now, counts=counts),
        share="0%",
        shadow_share="0%",
    ).tell(
        "Warning",
        cause.reason,
        f"The share of {canary} is 0 for now, without a verdict: {cause.message}",
        revision=canary,
        at=facts.now,
    )
    if not held:
        return draft
    hold = (
        f"the share lapsed {counts[str(cause.reason)]} times for one cause ({cause.message}); "
        f"`resume` goes on with the step, `promote:{canary}` passes it, `rollback` ends the rollout"
    )
    return draft.put(hold=hold).tell(
        "Warning", Reason.REPEATED_LAPSE, f"Held: {hold}", revision=canary, at=facts.now
    )


def renews(status: LLMDeploymentStatus, facts: Facts) -> bool:
    """Whether this round renews the leases of the shares: its evidence is fresh.

    A process that has just taken over has no report yet, and a gateway that has just joined gave
    none; the committed share is carried on for as long as the first report may take, or every
    change of leader and every new gateway would move users.
    """
    return facts.fresh or (facts.traffic.report_age is None and _may_be_silent(status, facts))


def _heal(draft: Draft, facts: Facts, running: LapseStatus, cause: Objection | None) -> Draft:
    if cause is not None:
        if running.healthy_since is None:
            return draft
        return draft.put(lapse=running.model_copy(update={"healthy_since": None}))
    if running.healthy_since is None:
        return draft.put(lapse=running.model_copy(update={"healthy_since": facts.now}))
    if facts.now - running.healthy_since < HEALTHY_AFTER:
        return draft
    return draft.put(
        lapse=running.model_copy(update={"active": False, "healthy_since": None})
    ).tell(
        "Normal",
        Reason.HEALTHY,
        "60s of health: the lapse is over, the step goes on where it stood",
        revision=draft.status.canary_revision or "",
        at=facts.now,
    )


def _listen(draft: Draft, facts: Facts) -> Draft:
    """Note a new life of the operator (it counts requests from zero) and a missing report.

    A gateway that joins, and each after a change of leader, has not reported yet: no fault until
    it has had the time to.
    """
    step = draft.status.step
    if step is None:
        return draft
    silent = step.silent_since
    if facts.traffic.report_age is not None:
        silent = None
    elif silent is None or step.counter.source != facts.traffic.source:
        silent = facts.now
    if step.counter.source == facts.traffic.source:
        if silent == step.silent_since:
            return draft
        return draft.put(step=step.model_copy(update={"silent_since": silent}))
    counter = RequestCounter(
        total=step.counter.total,
        source=facts.traffic.source,
        base=counted(draft.status, facts),
    )
    # Time that nobody watched does not count as time in the step.
    return draft.put(
        step=step.model_copy(
            update={"counter": counter, "running_since": None, "silent_since": silent}
        )
    )


def counted(status: LLMDeploymentStatus, facts: Facts) -> int:
    """Requests of the canary, live and mirrored, since this process started."""
    counts = facts.traffic.counts.get(status.canary_revision or "")
    return counts.issued + counts.mirrored if counts is not None else 0


def _may_be_silent(status: LLMDeploymentStatus, facts: Facts) -> bool:
    """Whether a missing report may still be on its way."""
    since = status.step.silent_since if status.step is not None else None
    return since is not None and (facts.now - since).total_seconds() <= STALE_SECONDS


def _no_ready_canary(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    if facts.ready(status.canary_revision) > 0:
        return None
    why = facts.why_not_ready(status.canary_revision)
    return Objection(
        Reason.NO_READY_CANARY,
        f"no worker of {status.canary_revision} is ready" + (f" ({why})" if why else ""),
    )


def _stale_evidence(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    age = facts.traffic.report_age
    if age is None:
        if _may_be_silent(status, facts):
            return None
        return Objection(
            Reason.STALE_EVIDENCE,
            why_unread(facts) or "a gateway has not reported to this operator: is it connected?",
        )
    if age <= STALE_SECONDS:
        return None
    return Objection(
        Reason.STALE_EVIDENCE,
        why_unread(facts)
        or f"the oldest gateway report is older than {STALE_SECONDS:.0f}s: is a gateway cut off?",
    )


CAUSES: Final[tuple[Check, ...]] = (common_fault, _no_ready_canary, _stale_evidence)
