"""When a rollout may begin, and its beginning.

One rollout at a time, and nothing of an earlier one left: GPUs are counted, not wished for. Called
by plan() for a wanted revision that is not stable, and by commands that ask for another attempt.
"""

from __future__ import annotations

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import DeathStatus
from llmrollouts.rollout.attempt import begin_attempt
from llmrollouts.rollout.checks import Objection
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.promotion import end_window
from llmrollouts.rollout.recall import first_step
from llmrollouts.rollout.rollback import NO_ROLLOUT, is_rejected, why_rejected


def why_not_started(draft: Draft, facts: Facts) -> Objection | None:
    """Why the wanted revision is not on its way; None when it may start (or is stable)."""
    status, target = draft.status, draft.target
    if target is None or target == status.stable_revision or status.canary_revision is not None:
        return None
    if is_rejected(target, status, facts):
        return Objection(
            Reason.REJECTED,
            f"{target} was rejected ({why_rejected(target, status, facts)}) and gets no traffic; "
            f"`retry:{target}` gives it another attempt, a changed spec.revision a new one",
        )
    return what_blocks_start(draft, facts)


def what_blocks_start(draft: Draft, facts: Facts) -> Objection | None:
    """What must be out of the way before any rollout begins, a rejection apart."""
    status = draft.status
    if status.canary_revision is not None:
        return Objection(Reason.STEP_RUNNING, f"{status.canary_revision} is on its way")
    if not facts.steps:
        return Objection(Reason.NO_STEPS, "spec.strategy.steps is empty: give it a step")
    if status.retiring:
        names = ", ".join(leaving.revision for leaving in status.retiring)
        return Objection(
            Reason.WAITING_FOR_RETIREMENT,
            f"the workers of {names} leave first: proxies, then pods",
        )
    return None


def start_wanted(draft: Draft, facts: Facts) -> Draft:
    """Begin the rollout of the wanted revision when nothing objects."""
    status, target = draft.status, draft.target
    if (
        target is None
        or status.stable_revision is None
        or status.canary_revision is not None
        or target == status.stable_revision
        or is_rejected(target, status, facts)
    ):
        return draft
    if status.warm is not None:
        return end_window(draft, facts, f"{target} needs the room")
    return draft if what_blocks_start(draft, facts) is not None else begin_rollout(draft, facts)


def begin_rollout(draft: Draft, facts: Facts) -> Draft:
    """The wanted revision becomes the canary, at the first step, with share 0."""
    target = draft.target or ""
    if draft.status.warm is not None:
        draft = end_window(draft, facts, f"{target} needs the room")
    return (
        begin_attempt(draft, facts, target)
        .put(
            **{
                **NO_ROLLOUT,
                "canary_revision": target,
                "step": first_step(facts),
                "share": "0%",
                "shadow_share": "0%",
                "deaths": DeathStatus(revision=target),
            }
        )
        .tell(
            "Normal",
            Reason.ROLLOUT_STARTED,
            f"Rollout of {target} against {draft.status.stable_revision} began",
            revision=target,
            at=facts.now,
        )
    )
