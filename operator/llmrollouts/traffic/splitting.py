"""One pass over one deployment's HTTPRoute and Services, in the order that is safe at every point.

    1. <name>-stable selects the default revision
    2. the canary's weight falls, if it is above what is wanted
    3. <name>-canary selects the revision that has the share, or the default where none has one
    4. the canary's weight rises, once a worker of that revision is ready behind <name>-canary

So the canary's Service shows users a canary only while a share is wanted and the weight is not
above it; at every other time both Services lead to the default revision, and whatever weights a
person or a GitOps tool writes harm nobody. When a weight cannot be lowered (no right, no route),
step 3 takes the users off the canary all the same. Decides nothing about shares. Called by
httproute.py; keeps nothing between two passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.share import NONE, Share
from llmrollouts.resources.children import Owner
from llmrollouts.resources.services import SIDES, Side
from llmrollouts.rollout.intent import DeploymentTraffic, RouteRule, TrafficProblem
from llmrollouts.traffic.route_port import RouteStore
from llmrollouts.traffic.weights import (
    Acceptance,
    Place,
    UnusableRoute,
    Weights,
    find_place,
    make_patch,
    make_weights,
    read_acceptance,
    read_weights,
)


@dataclass(frozen=True, slots=True)
class Goal:
    """default: behind <name>-stable; None: nothing serves yet. canary: who has ``share``."""

    rule: RouteRule
    default: str | None
    canary: str | None
    share: Share


@dataclass(frozen=True, slots=True)
class Reading:
    """What one pass found and left.

    share: by the weights read back; None: the route cannot be read. wrote: anything was changed.
    services_done: both select what they should, and no ready pod of another revision is left.
    canary_reached: a worker of the canary is ready behind its Service.
    problem: what a person must mend. generation: of the route, 0 without one.
    """

    share: Share | None
    wrote: bool
    services_done: bool
    canary_reached: bool
    acceptance: Acceptance
    generation: int = 0
    problem: TrafficProblem | None = None


def make_goal(traffic: DeploymentTraffic, rule: RouteRule, allowed: bool = True) -> Goal:
    """What the route should do for ``traffic``; ``allowed`` False: with every share 0."""
    shared = next((r for r in traffic.revisions if r.share), None) if allowed else None
    if shared is None or traffic.default is None:
        return Goal(rule, traffic.default, None, NONE)
    return Goal(rule, traffic.default, shared.revision, shared.share)


class Splitter:
    """One pass; ``may_raise``: somebody has just decided that the share may be what is wanted."""

    def __init__(self, store: RouteStore, owner: Owner, goal: Goal, *, may_raise: bool) -> None:
        self._store = store
        self._owner = owner
        self._goal = goal
        self._may_raise = may_raise
        self._route: Manifest | None = None
        self._place: Place | None = None
        self._problem: TrafficProblem | None = None
        self._wrote = False

    async def run(self) -> Reading:
        """Raises what the port raises, UnusableRoute excepted: that is in the reading."""
        goal = self._goal
        await self._read()
        if goal.default is None:
            return self._report(services_done=True, canary_reached=False)
        placed = await self._point("stable", goal.default)
        await self._lower()
        shown = goal.canary if goal.canary is not None and self._is_within() else goal.default
        placed = await self._point("canary", shown) and placed
        clean, reached = await self._look(goal.default, shown) if placed else (False, False)
        reached = reached and shown == goal.canary
        if reached and self._may_raise and self._is_below():
            await self._write(make_weights(goal.share))
        return self._report(services_done=placed and clean, canary_reached=reached)

    def _weights(self) -> Weights | None:
        if self._route is None or self._place is None:
            return None
        return read_weights(self._route, self._place)

    async def _lower(self) -> None:
        weights = self._weights()
        # Two zeros answer every user with an error: then all of them go to the default.
        if weights is not None and (
            weights.share > self._goal.share or weights.stable + weights.canary == 0
        ):
            await self._write(make_weights(min(weights.share, self._goal.share)))

    def _is_within(self) -> bool:
        weights = self._weights()
        return weights is not None and weights.share <= self._goal.share

    def _is_below(self) -> bool:
        weights = self._weights()
        return weights is not None and weights.share < self._goal.share

    async def _read(self) -> None:
        rule = self._goal.rule
        try:
            self._route = await self._store.read_route(self._owner.namespace, rule.route)
            self._place = find_place(self._route, self._owner.name, rule)
        except UnusableRoute as error:
            self._note(error)

    async def _write(self, weights: Weights) -> None:
        if self._route is None or self._place is None:
            return
        operations = make_patch(self._route, self._place, weights)
        namespace, name = self._owner.namespace, self._goal.rule.route
        try:
            self._route = await self._store.patch_route(namespace, name, operations)
            self._wrote = True
        except UnusableRoute as error:
            self._note(error)

    async def _point(self, side: Side, revision: str) -> bool:
        """Whether the Service selects ``revision`` now."""
        try:
            self._wrote = (
                await self._store.point_service(self._owner, side, revision) or self._wrote
            )
        except UnusableRoute as error:
            self._note(error)
            return False
        return True

    async def _look(self, default: str, shown: str) -> tuple[bool, bool]:
        """Whether no ready pod of another revision is left, and whether ``shown`` has one."""
        clean, reached = True, False
        for side, revision in zip(SIDES, (default, shown), strict=True):
            try:
                pods = await self._store.read_endpoints(self._owner, side)
            except UnusableRoute as error:
                self._note(error)
                return (False, False)
            prefix = labels.child_name(self._owner.name, revision) + "-"
            ours = [pod for pod in pods if pod.startswith(prefix)]
            clean = clean and len(ours) == len(pods)
            reached = bool(ours)
        return (clean, reached)

    def _note(self, error: UnusableRoute) -> None:
        """The first problem counts: the others may follow from it."""
        self._problem = self._problem or error.problem

    def _report(self, *, services_done: bool, canary_reached: bool) -> Reading:
        weights = self._weights()
        route = self._route
        return Reading(
            share=None if weights is None else weights.share,
            wrote=self._wrote,
            services_done=services_done,
            canary_reached=canary_reached,
            acceptance=Acceptance(0, 0) if route is None else read_acceptance(route),
            generation=0 if route is None else int(route["metadata"].get("generation") or 0),
            problem=self._problem,
        )
