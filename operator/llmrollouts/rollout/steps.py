"""The steps of a rollout: how they follow each other.

A step has the share that grants.py allows, and passes when every check of step_checks.py is
content: never on missing evidence (R05, R09), never without its time and its requests.
Called by plan() while a canary is on its way.
"""

from __future__ import annotations

from dataclasses import replace

from llmrollouts.api.duration import format_duration
from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus, PromotionStatus, StepStatus
from llmrollouts.rollout.clock import count, elapsed, wait
from llmrollouts.rollout.deadline import is_over, meet_deadline
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts, Step, read_share
from llmrollouts.rollout.grants import grant
from llmrollouts.rollout.recall import enter
from llmrollouts.rollout.step_checks import describe_requests, waiting


def run_step(draft: Draft, facts: Facts) -> Draft:
    """One round of the running step: follow the spec, grant the share, count, pass."""
    moved = _follow_edit(draft, facts)
    if moved is not draft:
        # An edit may lower the share and never raises it; the next round goes on from there.
        return replace(_lower(moved), again=True)
    draft = grant(draft, facts)
    draft = wait(count(draft, facts), facts)
    step = draft.status.step
    why = waiting(draft, facts)
    if step is not None and why is not None and is_over(draft, why, facts):
        return meet_deadline(draft, why, facts)
    if step is None or why is not None:
        return draft
    return pass_step(
        draft,
        facts,
        Reason.STEP_PASSED,
        f"{describe_step(step, facts)} passed: held for "
        f"{format_duration(int(elapsed(draft.status, facts)))}, "
        f"{describe_requests(draft.status, facts)}",
    )


def pass_step(draft: Draft, facts: Facts, reason: Reason, message: str) -> Draft:
    """On to the next step, or to the promotion after the last. The share is granted later."""
    status = draft.status
    canary = status.canary_revision or ""
    index = status.step.index if status.step is not None else -1
    draft = draft.tell("Normal", reason, message, revision=canary, at=facts.now)
    following = enter(index + 1, facts)
    if following is None:
        return start_promotion(draft, facts)
    return draft.put(step=following).tell(
        "Normal",
        Reason.STEP_STARTED,
        f"{describe_step(following, facts)} of {canary} began",
        revision=canary,
        at=facts.now,
    )


def start_promotion(draft: Draft, facts: Facts) -> Draft:
    canary = draft.status.canary_revision or ""
    step = draft.status.step
    return draft.put(
        promotion=PromotionStatus(stage="Growing", started_at=facts.now),
        step=step and step.model_copy(update={"running_since": None}),
        shadow_share="0%",
    ).tell(
        "Normal",
        Reason.PROMOTING,
        f"{canary} is promoted: its workers come up to full size, then all users move",
        revision=canary,
        at=facts.now,
    )


def describe_step(step: StepStatus, facts: Facts) -> str:
    return f"{step.kind} step {step.index + 1} of {len(facts.steps)} ({step.share})"


def _follow_edit(draft: Draft, facts: Facts) -> Draft:
    """The strategy was edited in mid-rollout: go to the last step at or below the running one.

    The share never rises by an edit. When no step is that low, a person must say so.
    """
    status = draft.status
    step, canary = status.step, status.canary_revision
    if step is None or canary is None or status.promotion is not None:
        return draft
    if not was_edited(step, facts):
        return draft
    asked = (int(step.kind == "Canary"), read_share(step.share).ppm)
    steps: tuple[Step, ...] = facts.steps
    level = _reached_level(status, step)
    if level is None:
        fresh = enter(0, facts)
        return draft.put(step=fresh) if fresh is not None else draft
    fitting = [index for index, each in enumerate(steps) if each.level <= level]
    if not fitting:
        if status.hold is not None:
            return draft
        hold = (
            f"the steps were edited and none is at or below the running {step.kind.lower()} step "
            f"({step.share}); `promote:{canary}` goes on with the first step, `rollback` ends it"
        )
        return draft.put(hold=hold, step=step.model_copy(update={"index": -1})).tell(
            "Warning", Reason.HELD, f"Held: {hold}", revision=canary, at=facts.now
        )
    index = fitting[-1]
    if steps[index].level == asked:
        return draft.put(step=step.model_copy(update={"index": index}))
    moved = enter(index, facts)
    if moved is None:
        return draft
    return draft.put(step=moved).tell(
        "Normal",
        Reason.STEP_STARTED,
        f"The steps were edited: {describe_step(moved, facts)} is the last one at or below "
        "the running share",
        revision=canary,
        at=facts.now,
    )


def was_edited(step: StepStatus, facts: Facts) -> bool:
    """Whether the strategy has another step in the place of the running one."""
    asked = (int(step.kind == "Canary"), read_share(step.share).ppm)
    found = facts.steps[step.index] if 0 <= step.index < len(facts.steps) else None
    return found is None or found.level != asked


def _lower(draft: Draft) -> Draft:
    """Not above what the step asks for; raising is left to another round."""
    status = draft.status
    if status.step is None:
        return draft
    asked = read_share(status.step.share)
    if status.step.kind == "Canary":
        return draft.put(share=str(min(read_share(status.share), asked)))
    return draft.put(share="0%", shadow_share=str(min(read_share(status.shadow_share), asked)))


def _reached_level(status: LLMDeploymentStatus, step: StepStatus) -> tuple[int, int] | None:
    """How far users are on the new revision now; None while nothing has flowed at all.

    A step that still waits for its workers has only reached what the step before it had.
    """
    lapsed = status.lapse is not None and status.lapse.active
    if step.kind == "Shadow" or lapsed:
        reached = read_share(step.share)
        flowed = lapsed or step.index > 0 or bool(read_share(status.shadow_share))
        return (int(step.kind == "Canary"), reached.ppm) if flowed else None
    share = min(read_share(status.share), read_share(step.share))
    if share:
        return (1, share.ppm)
    mirror = read_share(status.shadow_share)
    return (0, mirror.ppm) if mirror or step.index > 0 else None
