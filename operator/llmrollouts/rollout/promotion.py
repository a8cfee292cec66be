"""Promotion: all users to the new revision, without reloading a weight and without a gap.

Growing    its workers come up to full size; stable keeps its size (or gives way one for one)
Shifting   its share is 100 %, until every gateway acknowledged it
Switching  the route's default becomes the new revision, until every gateway acknowledged it
Clearing   the share key goes, until every gateway acknowledged it; then roles swap

With an HTTPRoute the weights and the Services take these places, and "acknowledged" is: read back.

Both sides are of full size throughout, so wherever the proxies' dead-man's switch strikes, users
land on a side that carries them. No pod is touched. Any lapse on the way goes back to Growing with
share 0. Called by plan() when all steps have passed; also watches the new stable revision while
the old one is warm (R15), and ends the warm window.
"""

from __future__ import annotations

from typing import Literal

from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import ALL
from llmrollouts.api.status import PromotionStatus, WarmStatus
from llmrollouts.rollout.capacity import needed_workers, warm_workers
from llmrollouts.rollout.checks import first_objection
from llmrollouts.rollout.control import hold_control
from llmrollouts.rollout.deaths import common_fault
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.failure import send_back_failed
from llmrollouts.rollout.grants import grant
from llmrollouts.rollout.provider import rule_of
from llmrollouts.rollout.rollback import NO_ROLLOUT, retiring_with, send_back
from llmrollouts.rollout.step_checks import GROWTH_CHECKS


def promote(draft: Draft, facts: Facts) -> Draft:
    """One round of a running promotion."""
    status = draft.status
    promotion, canary = status.promotion, status.canary_revision
    if promotion is None or canary is None:
        return draft
    lapsed = status.lapse is not None and status.lapse.active
    if lapsed and promotion.stage in ("Shifting", "Switching"):
        return _enter(draft, facts, "Growing", "0%")
    match promotion.stage:
        case "Growing":
            return _grow(draft, facts, canary)
        case "Shifting":
            return _shift(draft, facts, canary)
        case "Switching":
            return _switch(draft, facts, canary)
        case "Clearing":
            return _clear(draft, facts, canary)


def _grow(draft: Draft, facts: Facts, canary: str) -> Draft:
    draft = grant(draft, facts)
    status = draft.status
    needed = needed_workers(status, facts)
    if (
        draft.target != canary
        or first_objection(GROWTH_CHECKS, status, facts) is not None
        or not facts.traffic.settled
        or facts.programmed_endpoints(canary) < needed
    ):
        return draft
    return _enter(draft, facts, "Shifting", str(ALL))


def _shift(draft: Draft, facts: Facts, canary: str) -> Draft:
    status = draft.status
    if facts.ready(canary) < needed_workers(status, facts):
        share = status.step.share if status.step and status.step.kind == "Canary" else "0%"
        return _enter(draft, facts, "Growing", share)
    programmed = facts.traffic.programmed
    if (
        status.paused
        or programmed is None
        or not facts.traffic.settled
        or programmed.share_of(canary) != ALL
    ):
        return draft
    return _enter(draft, facts, "Switching", str(ALL))


def _switch(draft: Draft, facts: Facts, canary: str) -> Draft:
    programmed = facts.traffic.programmed
    if programmed is None or not facts.traffic.settled or programmed.default != canary:
        return draft
    return _enter(draft, facts, "Clearing", "0%")


def _clear(draft: Draft, facts: Facts, canary: str) -> Draft:
    programmed = facts.traffic.programmed
    if (
        programmed is None
        or not facts.traffic.settled
        or programmed.default != canary
        or programmed.share_of(canary)
    ):
        return draft
    return _swap_roles(draft, facts, canary)


def _swap_roles(draft: Draft, facts: Facts, canary: str) -> Draft:
    status = draft.status
    old = status.stable_revision or ""
    keeps = (
        facts.rollback_window.total_seconds() > 0
        and warm_workers(facts) > 0
        and facts.ready(old) > 0
    )
    until = facts.now + facts.rollback_window
    # The deaths of the rollout stay counted during the watch: they are of the same attempt.
    draft = draft.put(
        **{
            **NO_ROLLOUT,
            "deaths": status.deaths,
            "stable_revision": canary,
            "warm": WarmStatus(revision=old, until=until) if keeps else None,
            "retiring": status.retiring if keeps else retiring_with(status, old, facts.now),
        }
    )
    kept = (
        f"{old} stays warm until {until:%Y-%m-%d %H:%M:%SZ}: `rollback` goes back at once"
        if keeps
        else f"{old} is not kept: going back would load its weights again"
    )
    return draft.tell(
        "Normal",
        Reason.PROMOTED,
        f"{canary} is stable and answers all users; {kept}",
        revision=canary,
        at=facts.now,
    )


def _enter(
    draft: Draft,
    facts: Facts,
    stage: Literal["Growing", "Shifting", "Switching", "Clearing"],
    share: str,
) -> Draft:
    canary = draft.status.canary_revision or ""
    told = {
        "Growing": f"{canary} is no longer of full size or reach: back to growing",
        "Shifting": f"{canary} is of full size: its share becomes 100%",
        "Switching": f"Every gateway sends all users to {canary}: it becomes the default route",
        "Clearing": f"Every gateway has {canary} as its default: the share key goes",
    }
    if (rule := rule_of(facts)) is not None:
        route, service = f"HTTPRoute {rule.route}", f"{facts.deployment.name}-stable"
        told["Switching"] = f"{route} sends all users to {canary}: Service {service} selects it too"
        told["Clearing"] = f"Service {service} selects {canary}: the weight of {route} goes back"
    return draft.put(
        promotion=PromotionStatus(stage=stage, started_at=facts.now),
        share=share,
        shadow_share="0%",
    ).tell(
        "Warning" if stage == "Growing" else "Normal",
        Reason.PROMOTING,
        told[stage],
        revision=canary,
        at=facts.now,
    )


def watch(draft: Draft, facts: Facts) -> Draft:
    """After a promotion: back to the warm revision by itself when the new one fails (R15), 1 % on
    the warm one for the comparison, and the end of the window when it does not fail."""
    status = draft.status
    warm, stable = status.warm, status.stable_revision
    if warm is None or stable is None or status.canary_revision is not None:
        return draft
    if facts.ready(warm.revision) > 0:
        back = send_back_failed(
            draft, facts, stable, Reason.WATCH_FAILED, preface="after its promotion, "
        )
        if back is not None:
            return back
        pods = facts.pods(stable)
        if facts.ready(stable) == 0 and facts.replicas > 0:
            # A lost node says nothing about the revision, nor does what killed both: it may try
            # again from the first step.
            blamed = any(not pod.excused for pod in pods) and common_fault(status, facts) is None
            return send_back(
                draft,
                facts,
                Reason.WORKERS_UNAVAILABLE,
                f"no worker of {stable} is ready any more",
                rejects=blamed,
            )
    if facts.now < warm.until or facts.ready(stable) < facts.replicas:
        return hold_control(draft, facts)
    return end_window(draft, facts, "its rollback window is over")


def end_window(draft: Draft, facts: Facts, why: str) -> Draft:
    """The warm revision may go."""
    warm = draft.status.warm
    if warm is None:
        return draft
    return draft.put(
        warm=None, retiring=retiring_with(draft.status, warm.revision, facts.now)
    ).tell(
        "Normal",
        Reason.NO_WARM_REVISION,
        f"{warm.revision} is no longer kept warm: {why}",
        revision=warm.revision,
        at=facts.now,
    )
