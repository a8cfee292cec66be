"""Deaths of the new revision's containers by their own fault.

One death is no evidence; the second one in a rollout, the watch after the promotion included, is a
verdict: Failed. Evicted, preempted and lost workers never count, nor do containers of a worker
that was told to leave. Counted here, judged in plan() and bootstrap.py.
"""

from __future__ import annotations

from typing import Final

from llmrollouts.api.status import DeathStatus, LLMDeploymentStatus
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts

FATAL: Final = 2
# More would only make the status longer: the verdict is the same.
REMEMBERED: Final = 8


def watched(draft: Draft) -> str | None:
    """The revision on probation: the canary, a just promoted one, or the very first."""
    status = draft.status
    if status.canary_revision is not None:
        return status.canary_revision
    if status.stable_revision is None:
        leaving = {each.revision for each in status.retiring}
        return draft.target if draft.target not in leaving else None
    return status.stable_revision if status.warm is not None else None


def count_deaths(draft: Draft, facts: Facts) -> Draft:
    """Remember each death of the watched revision once."""
    status = draft.status
    revision = watched(draft)
    if revision is None:
        if status.stable_revision is None or status.deaths is None:
            return draft
        return draft.put(deaths=None)
    known = status.deaths
    seen = list(known.seen) if known is not None and known.revision == revision else []
    for pod in facts.pods(revision):
        if pod.excused:
            continue
        for death in sorted(pod.deaths, key=lambda each: each.id):
            if death.id not in seen and len(seen) < REMEMBERED:
                seen.append(death.id)
    if known is not None and known.revision == revision and known.seen == seen:
        return draft
    if known is None and not seen:
        return draft
    return draft.put(deaths=DeathStatus(seen=seen, revision=revision))


def has_failed(status: LLMDeploymentStatus, revision: str | None) -> bool:
    """Whether the revision's containers have died often enough for a verdict."""
    deaths = status.deaths
    return deaths is not None and deaths.revision == revision and len(deaths.seen) >= FATAL


def describe_deaths(status: LLMDeploymentStatus, facts: Facts, revision: str) -> str:
    """What died and how, newest last."""
    told = [
        f"{death.id.split('/')[1] if '/' in death.id else 'a container'} of {pod.name}: "
        f"{death.reason}" + (f" ({death.message[:200]})" if death.message else "")
        for pod in facts.pods(revision)
        if not pod.excused
        for death in pod.deaths
    ]
    count = len(status.deaths.seen) if status.deaths is not None else 0
    return f"containers of {revision} died {count} times by their own fault" + (
        f"; {'; '.join(told[-2:])}" if told else ""
    )
