"""``phase`` and ``message``: the rollout in one word and in one sentence, for people at 3 a.m.

Printed and never read back. Called by plan() at the end of each round.
"""

from __future__ import annotations

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus, Phase
from llmrollouts.rollout.bootstrap import why_not_serving
from llmrollouts.rollout.checks import plural
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import Facts, read_share
from llmrollouts.rollout.provider import describe_telling
from llmrollouts.rollout.revisions import Wanted
from llmrollouts.rollout.start import why_not_started
from llmrollouts.rollout.step_checks import describe_progress, waiting


def summarize(draft: Draft, wanted: Wanted, facts: Facts) -> tuple[Phase, str]:
    """The phase and the message."""
    status = draft.status
    if status.stable_revision is None:
        return _first(draft, wanted, facts)
    if status.canary_revision is not None:
        return _rolling(draft, facts)
    last = status.last_rollback
    leaving = {each.revision for each in status.retiring}
    if last is not None and last.revision in leaving and last.programmed_at is None:
        return (
            "RollingBack",
            f"All users go back from {last.revision} to {last.to}: {last.message}",
        )
    blocked = why_not_started(draft, facts)
    ready = facts.ready(status.stable_revision)
    if blocked is not None:
        serving = f"{status.stable_revision} answers all users. {blocked.message}"
        stuck = blocked.reason in (Reason.REJECTED, Reason.NO_STEPS)
        return ("Degraded" if stuck else "Progressing", serving)
    count = f"{ready} of {plural(facts.replicas, 'worker')} ready"
    if wanted.problem is not None:
        return (
            "Degraded",
            (
                f"{status.stable_revision} answers all users ({count}). The new revision cannot be "
                f"used: {wanted.problem.message}"
            ),
        )
    if ready == 0 and facts.replicas > 0:
        why = facts.why_not_ready(status.stable_revision)
        return ("Degraded", f"No worker of {status.stable_revision} is ready. {why}".strip())
    if ready < facts.replicas:
        why = facts.why_not_ready(status.stable_revision)
        told = f"{status.stable_revision} serves, {count}"
        return ("Starting", f"{told}: {why}" if why else told)
    if not facts.reaches_users(status.stable_revision):
        return ("Starting", f"{status.stable_revision}: {count}; {describe_telling(facts)}")
    told = f"{status.stable_revision} answers all users, {count}"
    return ("Serving", told + _warm(status))


def _warm(status: LLMDeploymentStatus) -> str:
    warm = status.warm
    if warm is None:
        return ""
    control = f" and answers {warm.share} for the comparison" if read_share(warm.share) else ""
    return (
        f"; {warm.revision} is warm until {warm.until:%Y-%m-%d %H:%M:%SZ}{control}, `rollback` "
        "goes back at once"
    )


def _first(draft: Draft, wanted: Wanted, facts: Facts) -> tuple[Phase, str]:
    if wanted.problem is not None:
        return ("Pending", wanted.problem.message)
    why = why_not_serving(draft, facts)
    match why.reason:
        case Reason.WAITING_FOR_SOURCE:
            return ("Pending", why.message)
        case Reason.FIRST_REVISION_FAILED | Reason.REJECTED:
            return ("Failed", why.message)
        case _:
            return ("Starting", why.message)


def _rolling(draft: Draft, facts: Facts) -> tuple[Phase, str]:
    status = draft.status
    message = describe_progress(draft, facts)
    if status.paused:
        return ("Paused", message)
    if status.hold is not None:
        return ("Held", message)
    why = waiting(draft, facts)
    if why is not None and why.reason in (
        Reason.NO_ROOM,
        Reason.NOT_READY_IN_TIME,
    ):
        return ("Held", message)
    return ("Promoting" if status.promotion is not None else "Progressing", message)
