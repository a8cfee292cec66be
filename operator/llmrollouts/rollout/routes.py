"""What the proxies shall do: follows from the status alone, and from which workers are ready.

So a new leader programs what was committed, never what was merely planned. Decides nothing.
Called by plan() at the end of each round.
"""

from __future__ import annotations

from llmrollouts.api.share import NONE
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.facts import Facts, read_share
from llmrollouts.rollout.intent import DeploymentTraffic, Endpoint, RevisionTraffic
from llmrollouts.rollout.provider import rule_of


def route(status: LLMDeploymentStatus, facts: Facts) -> DeploymentTraffic:
    """The intended traffic of a status."""
    stable, canary = status.stable_revision, status.canary_revision
    default = stable
    switched = status.promotion is not None and status.promotion.stage in ("Switching", "Clearing")
    if canary is not None and switched:
        default = canary
    revisions: list[RevisionTraffic] = []
    warm = status.warm.revision if status.warm is not None else None
    if stable is not None:
        revisions.append(RevisionTraffic(stable, _answering(stable, warm, facts), fallback=warm))
    if canary is not None:
        revisions.append(
            RevisionTraffic(
                canary,
                facts.endpoints(canary),
                share=read_share(status.share),
                mirror=read_share(status.shadow_share),
                fallback=stable,
            )
        )
    if status.warm is not None:
        revisions.append(
            RevisionTraffic(
                status.warm.revision,
                facts.endpoints(status.warm.revision),
                share=read_share(status.warm.share),
                mirror=read_share(status.warm.shadow_share),
                fallback=stable,
            )
        )
    revisions.extend(
        RevisionTraffic(
            leaving.revision, facts.endpoints(leaving.revision), NONE, NONE, fallback=stable
        )
        for leaving in status.retiring
        if leaving.released_at is None
    )
    deployment = facts.deployment
    return DeploymentTraffic(
        deployment.namespace,
        deployment.name,
        deployment.uid,
        default,
        tuple(revisions),
        rule_of(facts),
    )


def _answering(stable: str, warm: str | None, facts: Facts) -> tuple[Endpoint, ...]:
    """Stable's workers; where nobody at all is ready, those that were.

    A starved machine fails every probe at once while the workers still answer: a gateway with an
    empty list would refuse every user. The canary needs no such list, stable answers for it.
    """
    ready = facts.endpoints(stable)
    if ready or facts.ready(warm):
        return ready
    return facts.last_resort(stable)
