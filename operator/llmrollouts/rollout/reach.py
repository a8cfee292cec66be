"""What a running step can find goes into the status, and a step that finds nothing is told of.

It decides nothing: such a step goes on, because its duration, its requests and the proof hold it
as they hold any other. Called by rollout/gates.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmrollouts.analysis.reach import Reach
from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import GatePower, LLMDeploymentStatus
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.observation import Gate
from llmrollouts.rollout.provider import copies_requests


def show_reach(reach: Reach | None) -> GatePower | None:
    """The form of the status."""
    if reach is None:
        return None
    return GatePower(
        requests_per_second=reach.rate,
        finds=reach.finds,
        blind=reach.blind,
        message=reach.message,
    )


def warn_of_blind_step(draft: Draft, gates: Iterable[Gate], facts: Facts) -> Draft:
    """A Warning, once a step (and again only after so many transitions that the history has lost
    it), when one of these gates finds no slower revision at the step's real rate."""
    status = draft.status
    step, canary = status.step, status.canary_revision
    if step is None or canary is None or status.promotion is not None or _was_told(status):
        return draft
    blind = next((g for g in gates if g.power is not None and g.power.blind), None)
    if blind is None or blind.power is None:
        return draft
    more = "make it longer or raise its share"
    if step.kind == "Canary" and copies_requests(facts) and not facts.spec.strategy.match_load:
        more += ", or set strategy.matchLoad"
    return draft.tell(
        "Warning",
        Reason.STEP_IS_BLIND,
        f"{step.kind} step {step.index + 1} of {len(facts.steps)}, gate {blind.name}: "
        f"{blind.power.message}; {more}",
        revision=canary,
        at=facts.now,
    )


def _was_told(status: LLMDeploymentStatus) -> bool:
    step = status.step
    return step is not None and any(
        entry.event == Reason.STEP_IS_BLIND and entry.at >= step.started_at
        for entry in status.history
    )
