"""The standby's round: keep the committed routes ready, decide nothing, write nothing.

When no Lease is fresh the standby serves gateways from what it knows here, every share 0 (nothing
on this path renews a lease). When it becomes the leader, controller/takeover reads all anew.
Called by the queue while this process does not lead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from llmrollouts.api.settings import OperatorSettings
from llmrollouts.controller.keep import committed_traffic
from llmrollouts.controller.keys import Key
from llmrollouts.controller.observe import Observer
from llmrollouts.controller.queue import BackOff, Outcome, Settled
from llmrollouts.controller.reconcile import Reconciler
from llmrollouts.kube.port import KubeError, NotFound
from llmrollouts.traffic.port import TrafficPort

LOG: Final = logging.getLogger(__name__)

# News reach a standby this late on purpose: it only has to be right when it takes over.
DELAY: Final = 3.0
_FAILED: Final = BackOff(first=1.0, longest=30.0)


class Follower:
    def __init__(
        self,
        observer: Observer,
        reconciler: Reconciler,
        traffic: TrafficPort,
        settings: OperatorSettings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._observer = observer
        self._reconciler = reconciler
        self._traffic = traffic
        self._settings = settings
        self._now = now

    async def follow(self, key: Key) -> Outcome:
        """Never raises, except when it is cancelled."""
        try:
            try:
                objects = await self._observer.read(key)
            except NotFound:
                self._reconciler.forget(key)
                return Settled()
            self._reconciler.adopt(key, objects.deployment["metadata"]["uid"])
            sight = await self._observer.interpret(key, objects)
            self._traffic.program(
                committed_traffic(sight.observation, self._settings, self._now(), 0)
            )
        except KubeError as error:
            LOG.info(
                "Failed to follow a deployment",
                extra={"llmdeployment": str(key), "error": str(error)[:300]},
            )
            return _FAILED
        except Exception:
            LOG.exception("Failed to follow a deployment", extra={"llmdeployment": str(key)})
            return _FAILED
        return Settled()
