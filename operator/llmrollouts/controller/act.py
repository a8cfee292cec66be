"""Carries out one plan, in the only order that is safe at every point where it may stop.

    1. traffic, lowered only   a share may fall before the status says so, never rise
    2. status                  compare-and-swap; whoever lost reads again and decides again
    3. traffic, as planned     now that it is committed
    4. effects                 in the plan's order; each may be done twice
    5. notices                 as Events and log lines

A crash after any of these leaves a world from which the next round reaches the same end. What the
fast lane has lowered beside this round is not raised by it: the round has lost then. The
leadership is checked before each push and, by the fenced writer, before each write. It decides
nothing. Called by controller/reconcile.
"""

from __future__ import annotations

import logging
from typing import Final

from llmrollouts.api.deployment import write_status
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.reasons import ConditionType
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.controller.children import ChildrenKeeper
from llmrollouts.controller.events import EventRecorder
from llmrollouts.controller.fast_lane import Lowerings
from llmrollouts.controller.fence import ChildWriter, Leadership
from llmrollouts.controller.keys import Key
from llmrollouts.controller.observe import Sight
from llmrollouts.controller.telemetry import Telemetry
from llmrollouts.controller.versions import Versions
from llmrollouts.kube.port import LLM_DEPLOYMENT, Conflict
from llmrollouts.rollout.effects import Notice, Plan
from llmrollouts.rollout.intent import DeploymentTraffic, lowered
from llmrollouts.traffic.port import TrafficPort

LOG: Final = logging.getLogger(__name__)


class Actor:
    def __init__(
        self,
        writer: ChildWriter,
        children: ChildrenKeeper,
        traffic: TrafficPort,
        leadership: Leadership,
        events: EventRecorder,
        versions: Versions,
        telemetry: Telemetry,
        lowerings: Lowerings,
    ) -> None:
        self._writer = writer
        self._children = children
        self._traffic = traffic
        self._leadership = leadership
        self._events = events
        self._versions = versions
        self._telemetry = telemetry
        self._lowerings = lowerings

    async def act(self, key: Key, sight: Sight, plan: Plan, lowerings: int) -> None:
        """``lowerings``: their count when the round began to read. Raises NotLeading, the API's
        errors, and Conflict when somebody wrote first."""
        self._require_unlowered(key, lowerings)
        if plan.traffic is not None:
            current = sight.observation.traffic.programmed
            self._program(lowered(current, plan.traffic))
        await self._commit(key, sight, without_complaint(plan.status))
        self._require_unlowered(key, lowerings)
        if plan.traffic is not None:
            self._program(plan.traffic)
        await self._children.perform(key, sight.observation, plan.effects)
        for notice in plan.notices:
            self.tell(key, sight.manifest, notice)
        self._time_rollback(sight.observation.deployment.status, plan.status)

    def tell(self, key: Key, deployment: Manifest, notice: Notice) -> None:
        level = logging.WARNING if notice.kind == "Warning" else logging.INFO
        names = {"llmdeployment": str(key), "reason": notice.reason, "detail": notice.message}
        LOG.log(level, "Recorded a transition", extra=names)
        self._telemetry.count_transition(notice.reason)
        self._events.tell(deployment, notice)

    def _program(self, traffic: DeploymentTraffic) -> None:
        self._leadership.require()
        self._traffic.program(traffic)

    def _require_unlowered(self, key: Key, lowerings: int) -> None:
        if self._lowerings.count(key) != lowerings:
            raise Conflict(f"{key}: a rollback lowered the shares while this round was under way")

    async def _commit(self, key: Key, sight: Sight, status: LLMDeploymentStatus) -> None:
        if is_same(sight.manifest, status):
            return
        wanted = write_status(sight.manifest, status)
        written = await self._writer.replace_status(LLM_DEPLOYMENT, wanted)
        self._versions.note_written(key, written)

    def _time_rollback(self, was: LLMDeploymentStatus, now: LLMDeploymentStatus) -> None:
        rollback = now.last_rollback
        if rollback is None or rollback.programmed_at is None:
            return
        if was.last_rollback is not None and was.last_rollback.programmed_at is not None:
            return
        began = rollback.requested_at or rollback.decided_at
        self._telemetry.time_rollback((rollback.programmed_at - began).total_seconds())


def is_same(manifest: Manifest, status: LLMDeploymentStatus) -> bool:
    """Whether ``status`` says what the manifest's own says already.

    The epoch alone is no news: a new leader does not write a thousand settled statuses.
    """
    was = manifest.get("status") or {}
    given = dict(write_status(manifest, status)["status"])
    if "epoch" in was:
        given["epoch"] = was["epoch"]
    return given == was


def without_complaint(status: LLMDeploymentStatus) -> LLMDeploymentStatus:
    """The status of a round that was completed: what an earlier one complained of is over."""
    kept = [c for c in status.conditions if c.type != ConditionType.RECONCILED]
    if len(kept) == len(status.conditions):
        return status
    return status.model_copy(update={"conditions": kept})
