"""What share and what mirror the canary may have from this round on.

A share rises only to what the step asks for, only when the canary's ready workers carry it and
the proxies know them (R02), on fresh evidence, and never while a person has paused or holds the
rollout. It falls at once and without any condition. Called by steps.py and promotion.py.
"""

from __future__ import annotations

from llmrollouts.api.share import NONE, WHOLE, Share
from llmrollouts.rollout.capacity import (
    canary_workers,
    carried_share,
    plan_capacity,
    workers_for,
)
from llmrollouts.rollout.checks import first_objection
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts, read_share
from llmrollouts.rollout.gates import UNPROVEN_SHARE, begins_small
from llmrollouts.rollout.provider import copies_requests
from llmrollouts.rollout.step_checks import RAISE_CHECKS


def grant(draft: Draft, facts: Facts) -> Draft:
    """The draft with the share and the mirror that the canary may have now."""
    share = granted_share(draft, facts)
    mirror = granted_mirror(draft, share, facts)
    return draft.put(share=str(share), shadow_share=str(mirror))


def granted_share(draft: Draft, facts: Facts) -> Share:
    """The share of user requests that the canary may have from this round on."""
    status = draft.status
    now = read_share(status.share)
    if status.step is None or (status.lapse is not None and status.lapse.active):
        return NONE
    ready = facts.ready(status.canary_revision)
    # A canary that lost workers keeps what the others carry; the rest goes to stable.
    if ready < workers_for(now, facts.replicas):
        now = min(now, carried_share(ready, facts.replicas))
    wanted = read_share(status.step.share) if status.step.kind == "Canary" else NONE
    if status.promotion is None:
        now = min(now, wanted)
    if begins_small(status, facts) is not None:
        # Only a rise: what was shown once is not taken back because a gate is silent.
        wanted = max(now, min(wanted, UNPROVEN_SHARE))
    sizes = plan_capacity(status, facts)
    if sizes.shrinks and ready < sizes.needed:
        # Stable gives its workers up one for one: users follow them one for one.
        ceiling = carried_share(ready, facts.replicas)
        wanted = ceiling if status.promotion is not None else min(wanted, ceiling)
    if wanted <= now or first_objection(RAISE_CHECKS, status, facts) is not None:
        return now
    if draft.target != status.canary_revision:
        return now
    enough = canary_workers(wanted, facts.replicas, facts.spec.strategy)
    told = facts.programmed_endpoints(status.canary_revision or "")
    return wanted if ready >= enough and told >= enough and facts.traffic.settled else now


def granted_mirror(draft: Draft, share: Share, facts: Facts) -> Share:
    """The share of user requests to copy to the canary, beside ``share`` that it answers.

    In a canary step the mirror fills each canary worker up to the rate of a stable one:
    N_canary x (1 - share) / N_stable of all requests in total.
    """
    status = draft.status
    step = status.step
    lapsed = status.lapse is not None and status.lapse.active
    if step is None or lapsed or status.promotion is not None or not copies_requests(facts):
        return NONE
    now = read_share(status.shadow_share)
    ready = facts.ready(status.canary_revision)
    if step.kind == "Canary" and share:
        if not facts.spec.strategy.match_load:
            return NONE
        stable = facts.ready(status.stable_revision)
        total = ready * (WHOLE - share.ppm) // stable if stable else 0
        return Share(min(max(0, total - share.ppm), WHOLE - share.ppm))
    if step.kind == "Canary":
        return now
    wanted = read_share(step.share)
    if wanted <= now:
        return wanted
    blocked = first_objection(RAISE_CHECKS, status, facts)
    enough = workers_for(wanted, facts.replicas)
    told = facts.programmed_endpoints(status.canary_revision or "")
    carried = ready >= enough and told >= enough and facts.traffic.settled
    current = draft.target == status.canary_revision
    return wanted if carried and current and blocked is None else now
