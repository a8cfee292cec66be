"""When the next round is due without any event.

Called by plan() at the end of each round. Leases of shares live eight seconds, so a round follows
every two while any share is up; a timer is met exactly; an idle deployment is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from llmrollouts.api.reasons import Reason
from llmrollouts.rollout.clock import elapsed
from llmrollouts.rollout.control import wants_control
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.intent import DeploymentTraffic
from llmrollouts.rollout.lapse import HEALTHY_AFTER
from llmrollouts.rollout.revisions import Wanted

ROLLING: Final = 2.0
# Acknowledgements take milliseconds, and each stage of a promotion or a rollback waits for one.
ACKNOWLEDGING: Final = 0.5
# Gateways that are not there announce themselves when they connect; this is the second net.
NO_GATEWAY: Final = 60.0
# ConfigMaps are not watched: where the spec names one that is missing, it is looked for.
UNRESOLVED: Final = 15.0
_MAY_APPEAR: Final = frozenset(
    {
        Reason.CONFIG_MAP_MISSING,
        Reason.CONFIG_MAP_KEY_MISSING,
        Reason.SOURCE_FORBIDDEN,
        Reason.SOURCE_TOO_LARGE,
    }
)


def wake_after(
    draft: Draft, wanted: Wanted, traffic: DeploymentTraffic, facts: Facts
) -> float | None:
    """Seconds; None when only an event can change anything."""
    if draft.again or wanted.store is not None:
        return 0.0
    status = draft.status
    due = list(_timers(draft, facts))
    if wanted.problem is not None and wanted.problem.reason in _MAY_APPEAR:
        due.append(UNRESOLVED)
    if status.canary_revision is not None or status.retiring:
        due.append(ROLLING)
    if any(told.share or told.mirror for told in traffic.revisions):
        due.append(ROLLING)
    if wants_control(status, facts):
        due.append(ROLLING)
    seen = facts.traffic
    if seen.programmed != traffic or not seen.settled:
        stable = status.stable_revision
        awaited = (
            status.promotion is not None
            or bool(status.retiring)
            or (stable is not None and not facts.reaches_users(stable))
        )
        if not seen.gateways:
            due.append(NO_GATEWAY)
        else:
            due.append(ACKNOWLEDGING if awaited else ROLLING)
    return min(due) if due else None


def _timers(draft: Draft, facts: Facts) -> Iterator[float]:
    """Seconds to each moment at which something is decided by time alone."""
    status = draft.status
    if status.warm is not None:
        left = (status.warm.until - facts.now).total_seconds()
        # Past its end the window waits for the new revision's workers, which announce themselves.
        yield left if left > 0 else NO_GATEWAY
    lapse = status.lapse
    if lapse is not None and lapse.active and lapse.healthy_since is not None:
        yield _until(lapse.healthy_since + HEALTHY_AFTER, facts.now)
    step = status.step
    if step is not None and step.running_since is not None and step.index < len(facts.steps):
        left = facts.steps[step.index].duration - elapsed(status, facts)
        if left > 0:
            yield left
    record = facts.records.get(draft.target or "")
    if status.stable_revision is None and record is not None and record.created_at is not None:
        left = (record.created_at + facts.ready_timeout - facts.now).total_seconds()
        if left > 0:
            yield left


def _until(then: datetime, now: datetime) -> float:
    return max(0.0, (then - now).total_seconds())
