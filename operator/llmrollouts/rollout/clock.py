"""The clock and the request counter of the running step, and the time towards its deadline.

Clock and counter move only while every gateway carries exactly the share that the step asks for; a
time that nobody watched (a crash, a long gap between rounds) does not count. The time towards the
deadline runs whatever the step waits for, save in a pause, a hold or a lapse. Called by steps.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts, read_share
from llmrollouts.rollout.lapse import counted

# Counters and clocks are committed this often, in seconds: an API write for each round would cost
# more than ten seconds of a step that a crash may repeat.
COMMIT_EVERY: Final = 10.0
# Time between two rounds beyond this was not watched and does not count.
LONGEST_ROUND: Final = 15.0
# The deadline is hours away: a crash may repeat a minute of the time towards it.
COMMIT_WAIT_EVERY: Final = 60.0


def flows(status: LLMDeploymentStatus, facts: Facts) -> bool:
    """Whether every gateway carries what the step asks for, on fresh evidence."""
    step, programmed = status.step, facts.traffic.programmed
    if step is None or programmed is None or not facts.traffic.settled or not facts.fresh:
        return False
    share, mirror = read_share(status.share), read_share(status.shadow_share)
    wanted = share if step.kind == "Canary" else mirror
    if not wanted or wanted != read_share(step.share):
        return False
    return any(
        told.revision == status.canary_revision and told.share == share and told.mirror == mirror
        for told in programmed.revisions
    )


def elapsed(status: LLMDeploymentStatus, facts: Facts) -> float:
    """Seconds on the step's clock now."""
    step = status.step
    if step is None:
        return 0.0
    if step.running_since is None:
        return step.held_seconds
    return step.held_seconds + _since(step.running_since, facts.now)


def requests(status: LLMDeploymentStatus, facts: Facts) -> int:
    """Requests of the step so far, live and mirrored."""
    step = status.step
    if step is None:
        return 0
    if step.running_since is None or step.counter.source != facts.traffic.source:
        return step.counter.total
    return step.counter.total + max(0, counted(status, facts) - step.counter.base)


def is_due(status: LLMDeploymentStatus, facts: Facts) -> bool:
    """Whether the clock is written in this round, so that other numbers may go with it."""
    step = status.step
    if step is None or step.running_since is None or status.promotion is not None:
        return False
    return not 0 <= (facts.now - step.running_since).total_seconds() < COMMIT_EVERY


def waited(status: LLMDeploymentStatus, facts: Facts) -> float:
    """Seconds towards the deadline of the step."""
    step = status.step
    if step is None:
        return 0.0
    if step.waiting_since is None:
        return step.waited_seconds
    watched = (facts.now - step.waiting_since).total_seconds()
    return step.waited_seconds + min(max(0.0, watched), COMMIT_WAIT_EVERY + LONGEST_ROUND)


def wait(draft: Draft, facts: Facts) -> Draft:
    """Start, stop or go on with the time towards the deadline."""
    status = draft.status
    step = status.step
    if step is None or status.promotion is not None:
        return draft
    runs = (
        not status.paused
        and status.hold is None
        and not (status.lapse is not None and status.lapse.active)
        and draft.target == status.canary_revision
    )
    if step.waiting_since is None and not runs:
        return draft
    # With the clock's own commit where there is one soon enough.
    every = COMMIT_WAIT_EVERY - (COMMIT_EVERY if step.running_since == facts.now else 0.0)
    if (
        step.waiting_since is not None
        and runs
        and 0 <= (facts.now - step.waiting_since).total_seconds() < every
    ):
        return draft
    return draft.put(
        step=step.model_copy(
            update={
                "waited_seconds": round(waited(status, facts), 3),
                "waiting_since": facts.now if runs else None,
            }
        )
    )


def count(draft: Draft, facts: Facts) -> Draft:
    """Start, stop or go on with the clock; commit what it shows every ten seconds."""
    status = draft.status
    step = status.step
    if step is None or status.promotion is not None:
        return draft
    runs = (
        flows(status, facts)
        and not status.paused
        and status.hold is None
        and draft.target == status.canary_revision
    )
    if step.running_since is None and not runs:
        return draft
    if (
        step.running_since is not None
        and runs
        and 0 <= (facts.now - step.running_since).total_seconds() < COMMIT_EVERY
    ):
        return draft
    counter = step.counter.model_copy(
        update={"total": requests(status, facts), "base": counted(status, facts)}
    )
    return draft.put(
        step=step.model_copy(
            update={
                "held_seconds": round(elapsed(status, facts), 3),
                "running_since": facts.now if runs else None,
                "counter": counter,
            }
        )
    )


def _since(then: datetime, now: datetime) -> float:
    return min(max(0.0, (now - then).total_seconds()), LONGEST_ROUND)
