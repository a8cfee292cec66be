"""Which workers there shall be, and the writes that make it so.

Roles and sizes follow from the status; only what differs from the cluster is written, so an idle
deployment causes no write at all. A pod template is never changed. Called by plan() at the end of
each round; deletions are in retire.py.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from llmrollouts.api.labels import DEPLOYMENT, REVISION
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.bootstrap import starts
from llmrollouts.rollout.capacity import plan_capacity, warm_workers
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.effects import ApplyWorkers
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.retire import deletions

Role: TypeAlias = Literal["stable", "canary", "retired"]


def wanted_workers(draft: Draft, facts: Facts) -> tuple[ApplyWorkers, ...]:
    """Every worker Deployment as it shall be, in the order in which to write them."""
    status = draft.status
    stable, canary = status.stable_revision, status.canary_revision
    wanted: list[ApplyWorkers] = []
    if stable is None:
        if draft.target is not None and starts(draft, facts):
            # The label says stable only of a revision that has served: see recall.py.
            wanted.append(ApplyWorkers(draft.target, facts.replicas, "canary"))
    elif canary is not None:
        sizes = plan_capacity(status, facts)
        wanted.append(ApplyWorkers(stable, sizes.stable, "stable"))
        wanted.append(ApplyWorkers(canary, sizes.canary, "canary"))
    else:
        wanted.append(ApplyWorkers(stable, facts.replicas, "stable"))
    if status.warm is not None:
        wanted.append(_keep_warm(status.warm.revision, facts))
    wanted.extend(_keep(leaving.revision, facts) for leaving in status.retiring)
    return tuple(wanted)


def changes(draft: Draft, facts: Facts) -> tuple[ApplyWorkers, ...]:
    """The writes: what is missing or differs, as far as its record is known."""
    leaving = {each.revision for each in draft.status.retiring}
    # An apply after the deletion would bring them back.
    deleted = {effect.revision for effect in deletions(draft.status, facts)}
    return tuple(
        wanted
        for wanted in wanted_workers(draft, facts)
        if wanted.revision in facts.records
        and wanted.revision not in deleted
        and _differs(wanted, facts, create=wanted.revision not in leaving)
    )


def _keep_warm(revision: str, facts: Facts) -> ApplyWorkers:
    """Warm workers are never added: a new one would have to load weights."""
    held = facts.workers.get(revision)
    size = min(warm_workers(facts), held.replicas) if held is not None else 0
    return ApplyWorkers(revision, size, "retired")


def _keep(revision: str, facts: Facts) -> ApplyWorkers:
    held = facts.workers.get(revision)
    return ApplyWorkers(revision, held.replicas if held is not None else 0, "retired")


def _differs(wanted: ApplyWorkers, facts: Facts, *, create: bool) -> bool:
    held = facts.workers.get(wanted.revision)
    if held is None:
        return create and wanted.replicas > 0
    if held.terminating:
        # Written when it is gone: an apply now would only touch the dying object.
        return False
    missing = create and wanted.revision not in facts.observation.config_maps
    return held.replicas != wanted.replicas or held.role != wanted.role or missing


def selector(status: LLMDeploymentStatus, deployment: str) -> str:
    """The pods that the scale subresource counts: those of the revision that serves."""
    stable = status.stable_revision
    base = f"{DEPLOYMENT}={deployment}"
    return f"{base},{REVISION}={stable}" if stable is not None else base
