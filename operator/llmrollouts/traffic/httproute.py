"""A user's own gateway as a traffic provider: shares are weights of an HTTPRoute.

Theory of operation. ``program`` says what is wanted and wakes the deployment's own task, which
reads the route and writes what differs (splitting.py has the safe order), again and again: every
two seconds while a revision is on its way, so that what somebody else wrote is put right, and
every five minutes at rest. Only the leader writes.

What it cannot do, and says (condition TrafficGuarantees): a weight has no time to live, so if the
whole operator dies in a canary step the share stays until it is back; nobody counts requests; and
when a gateway carries what its controller has accepted is not known, only guessed. One half of the
dead-man's switch it has: a process that lives but completes no round for 8 s sets the weight to 0.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from llmrollouts.resources.children import Owner
from llmrollouts.rollout.intent import DeploymentTraffic, RouteRule, TrafficObservation
from llmrollouts.traffic import telemetry
from llmrollouts.traffic.authority import Leadership
from llmrollouts.traffic.route_port import Moved, NotAllowed, RouteStore, Unreachable
from llmrollouts.traffic.splitting import Goal, Reading, Splitter, make_goal

LOG: Final = logging.getLogger(__name__)

# How many deployments are read and written at once.
AT_ONCE: Final = 8
_RACES: Final = 5


@dataclass(frozen=True, slots=True)
class RouteTiming:
    """Seconds. No installation changes these; tests do, to be quick.

    lease: as the built-in gateway's. propagation: what a gateway is given to carry what its
    controller has accepted. patience: a route without any share counts as settled after this long
    though no gateway says so, because both Services lead to one revision by then.
    soon, active, rest: between two looks while something is under way; while a revision is on its
    way; at rest.
    """

    lease: float = 8.0
    propagation: float = 3.0
    patience: float = 60.0
    soon: float = 0.5
    active: float = 2.0
    rest: float = 300.0


@dataclass(slots=True)
class _Entry:
    """One deployment. Times are of the monotonic clock; None: never.

    lease: until when the share may be above 0. decided: a round of this process has granted that,
    not a leader before. goal: of the last pass. done_since: the route and the Services are as the
    goal says. accepted_since: and its gateways have accepted it.
    """

    traffic: DeploymentTraffic
    rule: RouteRule
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    lease: float | None = None
    decided: bool = False
    lapsed: bool = False
    leaving: bool = False
    goal: Goal | None = None
    reading: Reading | None = None
    generation: int = 0
    read_at: float | None = None
    done_since: float | None = None
    accepted_since: float | None = None

    @property
    def is_active(self) -> bool:
        return len(self.traffic.revisions) > 1


class HTTPRouteTraffic:
    """Implements TrafficPort for deployments whose traffic names a rule of an HTTPRoute.

    Use from one event loop. ``on_news``: (namespace, name) of a deployment of which ``observe``
    says something else than before.
    """

    def __init__(
        self,
        store: RouteStore,
        leadership: Leadership,
        on_news: Callable[[str, str], None],
        timing: RouteTiming | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._on_news = on_news
        self._timing = timing or RouteTiming()
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._source = uuid.uuid4().hex[:12]

    def knows(self, uid: str) -> bool:
        """Whether this provider splits the users of a deployment now."""
        entry = self._entries.get(uid)
        return entry is not None and not entry.leaving

    def program(self, traffic: DeploymentTraffic) -> None:
        """Ask for ``traffic`` from now on. Raises ValueError where it names no route."""
        if traffic.rule is None:
            raise ValueError(
                f"the traffic of {traffic.namespace}/{traffic.name} names no HTTPRoute"
            )
        entry = self._entries.get(traffic.uid)
        if entry is None:
            entry = _Entry(traffic, traffic.rule)
            self._entries[traffic.uid] = entry
            entry.task = asyncio.get_running_loop().create_task(
                self._follow(traffic.uid, entry), name=f"route of {traffic.name}"
            )
            return
        if entry.traffic == traffic and not entry.leaving:
            return
        entry.traffic, entry.rule, entry.leaving = traffic, traffic.rule, False
        entry.wake.set()

    def renew(self, uid: str) -> None:
        entry = self._entries.get(uid)
        if entry is None:
            return
        held = entry.decided and self._holds(entry)
        entry.lease = self._clock() + self._timing.lease
        entry.decided, entry.lapsed = True, False
        if not held:
            entry.wake.set()

    def forget(self, uid: str) -> None:
        """The deployment is gone, its Services with it; the route is its owner's."""
        entry = self._entries.pop(uid, None)
        if entry is not None and entry.task is not None:
            entry.task.cancel()

    def release(self, uid: str) -> None:
        """Another provider splits the users from now on: the last word here is weight 0."""
        entry = self._entries.get(uid)
        if entry is not None and not entry.leaving:
            entry.leaving = True
            entry.wake.set()

    async def stop(self) -> None:
        """End every task; the weights stay as they are."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        self._entries.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def observe(self, uid: str) -> TrafficObservation:
        entry = self._entries.get(uid)
        if entry is None:
            return TrafficObservation(source=self._source, counts_requests=False)
        reading = entry.reading
        settled = self._is_settled(entry)
        age = None if entry.read_at is None else self._clock() - entry.read_at
        if reading is None:
            return TrafficObservation(
                programmed=entry.traffic, source=self._source, counts_requests=False
            )
        return TrafficObservation(
            programmed=entry.traffic,
            settled=settled,
            gateways=reading.acceptance.gateways,
            settled_gateways=reading.acceptance.accepted,
            report_age=age,
            source=self._source,
            refusals=reading.acceptance.refusals,
            counts_requests=False,
            problem=reading.problem,
        )

    # What is wanted.

    def _holds(self, entry: _Entry) -> bool:
        return entry.lease is not None and entry.lease > self._clock()

    def _make_goal(self, entry: _Entry) -> Goal:
        goal = make_goal(entry.traffic, entry.rule, allowed=not entry.leaving)
        if entry.lease is None:
            # Leading begins: what the leader before has granted stays for as long as a lease, and
            # nothing rises.
            entry.lease = self._clock() + self._timing.lease
        if not goal.share or self._holds(entry):
            return goal
        if not entry.lapsed:
            entry.lapsed = True
            telemetry.EXPIRED_LEASES.inc()
            LOG.error(
                "Set the share of a deployment to 0: no round renewed its lease",
                extra={"deployment": entry.traffic.name, "uid": entry.traffic.uid},
            )
        return make_goal(entry.traffic, entry.rule, allowed=False)

    def _is_settled(self, entry: _Entry) -> bool:
        if entry.traffic.default is None:
            return True
        if entry.goal is None or entry.goal != make_goal(entry.traffic, entry.rule):
            return False
        now, timing = self._clock(), self._timing
        if entry.accepted_since is not None:
            return now - entry.accepted_since >= timing.propagation
        return (
            not entry.goal.share
            and entry.done_since is not None
            and now - entry.done_since >= timing.patience
        )

    # The task of one deployment.

    async def _follow(self, uid: str, entry: _Entry) -> None:
        failures = 0
        while self._entries.get(uid) is entry:
            entry.wake.clear()
            before = self._describe(entry)
            try:
                pause = await self._look(entry)
                failures = 0
            except (Unreachable, NotAllowed) as error:
                pause = min(self._timing.soon * 2**failures, 10.0)
                failures = min(failures + 1, 6)
                self._complain(entry, error)
            except Exception:
                # Whatever it is, only this deployment pays; what nobody confirms rises no more.
                LOG.exception("Failed to split", extra={"deployment": entry.traffic.name})
                pause = 10.0
            if entry.leaving and self._is_done(entry):
                self._entries.pop(uid, None)
                return
            if self._describe(entry) != before:
                self._on_news(entry.traffic.namespace, entry.traffic.name)
            try:
                async with asyncio.timeout(pause):
                    await entry.wake.wait()
            except TimeoutError:
                continue

    async def _look(self, entry: _Entry) -> float:
        """One pass; seconds to the next."""
        if not self._leadership.may_push():
            # Whoever leads writes; when this process does, it trusts nothing that it knew.
            entry.lease, entry.goal, entry.reading, entry.read_at = None, None, None, None
            entry.decided = entry.lapsed = False
            entry.done_since = entry.accepted_since = None
            return self._timing.active
        async with self._turn:
            for _ in range(_RACES):
                goal = self._make_goal(entry)
                traffic = entry.traffic
                owner = Owner(traffic.namespace, traffic.name, traffic.uid)
                may_raise = entry.decided and self._holds(entry)
                splitter = Splitter(self._store, owner, goal, may_raise=may_raise)
                try:
                    reading = await splitter.run()
                except Moved:
                    continue
                self._note(entry, goal, reading)
                break
            else:
                return self._timing.soon
        if reading.wrote or not self._is_settled(entry):
            return self._timing.soon if reading.problem is None else self._timing.active
        if entry.is_active or entry.leaving:
            return self._timing.active
        return self._timing.rest * random.uniform(0.8, 1.2)  # noqa: S311 - so that they never meet

    def _note(self, entry: _Entry, goal: Goal, reading: Reading) -> None:
        now = self._clock()
        changed = reading.wrote or goal != entry.goal or reading.generation != entry.generation
        entry.goal, entry.reading, entry.generation = goal, reading, reading.generation
        if reading.share is not None and reading.problem is None:
            entry.read_at = now
        done = self._is_done(entry)
        accepted = (
            done
            and reading.problem is None
            and 0 < reading.acceptance.gateways == reading.acceptance.accepted
        )
        entry.done_since = _since(entry.done_since, done, changed, now)
        entry.accepted_since = _since(entry.accepted_since, accepted, changed, now)

    def _is_done(self, entry: _Entry) -> bool:
        """Route and Services are as the goal says. Without a share the Services alone suffice:
        then no weight can lead to another revision than the default."""
        goal, reading = entry.goal, entry.reading
        if goal is None or reading is None or not reading.services_done:
            return False
        if reading.share is None:
            return not goal.share
        return reading.share == goal.share and (not goal.share or reading.canary_reached)

    def _describe(self, entry: _Entry) -> object:
        reading = entry.reading
        if reading is None:
            return None
        return (self._is_settled(entry), reading.problem, reading.acceptance)

    def _complain(self, entry: _Entry, error: Exception) -> None:
        names = {"deployment": entry.traffic.name, "error": str(error)[:300]}
        LOG.warning("Failed to reach the HTTPRoute", extra=names)


def _since(before: float | None, holds: bool, changed: bool, now: float) -> float | None:
    if not holds:
        return None
    return now if before is None or changed else before
