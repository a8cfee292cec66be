"""A revision that has failed goes back: by its second death, then by a gate.

The same before and after a promotion: of the canary (plan.judge) and of a new stable revision that
is watched beside the warm one (promotion.watch). What else they look at is theirs.
"""

from __future__ import annotations

from llmrollouts.api.reasons import Reason
from llmrollouts.rollout.deaths import describe_deaths, first_death, has_failed
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.gates import describe, failed_gate
from llmrollouts.rollout.rollback import send_back


def send_back_failed(
    draft: Draft, facts: Facts, revision: str, reason: Reason, preface: str = ""
) -> Draft | None:
    """Every user back from ``revision``, which is rejected; None: it has not failed.

    reason, preface: what the rollback is called, and how its message begins, where a gate failed.
    """
    if has_failed(draft.status, revision):
        return send_back(
            draft,
            facts,
            Reason.WORKER_DIED,
            describe_deaths(draft.status, facts, revision),
            rejects=True,
            first_seen_at=first_death(draft.status, facts, revision),
            detected_at=facts.now,
        )
    gate = failed_gate(draft.status, facts)
    if gate is None:
        return None
    return send_back(
        draft,
        facts,
        reason,
        f"{preface}{describe(gate)}",
        rejects=True,
        first_seen_at=gate.first_seen_at,
        detected_at=gate.detected_at,
    )
