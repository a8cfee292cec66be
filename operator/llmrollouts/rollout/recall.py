"""What the status may be believed, and its rebuilding from the children where it is lost.

A status can be wiped or edited by anybody with the right to, so no stage may rest on it before it
went through here: afterwards every name in it is a living revision and the parts agree.
Rebuilding never promotes: a canary that is found beside a stable revision starts again at the first
step with share 0. First stage of plan().
"""

from __future__ import annotations

import math
from typing import Any

from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import ALL, NONE, WHOLE, Share
from llmrollouts.api.status import (
    AttemptStatus,
    LLMDeploymentStatus,
    RequestCounter,
    RetiringStatus,
    StepStatus,
    WarmStatus,
)
from llmrollouts.rollout.control import CONTROL_SHARE
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts, read_share


def recall(status: LLMDeploymentStatus, facts: Facts) -> Draft:
    """The status made trustworthy; tells a person when something had to be rebuilt."""
    sound = _agree(status, facts)
    draft = Draft(sound)
    if sound.stable_revision is None and (found := _serving_child(facts)) is not None:
        draft = draft.put(
            stable_revision=found,
            canary_revision=None,
            step=None,
            share=None,
            shadow_share=None,
            promotion=None,
            retiring=[r for r in sound.retiring if r.revision != found],
            warm=_warm_child(found, facts),
        )
        why = facts.deployment.status_problem or "the status named no serving revision"
        draft = draft.tell(
            "Warning",
            Reason.STATUS_UNREADABLE if facts.deployment.status_problem else Reason.STATUS_MISSING,
            f"Rebuilt the status from the children ({why}): {found} serves; nothing was promoted, "
            "a revision on its way starts again at the first step",
            revision=found,
            at=facts.now,
        )
    return draft


def _agree(status: LLMDeploymentStatus, facts: Facts) -> LLMDeploymentStatus:
    """Drop what names no revision or contradicts the rest; the safe side wins."""
    living = facts.records.keys() | facts.workers.keys()
    changes: dict[str, Any] = {}
    stable = status.stable_revision if status.stable_revision in living else None
    canary = status.canary_revision if status.canary_revision in living else None
    if stable is None or canary == stable:
        canary = None
    changes["stable_revision"] = stable
    changes["canary_revision"] = canary
    changes["warm"] = status.warm
    if status.warm is not None and (
        status.warm.revision not in living or status.warm.revision in (stable, canary)
    ):
        changes["warm"] = None
    changes["warm"] = _sound_warm(changes["warm"], canary)
    changes["attempt"] = _sound_attempt(status.attempt)
    warm = changes["warm"].revision if changes["warm"] is not None else None
    seen: set[str] = set()
    retiring: list[RetiringStatus] = []
    for leaving in status.retiring:
        if leaving.revision not in {stable, canary, warm, *seen}:
            seen.add(leaving.revision)
            retiring.append(leaving)
    changes["retiring"] = retiring
    if status.override_revision not in facts.records:
        changes["override_revision"] = None
        changes["override_source"] = None
    if canary is None:
        changes |= {
            "step": None,
            "share": None,
            "shadow_share": None,
            "promotion": None,
            "lapse": None,
            "hold": None,
            "paused": False,
        }
    else:
        changes |= _sound_step(status, facts)
    return status.model_copy(update=changes)


def _sound_warm(warm: WarmStatus | None, canary: str | None) -> WarmStatus | None:
    """Its share is the control's, and nothing beside a canary."""
    if warm is None or not (warm.share or warm.shadow_share):
        return warm
    share = min(read_share(warm.share), CONTROL_SHARE) if canary is None else NONE
    mirror = min(read_share(warm.shadow_share), Share(WHOLE - share.ppm)) if share else NONE
    return warm.model_copy(update={"share": str(share), "shadow_share": str(mirror)})


def _sound_attempt(attempt: AttemptStatus | None) -> AttemptStatus | None:
    """A budget that is none is no attempt: a new one begins, with a budget of its own."""
    if attempt is None:
        return None
    sound = (
        0 < attempt.error_budget < 0.5
        and 0 <= attempt.spent <= attempt.error_budget * (1 + 1e-12)
        and 0 <= attempt.level <= attempt.error_budget
        and attempt.number >= 0
        and min(attempt.errors.total, attempt.errors.base) >= 0
        and min(attempt.saved.total, attempt.saved.base) >= 0
    )
    return attempt if sound else None


def _sound_step(status: LLMDeploymentStatus, facts: Facts) -> dict[str, Any]:
    step = status.step
    if step is None or read_share(step.share).ppm <= 0:
        return {
            "step": first_step(facts),
            "share": "0%",
            "shadow_share": "0%",
            "promotion": None,
        }
    held = step.held_seconds if math.isfinite(step.held_seconds) else 0.0
    counter = step.counter
    if counter.total < 0 or counter.base < 0:
        counter = RequestCounter(source=counter.source)
    waited = step.waited_seconds if math.isfinite(step.waited_seconds) else 0.0
    sound = step.model_copy(
        update={
            "index": max(-1, step.index),
            "held_seconds": max(0.0, held),
            "waited_seconds": max(0.0, waited),
            "counter": counter,
        }
    )
    ceiling = ALL if status.promotion is not None else read_share(step.share)
    if status.promotion is None and step.kind == "Shadow":
        ceiling = read_share("0%")
    if status.lapse is not None and status.lapse.active:
        return {"step": sound, "share": "0%", "shadow_share": "0%"}
    share = min(read_share(status.share), ceiling)
    mirror = min(read_share(status.shadow_share), Share(WHOLE - share.ppm))
    return {"step": sound, "share": str(share), "shadow_share": str(mirror)}


def first_step(facts: Facts) -> StepStatus | None:
    return enter(0, facts)


def enter(index: int, facts: Facts) -> StepStatus | None:
    """The status of a step that begins now; None when the strategy has no such step."""
    if not 0 <= index < len(facts.steps):
        return None
    step = facts.steps[index]
    return StepStatus(
        index=index,
        kind=step.kind,
        share=str(step.share),
        started_at=facts.now,
        counter=RequestCounter(source=facts.traffic.source),
    )


def _serving_child(facts: Facts) -> str | None:
    """The revision that serves, as the proxies or the workers' labels say."""
    programmed = facts.traffic.programmed
    if programmed is not None and programmed.default in facts.workers:
        return programmed.default
    labelled = [
        workers
        for workers in facts.observation.workers
        if workers.role == "stable" and not workers.terminating
    ]
    if not labelled:
        return None

    def rank(revision: str) -> tuple[int, int, str]:
        record = facts.records.get(revision)
        return (facts.ready(revision), record.number if record else 0, revision)

    return max((workers.revision for workers in labelled), key=rank)


def _warm_child(stable: str, facts: Facts) -> WarmStatus | None:
    """A replaced revision that was kept for a rollback, if its workers are still ready."""
    for workers in facts.observation.workers:
        record = facts.records.get(workers.revision)
        if (
            workers.role == "retired"
            and workers.revision != stable
            and not workers.terminating
            and record is not None
            and record.rejected is None
            and facts.ready(workers.revision) > 0
        ):
            return WarmStatus(revision=workers.revision, until=facts.now + facts.rollback_window)
    return None
