"""Taking users back to the side that is known to be good.

Lowering needs no permission and waits for nothing: the share is 0 in the same plan. The revision
taken out becomes *retiring*; its workers go only when the proxies confirmed it (retire.py).
Called by commands, deaths, gates, promotion's watch and the target check; decides nothing of its
own, and records who asked for what and when.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus, RetiringStatus, RollbackStatus
from llmrollouts.rollout.attempt import losses
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.effects import Effect, RejectRevision
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.observation import Rejection
from llmrollouts.rollout.provider import who_confirms

# Load reports come each second; three quiet ones in a row are no accident.
QUIET_SECONDS: Final = 3.0

NO_ROLLOUT: Final[dict[str, Any]] = {
    "canary_revision": None,
    "step": None,
    "share": None,
    "shadow_share": None,
    "promotion": None,
    "lapse": None,
    "hold": None,
    "paused": False,
    "deaths": None,
}


def retiring_with(
    status: LLMDeploymentStatus, revision: str, now: datetime
) -> list[RetiringStatus]:
    """The retiring revisions with one more."""
    others = [leaving for leaving in status.retiring if leaving.revision != revision]
    return [*others, RetiringStatus(revision=revision, since=now)]


def send_back(
    draft: Draft,
    facts: Facts,
    reason: Reason,
    message: str,
    *,
    rejects: bool,
    requested_at: datetime | None = None,
    first_seen_at: datetime | None = None,
    detected_at: datetime | None = None,
) -> Draft:
    """Every user back: from the canary to stable, or from a just promoted revision to the warm one.

    rejects: the revision taken out gets no traffic again until `retry`. Without a canary and a
    warm revision there is nowhere to go and the draft is returned as it is.
    requested_at: when a person asked; first_seen_at, detected_at: of a fault.
    """
    status = draft.status
    bad: str | None
    good: str | None
    if status.canary_revision is not None:
        bad, good = status.canary_revision, status.stable_revision
    elif status.warm is not None:
        bad, good = status.stable_revision, status.warm.revision
    else:
        return draft
    if bad is None or good is None:
        return draft
    back = draft.put(
        **{
            **NO_ROLLOUT,
            "stable_revision": good,
            "warm": status.warm if status.canary_revision is not None else None,
            "retiring": retiring_with(status, bad, facts.now),
            "last_rollback": RollbackStatus(
                revision=bad,
                to=good,
                reason=str(reason),
                message=message,
                requested_at=_not_later(requested_at, facts),
                first_seen_at=_not_later(first_seen_at, facts),
                detected_at=_not_later(detected_at, facts),
                decided_at=facts.now,
                cut_streams=_cut_streams(facts),
                rejects=rejects,
                **losses(bad, status, facts),
            ),
        }
    )
    outcome = f"; {bad} is rejected until `retry:{bad}`" if rejects else ""
    return back.tell(
        "Warning",
        Reason.ROLLING_BACK,
        f"All users go back from {bad} to {good}: {message}{outcome}",
        revision=bad,
        at=facts.now,
    )


def replace_canary(draft: Draft, facts: Facts, target: str) -> Draft:
    """Another revision is wanted: the canary's share is 0 from now on, its workers follow."""
    canary = draft.status.canary_revision
    if canary is None:
        return draft
    out = draft.put(**{**NO_ROLLOUT, "retiring": retiring_with(draft.status, canary, facts.now)})
    return out.tell(
        "Normal",
        Reason.SUPERSEDED,
        f"{target} takes the place of {canary}: the share of {canary} is 0, its workers go when "
        f"{who_confirms(facts)} has confirmed it, then {target} starts at the first step",
        revision=canary,
        at=facts.now,
    )


def is_rejected(revision: str, status: LLMDeploymentStatus, facts: Facts) -> bool:
    """Whether a revision failed and waits for `retry`. The serving one never counts as rejected."""
    if revision in (status.stable_revision, status.canary_revision):
        return False
    last = status.last_rollback
    if last is not None and last.revision == revision:
        # Younger than the annotation, which follows it.
        return last.rejects
    record = facts.records.get(revision)
    return record is not None and record.rejected is not None


def why_rejected(revision: str, status: LLMDeploymentStatus, facts: Facts) -> str:
    record = facts.records.get(revision)
    if record is not None and record.rejected is not None:
        return record.rejected.message
    last = status.last_rollback
    return last.message if last is not None and last.revision == revision else ""


def rejections(
    before: LLMDeploymentStatus, after: LLMDeploymentStatus, facts: Facts
) -> tuple[Effect, ...]:
    """Annotations that the records still lack, or carry although the revision was tried again.

    ``before`` too, so that a crash after its commit loses no rejection when another follows.
    """
    found: dict[str, Effect] = {}
    living = (after.stable_revision, after.canary_revision)
    for last in (before.last_rollback, after.last_rollback):
        record = facts.records.get(last.revision) if last is not None else None
        if last is None or record is None or last.revision in living:
            continue
        found.pop(last.revision, None)
        if last.rejects and record.rejected is None:
            found[last.revision] = RejectRevision(
                last.revision, Rejection(last.decided_at, last.reason, last.message)
            )
        elif not last.rejects and record.rejected is not None and last is after.last_rollback:
            found[last.revision] = RejectRevision(last.revision, None)
    for revision in living:
        record = facts.records.get(revision) if revision is not None else None
        if record is not None and record.rejected is not None:
            found[record.name] = RejectRevision(record.name, None)
    return tuple(found.values())


def record_times(draft: Draft, facts: Facts) -> Draft:
    """Fill in when the last rollback was confirmed everywhere, and its last request."""
    last = draft.status.last_rollback
    if last is None or last.last_canary_request_at is not None:
        return draft
    leaving = next((r for r in draft.status.retiring if r.revision == last.revision), None)
    if leaving is None:
        return draft
    if last.programmed_at is None:
        if leaving.released_at is None:
            return draft
        took = (facts.now - last.decided_at).total_seconds()
        who = who_confirms(facts)
        return draft.put(last_rollback=last.model_copy(update={"programmed_at": facts.now})).tell(
            "Normal",
            Reason.ROLLED_BACK,
            f"{who[0].upper()}{who[1:]} confirmed {took:.1f}s after the decision that no user "
            f"request goes to {last.revision}",
            revision=last.revision,
            at=facts.now,
        )
    quiet = facts.traffic.quiet_seconds.get(last.revision)
    if quiet is None or quiet < QUIET_SECONDS:
        return draft
    when = facts.now - timedelta(seconds=quiet)
    # Requests that were on their way at the decision have ended since.
    ended = {"last_canary_request_at": when, **losses(last.revision, draft.status, facts)}
    return draft.put(last_rollback=last.model_copy(update=ended))


def _not_later(then: datetime | None, facts: Facts) -> datetime | None:
    """Clocks of other machines may be ahead of ours; an effect never comes before its cause."""
    return None if then is None else min(then, facts.now)


def _cut_streams(facts: Facts) -> int | None:
    """Answers that ended too early, as far as a gate counts them."""
    counted = [
        gate.numbers.cut_streams
        for gate in facts.observation.gates
        if gate.numbers is not None and gate.numbers.cut_streams is not None
    ]
    return max(counted, default=None)
