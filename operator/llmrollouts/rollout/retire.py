"""How a revision leaves: first the proxies, then the workers, never the other way round (R03).

A retiring revision keeps its place in the proxies with share 0 until every gateway confirmed that
(*released*), then leaves the proxies; when that too is confirmed and no request was issued to it
for some seconds, its workers are deleted; when they are gone it leaves the status.
Called by plan() in every round; also finds workers that belong to no living revision.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus, RetiringStatus
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.effects import DeleteWorkers
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.rollback import QUIET_SECONDS

Stage: TypeAlias = Literal["Leaving", "Released", "Unused", "Gone"]


def stage_of(leaving: RetiringStatus, facts: Facts) -> Stage:
    """Where a retiring revision stands, as far as the proxies and the cluster confirm it."""
    revision = leaving.revision
    programmed = facts.traffic.programmed
    if programmed is None or not facts.traffic.settled or programmed.default == revision:
        return "Leaving" if leaving.released_at is None else "Released"
    told = next((r for r in programmed.revisions if r.revision == revision), None)
    if told is not None and (told.share or told.mirror):
        return "Leaving"
    if leaving.released_at is None or told is not None:
        return "Released"
    quiet = facts.traffic.quiet_seconds.get(revision)
    if quiet is not None and quiet < QUIET_SECONDS:
        return "Released"
    if revision in facts.workers or revision in facts.observation.config_maps:
        return "Unused"
    # Pods outlive their Deployment for a moment: they still hold GPUs, and their past.
    return "Gone" if not facts.pods(revision) else "Released"


def retire(draft: Draft, facts: Facts) -> Draft:
    """One round of leaving for each retiring revision, and strays taken in."""
    draft = _take_in_strays(draft, facts)
    for leaving in draft.status.retiring:
        match stage_of(leaving, facts):
            case "Released" if leaving.released_at is None:
                released = leaving.model_copy(update={"released_at": facts.now})
                draft = draft.put(
                    retiring=[
                        released if other.revision == leaving.revision else other
                        for other in draft.status.retiring
                    ]
                )
            case "Gone":
                draft = draft.put(
                    retiring=[
                        other
                        for other in draft.status.retiring
                        if other.revision != leaving.revision
                    ]
                ).tell(
                    "Normal",
                    Reason.RETIRED,
                    f"The workers of {leaving.revision} are gone",
                    revision=leaving.revision,
                    at=facts.now,
                )
            case _:
                pass
    return draft


def deletions(status: LLMDeploymentStatus, facts: Facts) -> tuple[DeleteWorkers, ...]:
    """Workers to delete now; derived anew in each round, so a crash in between loses nothing."""
    return tuple(
        DeleteWorkers(leaving.revision)
        for leaving in status.retiring
        if leaving.released_at is not None
        and stage_of(leaving, facts) == "Unused"
        and not _only_terminating(leaving.revision, facts)
    )


def _only_terminating(revision: str, facts: Facts) -> bool:
    workers = facts.workers.get(revision)
    return (
        workers is not None
        and workers.terminating
        and revision not in facts.observation.config_maps
    )


def _take_in_strays(draft: Draft, facts: Facts) -> Draft:
    """Workers of revisions that nobody names (a lost status, a replaced first revision)."""
    status = draft.status
    named = {
        status.stable_revision,
        status.canary_revision,
        status.warm.revision if status.warm is not None else None,
        *(leaving.revision for leaving in status.retiring),
    }
    if status.stable_revision is None:
        if draft.target is None:
            return draft
        named.add(draft.target)
    strays = sorted((facts.workers.keys() | facts.observation.config_maps) - named)
    return (
        draft.put(
            retiring=[
                *status.retiring,
                *(RetiringStatus(revision=stray, since=facts.now) for stray in strays),
            ]
        )
        if strays
        else draft
    )
