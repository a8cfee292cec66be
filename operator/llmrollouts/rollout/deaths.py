"""Deaths of the new revision's containers by their own fault.

One death is no evidence; the second one in a rollout, the watch after the promotion included, is a
verdict: Failed. Evicted, preempted and lost workers never count, nor do containers of a worker
that was told to leave, nor a death in the minute in which a container of the other revision died
too: what kills both is not the new revision. Such a common fault lapses the share (lapse.py).
Counted here, judged in plan(), promotion.py and bootstrap.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LIST_ENTRIES, DeathStatus, LLMDeploymentStatus
from llmrollouts.rollout.checks import Objection
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts

FATAL: Final = 2
# More would only make the status longer: the verdict is the same.
REMEMBERED: Final = 8
# Deaths of both revisions this close together have one cause.
TOGETHER: Final = timedelta(seconds=60)


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
    mine = known is not None and known.revision == revision
    seen = list(known.seen) if known is not None and mine else []
    excused = list(known.excused) if known is not None and mine else []
    others = _deaths_of(_other(status), facts)
    told = ""
    for pod in facts.pods(revision):
        if pod.excused:
            continue
        for death in sorted(pod.deaths, key=lambda each: each.id):
            if death.id in excused:
                continue
            at = death.at or (facts.now if death.id not in seen else None)
            if at is not None and any(abs(at - other) <= TOGETHER for other in others):
                # The other side may die some seconds later: a death already counted is taken back.
                seen = [each for each in seen if each != death.id]
                excused = [*excused, death.id][-LIST_ENTRIES:]
                told = pod.name
            elif death.id not in seen and len(seen) < REMEMBERED:
                seen.append(death.id)
    if known is not None and mine and (known.seen, known.excused) == (seen, excused):
        return draft
    if known is None and not seen and not excused:
        return draft
    draft = draft.put(deaths=DeathStatus(seen=seen, excused=excused, revision=revision))
    if not told:
        return draft
    return draft.tell(
        "Warning",
        Reason.COMMON_FAULT,
        f"Containers of {revision} ({told}) and of {_other(status)} died within "
        f"{TOGETHER.total_seconds():.0f}s: {revision} is not blamed for it",
        revision=revision,
        at=facts.now,
    )


def has_failed(status: LLMDeploymentStatus, revision: str | None) -> bool:
    """Whether the revision's containers have died often enough for a verdict."""
    deaths = status.deaths
    return deaths is not None and deaths.revision == revision and len(deaths.seen) >= FATAL


def first_death(status: LLMDeploymentStatus, facts: Facts, revision: str) -> datetime | None:
    """When the first of the deaths that count happened, as far as it is known."""
    seen = status.deaths.seen if status.deaths is not None else []
    return min(
        (
            death.at
            for pod in facts.pods(revision)
            for death in pod.deaths
            if death.id in seen and death.at is not None
        ),
        default=None,
    )


def common_fault(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:
    """Containers of both revisions died together a moment ago."""
    deaths = status.deaths
    if deaths is None or deaths.revision is None:
        return None
    recent = any(
        death.id in deaths.excused and death.at is not None and facts.now - death.at <= TOGETHER
        for pod in facts.pods(deaths.revision)
        for death in pod.deaths
    )
    if not recent:
        return None
    return Objection(
        Reason.COMMON_FAULT,
        f"containers of {deaths.revision} and of {_other(status)} died in the same minute",
    )


def describe_deaths(status: LLMDeploymentStatus, facts: Facts, revision: str) -> str:
    """What died and how, newest last."""
    each = (
        f"{death.id.split('/')[1] if '/' in death.id else 'a container'} of {pod.name}: "
        f"{death.reason}" + (f" ({death.message[:200]})" if death.message else "")
        for pod in facts.pods(revision)
        if not pod.excused
        for death in pod.deaths
    )
    told = list(dict.fromkeys(each))  # one that died of the same thing twice is told once
    count = len(status.deaths.seen) if status.deaths is not None else 0
    return f"containers of {revision} died {count} times by their own fault" + (
        f"; {'; '.join(told[-2:])}" if told else ""
    )


def _other(status: LLMDeploymentStatus) -> str | None:
    """The revision that runs beside the watched one."""
    if status.canary_revision is not None:
        return status.stable_revision
    return status.warm.revision if status.warm is not None else None


def _deaths_of(revision: str | None, facts: Facts) -> tuple[datetime, ...]:
    if revision is None:
        return ()
    return tuple(
        death.at
        for pod in facts.pods(revision)
        if not pod.excused
        for death in pod.deaths
        if death.at is not None
    )
