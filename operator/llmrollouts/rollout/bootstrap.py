"""The first revision: no stable side yet, so no canary, no steps.

Its workers start at full size; the first ready one makes it stable, so that users are served as
soon as anybody can serve them. It is Failed when its containers die twice by their own fault
before that, and stays so until the spec changes or a person says `retry`. Called by plan() while
nothing is stable; a changed spec simply is another target (R10).
"""

from __future__ import annotations

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.checks import Objection, plural
from llmrollouts.rollout.deaths import describe_deaths, has_failed
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.rollback import is_rejected, why_rejected


def start_first(draft: Draft, before: LLMDeploymentStatus, facts: Facts) -> Draft:
    """One round without a stable revision. ``before``: the status at the round's beginning."""
    status, target = draft.status, draft.target
    if status.stable_revision is not None or target is None:
        return draft
    if any(leaving.revision == target for leaving in status.retiring):
        return draft
    if has_failed(status, target):
        if has_failed(before, target):
            return draft
        return draft.tell(
            "Warning",
            Reason.FIRST_REVISION_FAILED,
            f"Failed before it served: {describe_deaths(status, facts, target)}",
            revision=target,
            at=facts.now,
        )
    if is_rejected(target, status, facts) or facts.ready(target) == 0:
        return draft
    return draft.put(stable_revision=target, deaths=None).tell(
        "Normal",
        Reason.SERVING,
        f"{target} serves: {facts.ready(target)} of {plural(facts.replicas, 'worker')} ready",
        revision=target,
        at=facts.now,
    )


def starts(draft: Draft, facts: Facts) -> bool:
    """Whether the wanted first revision may have workers."""
    target = draft.target
    return (
        target is not None
        and not is_rejected(target, draft.status, facts)
        and all(leaving.revision != target for leaving in draft.status.retiring)
    )


def why_not_serving(draft: Draft, facts: Facts) -> Objection:
    """What the first revision waits for."""
    status, target = draft.status, draft.target
    if target is None:
        return Objection(Reason.WAITING_FOR_SOURCE, "the revision of the spec is not stored yet")
    if has_failed(status, target):
        return Objection(
            Reason.FIRST_REVISION_FAILED,
            f"{describe_deaths(status, facts, target)}; change spec.revision, or `retry:{target}` "
            "after mending the cause",
        )
    if is_rejected(target, status, facts):
        return Objection(
            Reason.REJECTED,
            f"{target} was rejected ({why_rejected(target, status, facts)}); change spec.revision "
            f"or say `retry:{target}`",
        )
    why = facts.why_not_ready(target)
    message = f"{facts.ready(target)} of {plural(facts.replicas, 'worker')} of {target} ready"
    record = facts.records.get(target)
    late = (
        record is not None
        and record.created_at is not None
        and facts.now - record.created_at >= facts.ready_timeout
    )
    if late:
        message += f", longer than readyTimeout ({facts.spec.strategy.ready_timeout})"
    return Objection(
        Reason.NOT_READY_IN_TIME if late else Reason.WORKERS_STARTING,
        message + (f": {why}" if why else ""),
    )
