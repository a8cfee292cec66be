"""One attempt to promote a revision: its budget of false rollbacks, its stages and its losses.

The budget is fixed when the attempt begins. A stage (a step, or the watch after the promotion) is
allotted its level once, when it begins: an even part of what remains for the stages that are left.
So an edit splits only what remains, a restart of the operator changes nothing because all of it is
in the status, and a retry is a new attempt with a budget of its own. The losses are the user
requests that failed at the revision, as the gateways count them.
Called by plan() in each round, and by start.py for a new attempt. Judges nothing.
"""

from __future__ import annotations

from llmrollouts.analysis.budget import Budget
from llmrollouts.api.percent import parse_percent
from llmrollouts.api.status import AttemptStatus, LLMDeploymentStatus, RequestCounter
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts, read_share
from llmrollouts.rollout.intent import RequestCounts


def tried(status: LLMDeploymentStatus) -> str | None:
    """The revision that is judged: the canary, or a promoted one while the old one is warm."""
    if status.canary_revision is not None:
        return status.canary_revision
    return status.stable_revision if status.warm is not None else None


def begin_attempt(draft: Draft, facts: Facts, revision: str) -> Draft:
    """A new attempt with the budget that the spec gives now; what gates said before is over."""
    return draft.put(attempt=_make_attempt(draft.status, facts, revision), gates=[])


def _make_attempt(status: LLMDeploymentStatus, facts: Facts, revision: str) -> AttemptStatus:
    last = status.attempt
    counts = _counts(revision, facts)
    return AttemptStatus(
        revision=revision,
        number=1 + (last.number if last is not None else 0),
        started_at=facts.now,
        error_budget=parse_percent(facts.spec.strategy.error_budget),
        errors=RequestCounter(source=facts.traffic.source, base=counts.errors),
        saved=RequestCounter(source=facts.traffic.source, base=counts.saved),
    )


def keep_attempt(draft: Draft, facts: Facts, *, commits: bool) -> Draft:
    """The attempt that belongs to what runs now, with the level of its stage.

    commits: this round writes the status anyway, so the counts of losses are written with it.
    """
    revision = tried(draft.status)
    if revision is None:
        return draft
    attempt = draft.status.attempt
    if attempt is None or attempt.revision != revision:
        attempt = _make_attempt(draft.status, facts, revision)
        draft = draft.put(attempt=attempt, gates=[])
    if commits or attempt.errors.source != facts.traffic.source:
        counts = _counts(revision, facts)
        attempt = attempt.model_copy(
            update={
                "errors": _fold(attempt.errors, counts.errors, facts),
                "saved": _fold(attempt.saved, counts.saved, facts),
            }
        )
    stage, left = _stage(draft.status, attempt, facts)
    if stage != attempt.stage:
        budget = Budget(attempt.error_budget, min(attempt.spent, attempt.error_budget))
        level, budget = budget.allot(left)
        attempt = attempt.model_copy(update={"stage": stage, "level": level, "spent": budget.spent})
    return draft.put(attempt=attempt) if attempt != draft.status.attempt else draft


def losses(revision: str, status: LLMDeploymentStatus, facts: Facts) -> dict[str, int]:
    """User requests of the attempt that the revision lost and that stable saved, up to now; empty
    where nobody counts them."""
    attempt = status.attempt
    if attempt is None or attempt.revision != revision:
        return {}
    if revision not in facts.traffic.counts and not attempt.errors.total:
        return {}
    counts = _counts(revision, facts)
    errors = _total(attempt.errors, counts.errors, facts)
    saved = min(errors, _total(attempt.saved, counts.saved, facts))
    return {"lost_requests": errors - saved, "saved_requests": saved}


def _stage(status: LLMDeploymentStatus, attempt: AttemptStatus, facts: Facts) -> tuple[str, int]:
    """The name of the running stage, and how many stages there are from it on."""
    prefix = f"{attempt.revision}/{attempt.number}"
    if status.canary_revision is None:
        return f"{prefix}/watch", 1
    step = status.step
    if step is None or not 0 <= step.index < len(facts.steps):
        # Edited away under the rollout: a person decides what comes next.
        return attempt.stage, 1
    if status.promotion is not None and attempt.stage:
        # What the last step showed goes on to be judged; its share is not the step's any more.
        return attempt.stage, 1
    name = f"{prefix}/{step.index}-{step.kind}-{read_share(step.share).ppm}"
    return name, len(facts.steps) - step.index + 1


def _counts(revision: str, facts: Facts) -> RequestCounts:
    return facts.traffic.counts.get(revision, RequestCounts())


def _fold(counter: RequestCounter, count: int, facts: Facts) -> RequestCounter:
    """A new process counts from zero: what it counted before this round is the attempt's too."""
    return RequestCounter(
        total=_total(counter, count, facts), source=facts.traffic.source, base=count
    )


def _total(counter: RequestCounter, count: int, facts: Facts) -> int:
    base = counter.base if counter.source == facts.traffic.source else 0
    return counter.total + max(0, count - base)
