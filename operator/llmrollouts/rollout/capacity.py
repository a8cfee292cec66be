"""How many workers each side has, and which share they carry.

Stable keeps its size while `replicas` + `maxExtraReplicas` leaves room for the canary (R17). Where
it does not, stable gives one worker up for each canary worker, never more than one before the
canary's next one is ready, and the share follows what the ready canary workers carry.
Pure arithmetic; called by steps, promotion, workers and conditions.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmrollouts.api.share import WHOLE, Share
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.api.strategy import Strategy
from llmrollouts.rollout.facts import Facts, read_share


@dataclass(frozen=True, slots=True)
class Capacity:
    """needed: canary workers that the step (or the promotion) needs at the stable load per worker.
    stable_target: stable workers beside them; shrinks: whether stable must give workers up.
    canary, stable: what the worker Deployments are set to now.
    """

    needed: int
    stable_target: int
    canary: int
    stable: int
    shrinks: bool


def workers_for(share: Share, replicas: int) -> int:
    """Canary workers that carry ``share`` at the load of a stable worker; at least one."""
    return max(1, -(-share.ppm * replicas // WHOLE))


def matched_workers(share: Share, replicas: int) -> int:
    """Canary workers that are no busier than ``replicas`` stable ones that answer the others.

    Stable keeps its size, so its workers get idler as the share grows: with as many as carry the
    share at the load before, a canary worker would have twice the requests of a stable one at 50 %,
    and their latencies could not be compared. Above a half even a canary of full size is busier.
    """
    if not can_match(share):
        return replicas
    return max(1, -(-share.ppm * replicas // (WHOLE - share.ppm)))


def can_match(share: Share) -> bool:
    """Whether a canary of at most stable's size can be as busy as stable's workers."""
    return 2 * share.ppm <= WHOLE


def carried_share(ready: int, replicas: int) -> Share:
    """The largest share that ``ready`` workers carry at the load of a stable worker."""
    return Share(min(WHOLE, ready * WHOLE // max(1, replicas)))


def needed_workers(status: LLMDeploymentStatus, facts: Facts) -> int:
    """Canary workers for the running step, or for everyone once a promotion runs."""
    if status.promotion is not None:
        # One worker stays on the side that serves until users have left it.
        return max(1, min(facts.replicas, facts.room - 1))
    if status.step is None:
        return 1
    share = read_share(status.step.share)
    if status.step.kind == "Shadow":
        return workers_for(share, facts.replicas)
    return canary_workers(share, facts.replicas, facts.spec.strategy)


def canary_workers(share: Share, replicas: int, strategy: Strategy) -> int:
    """Workers for a canary step: no busier than stable's where there is room for that beside a
    stable side of full size, and never fewer than carry the share."""
    carrying = workers_for(share, replicas)
    if not strategy.match_load:
        return carrying
    return max(carrying, min(matched_workers(share, replicas), strategy.room_above(replicas)))


def plan_capacity(status: LLMDeploymentStatus, facts: Facts) -> Capacity:
    """The sizes of both sides while a canary is on its way.

    With too little room the canary may get no worker at all (``canary`` 0): a single stable
    worker is never given up.
    """
    full = facts.replicas
    needed = needed_workers(status, facts)
    smallest = min(full, 1)
    target = min(full, max(smallest, facts.room - needed))
    if facts.room - needed >= full:
        return Capacity(needed, full, needed, full, shrinks=False)
    ready = facts.ready(status.canary_revision)
    held = facts.workers.get(status.stable_revision or "")
    now = min(held.replicas if held else full, full)
    stable = max(target, min(now, max(facts.room - ready - 1, _stable_floor(status, facts))))
    leaving = max(len(facts.pods(status.stable_revision)), stable)
    was = facts.workers.get(status.canary_revision or "")
    canary = min(needed, max(facts.room - leaving, min(was.replicas if was else 0, needed)))
    return Capacity(needed, target, max(0, canary), stable, shrinks=True)


def _stable_floor(status: LLMDeploymentStatus, facts: Facts) -> int:
    """Workers that the users who are on stable now need; one less where there is no extra one.

    By what every gateway has acknowledged: users move first, workers follow.
    """
    programmed = facts.traffic.programmed
    if programmed is None or not facts.traffic.settled:
        return facts.replicas
    moved = min(programmed.share_of(status.canary_revision or ""), read_share(status.share))
    # One part in a million of grace: a third of the users is 33.3333 %.
    users = facts.replicas - min(WHOLE, moved.ppm + 1) * facts.replicas // WHOLE
    return users if facts.room > facts.replicas else users - 1


def returnable_share(status: LLMDeploymentStatus, facts: Facts) -> Share:
    """The share of the users that the stable side can take back at once, by its size."""
    return carried_share(plan_capacity(status, facts).stable_target, facts.replicas)


def warm_workers(facts: Facts) -> int:
    """How many workers of the replaced revision are kept warm beside the new one."""
    return min(facts.replicas, facts.room - facts.replicas)
