"""One round for one LLMDeployment: observe -> plan -> act -> renew -> when again.

It decides how a failure is met, never what a rollout does: whose fault an error is says whether
the round is repeated at once, later, or when the user has changed something. A bug is logged with
its trace, counted and retried with back-off, the object gets a condition that says so, and every
other deployment goes on (R26). The leases of a deployment's shares are renewed here and nowhere
else, at the end of a round that was completed in time on fresh evidence: whatever stops the rounds
therefore takes the shares back to 0. Called by the queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Protocol

from llmrollouts.api.reasons import Reason
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.controller.act import Actor
from llmrollouts.controller.complaints import Complaints
from llmrollouts.controller.errors import NotLeading, TerminalError
from llmrollouts.controller.fast_lane import Lowerings
from llmrollouts.controller.fence import Leadership
from llmrollouts.controller.keep import keep_traffic
from llmrollouts.controller.keys import Key
from llmrollouts.controller.observe import Observer, Sight
from llmrollouts.controller.queue import Again, BackOff, Outcome, Settled
from llmrollouts.controller.telemetry import Telemetry
from llmrollouts.controller.versions import Versions
from llmrollouts.kube.port import Conflict, NotFound, Rejected, Transient
from llmrollouts.rollout.effects import Plan
from llmrollouts.rollout.observation import Observation
from llmrollouts.traffic.port import TrafficPort

LOG: Final = logging.getLogger(__name__)

# A round whose reading is older than this when it ends renews nothing: its evidence is stale.
FRESH_SECONDS: Final = 5.0
# Whatever the plan says, no deployment is left alone for longer; spread so that they never meet.
RESYNC_SECONDS: Final = 4 * 3600.0

TRANSIENT: Final = BackOff(first=0.25, longest=10.0)
REJECTED: Final = BackOff(first=5.0, longest=300.0)
BUG: Final = BackOff(first=1.0, longest=120.0)


class Planner(Protocol):
    def __call__(
        self, observation: Observation, settings: OperatorSettings, now: datetime, epoch: int
    ) -> Plan: ...


class Reconciler:
    """``stop`` is called once this process must not go on (it does not lead any more)."""

    def __init__(
        self,
        observer: Observer,
        planner: Planner,
        actor: Actor,
        complaints: Complaints,
        traffic: TrafficPort,
        settings: OperatorSettings,
        leadership: Leadership,
        telemetry: Telemetry,
        versions: Versions,
        lowerings: Lowerings,
        stop: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._observer = observer
        self._planner = planner
        self._actor = actor
        self._complaints = complaints
        self._traffic = traffic
        self._settings = settings
        self._leadership = leadership
        self._telemetry = telemetry
        self._versions = versions
        self._lowerings = lowerings
        self._stop = stop
        self._now = now
        self._uids: dict[Key, str] = {}

    def adopt(self, key: Key, uid: str) -> None:
        """``uid`` is what the proxies know of ``key`` from now on; an earlier one goes."""
        was = self._uids.get(key)
        if was is not None and was != uid:
            self._traffic.forget(was)
        self._uids[key] = uid

    def uid_of(self, key: Key) -> str | None:
        return self._uids.get(key)

    def known(self) -> frozenset[Key]:
        return frozenset(self._uids)

    def forget(self, key: Key) -> None:
        """The deployment is gone: its routes and its series go with it (R12)."""
        uid = self._uids.pop(key, None)
        if uid is not None:
            self._traffic.forget(uid)
            LOG.info("Forgot a deleted deployment", extra={"llmdeployment": str(key)})
        self._observer.forget(key)
        self._versions.forget(key)
        self._telemetry.forget(key)

    async def reconcile(self, key: Key) -> Outcome:
        """Never raises, except when it is cancelled."""
        started = asyncio.get_running_loop().time()
        result, outcome = await self._attempt(key, started)
        self._telemetry.count_round(result, asyncio.get_running_loop().time() - started)
        return outcome

    async def _attempt(self, key: Key, started: float) -> tuple[str, Outcome]:
        try:
            self._leadership.require()
            return "ok", await self._round(key, started)
        except Exception as error:  # noqa: BLE001 - whatever it is, only this key pays (R26)
            return await self._meet(key, error)

    async def _meet(self, key: Key, error: Exception) -> tuple[str, Outcome]:
        """What a failure is called, and what follows from it."""
        names = {"llmdeployment": str(key), "error": str(error)[:500]}
        match error:
            case NotLeading():
                self._stop(str(error))
                return "not_leading", Settled()
            case Conflict() | NotFound():
                # Somebody wrote first, or a child vanished under our hands.
                LOG.info("Lost a race", extra=names)
                result: tuple[str, Outcome] = ("conflict", Again())
            case Transient():
                LOG.warning("Failed to reach the API server", extra=names)
                after = error.retry_after or 0.0
                result = ("transient", replace(TRANSIENT, at_least=after))
            case TerminalError():
                LOG.warning("Found a spec that cannot be used", extra=names)
                await self._complaints.about_spec(key, error.reason, str(error))
                result = ("invalid", Settled(_spread(RESYNC_SECONDS)))
            case Rejected():
                LOG.warning("Was refused by the API server", extra=names)
                await self._complaints.about_round(key, Reason.API_REJECTED, str(error))
                result = ("rejected", REJECTED)
            case _:
                LOG.error("Failed in an unexpected way", extra=names, exc_info=error)
                self._telemetry.count_bug()
                told = f"{type(error).__name__}: {error}"
                await self._complaints.about_round(key, Reason.RECONCILE_ERROR, told)
                result = ("bug", BUG)
        return result

    async def _round(self, key: Key, started: float) -> Outcome:
        lowerings = self._lowerings.count(key)
        try:
            objects = await self._observer.read(key)
        except NotFound:
            self.forget(key)
            return Settled()
        uid = objects.deployment["metadata"]["uid"]
        self.adopt(key, uid)
        sight = await self._observer.interpret(key, objects)
        await self._outrank(sight)
        plan = self._decide(sight)
        await self._actor.act(key, sight, plan, lowerings)
        if plan.renew and asyncio.get_running_loop().time() - started <= FRESH_SECONDS:
            self._leadership.require()
            self._traffic.renew(uid)
        self._telemetry.describe(key, sight.observation, plan.status)
        return Settled(_spread(RESYNC_SECONDS) if plan.wake_after is None else plan.wake_after)

    def _decide(self, sight: Sight) -> Plan:
        seen, now, epoch = sight.observation, self._now(), self._leadership.epoch
        try:
            if sight.spec_problem is not None:
                raise TerminalError(Reason.INVALID_SPEC, sight.spec_problem)
            return self._planner(seen, self._settings, now, epoch)
        except Exception:
            # No decision: the users stay where they are, on the workers that are ready now.
            self._leadership.require()
            keep_traffic(self._traffic, seen, self._settings, now, epoch)
            raise

    async def _outrank(self, sight: Sight) -> None:
        written = sight.observation.deployment.status.epoch
        if written is not None and written > self._leadership.epoch:
            await self._leadership.outrank(written)


def _spread(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - to spread load, not to hide anything
