"""A rollback's way past everything else: one request, then the share is 0.

When the watch shows a command on a deployment that has a canary with users, the LLMDeployment is
read (never believed from the event, R31), alone, over connections of its own, beside whatever
round is running. If the state machine will obey a rollback on it (rollout/fast_lane decides), the
proxies are told at once: a share may fall before the status says so. Then the ordinary round
follows, reads everything and does all the rest. A round that had begun before must not raise the
share again from what it read then: it sees by ``lowerings`` that it has lost.

It commits nothing and writes nothing; when it fails, the round comes all the same.
Called by controller/operator.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from llmrollouts.controller.errors import NotLeading
from llmrollouts.controller.fence import Leadership
from llmrollouts.controller.keys import Key
from llmrollouts.controller.observe import read_deployment
from llmrollouts.kube.port import LLM_DEPLOYMENT, KubeError, Reader
from llmrollouts.rollout.fast_lane import carries_users, lowers_at_once
from llmrollouts.traffic.port import TrafficPort

LOG: Final = logging.getLogger(__name__)

# So long at most rounds give way to looks: neither may keep the other from its end.
GIVE_WAY: Final = 1.0


class Lowerings:
    """How often the shares of each key were lowered beside its rounds."""

    def __init__(self) -> None:
        self._counts: dict[Key, int] = {}

    def note(self, key: Key) -> None:
        self._counts[key] = self.count(key) + 1

    def count(self, key: Key) -> int:
        return self._counts.get(key, 0)


class FastLane:
    """``count_bug`` hears of errors that nobody expected."""

    def __init__(
        self,
        reader: Reader,
        traffic: TrafficPort,
        leadership: Leadership,
        lowerings: Lowerings,
        count_bug: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._traffic = traffic
        self._leadership = leadership
        self._lowerings = lowerings
        self._count_bug = count_bug
        self._looking: set[Key] = set()
        self._clear = asyncio.Event()
        self._clear.set()

    def is_open(self, key: Key, uid: str | None) -> bool:
        """Whether a look may be worth its request: users could be lowered, and nobody looks."""
        return (
            uid is not None
            and key not in self._looking
            and carries_users(self._traffic.observe(uid).programmed)
        )

    async def look(self, key: Key) -> None:
        """Lower what a rollback on the deployment lowers. Never raises unless cancelled."""
        names = {"llmdeployment": str(key)}
        self._looking.add(key)
        self._clear.clear()
        try:
            await self._lower(key)
        except (KubeError, NotLeading) as error:
            LOG.info("Left a command to its round", extra={**names, "error": str(error)[:300]})
        except Exception:
            # Only this look fails (R26): the round will meet the same object.
            LOG.exception("Failed to look at a command", extra=names)
            self._count_bug()
        finally:
            self._looking.discard(key)
            if not self._looking:
                self._clear.set()

    async def give_way(self) -> None:
        """Wait while anybody looks, so that a hundred looks come before a hundred rounds."""
        if self._clear.is_set():
            return
        try:
            async with asyncio.timeout(GIVE_WAY):
                await self._clear.wait()
        except TimeoutError:
            return

    async def _lower(self, key: Key) -> None:
        manifest = await self._reader.get(LLM_DEPLOYMENT, key.namespace, key.name)
        deployment, problem = read_deployment(key, manifest)
        if problem is not None:
            return
        programmed = self._traffic.observe(deployment.uid).programmed
        lowered = lowers_at_once(deployment, programmed, self._leadership.epoch)
        if lowered is None:
            return
        self._leadership.require()
        self._traffic.program(lowered)
        self._lowerings.note(key)
        LOG.info("Lowered the shares for a rollback", extra={"llmdeployment": str(key)})
