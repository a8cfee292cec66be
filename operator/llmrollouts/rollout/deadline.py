"""A step's deadline: what happens when the evidence never suffices.

It decides only where nothing but evidence is missing: a step that waits for workers, gateways or a
person has conditions of its own. Never a promotion (R05). Called by steps.py.
"""

from __future__ import annotations

from llmrollouts.api.duration import format_duration
from llmrollouts.api.reasons import Reason
from llmrollouts.rollout.checks import Objection
from llmrollouts.rollout.clock import waited
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.rollback import send_back


def is_over(draft: Draft, why: Objection, facts: Facts) -> bool:
    """Whether the step has waited for its evidence for as long as it may."""
    step = draft.status.step
    if step is None or not why.evidence or not 0 <= step.index < len(facts.steps):
        return False
    return waited(draft.status, facts) >= facts.steps[step.index].deadline


def meet_deadline(draft: Draft, why: Objection, facts: Facts) -> Draft:
    """What spec.strategy.onInconclusive says, once the deadline is over."""
    step, canary = draft.status.step, draft.status.canary_revision
    if step is None or canary is None:
        return draft
    allowed = format_duration(facts.steps[step.index].deadline)
    told = (
        f"{step.kind.lower()} step {step.index + 1} did not gather enough evidence within its "
        f"deadline of {allowed} ({why.message})"
    )
    if facts.spec.strategy.on_inconclusive == "Rollback":
        # Rejected, or the very same attempt would begin again at once.
        return send_back(draft, facts, Reason.DEADLINE_REACHED, told, rejects=True)
    hold = (
        f"{told}; `resume` gives it as long again, `promote:{canary}` passes the step, `rollback` "
        "ends the rollout"
    )
    return draft.put(hold=hold).tell(
        "Warning", Reason.DEADLINE_REACHED, f"Held: {hold}", revision=canary, at=facts.now
    )
