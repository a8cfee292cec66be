"""Finds what the watches missed: the level under the edge.

Every five minutes one list of the LLMDeployments is compared with the keys that are known: after a
410 no DELETED event comes, so what vanished is found here and forgotten (R12), and what is new is
taken in. Every hour everything is listed once, and each deployment whose objects are not exactly
those of its last round gets one. It only nudges; the round itself decides what is true.
Called by controller/operator.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from llmrollouts.controller.keys import Key
from llmrollouts.controller.takeover import take_survey
from llmrollouts.controller.versions import Versions
from llmrollouts.kube.port import LLM_DEPLOYMENT, KubeError, Reader

LOG: Final = logging.getLogger(__name__)

PERIOD: Final = 300.0
FULL_EVERY: Final = 12  # periods


class Resync:
    def __init__(
        self,
        reader: Reader,
        namespaces: Sequence[str] | None,
        versions: Versions,
        known: Callable[[], frozenset[Key]],
        nudge: Callable[[Key], None],
    ) -> None:
        self._reader = reader
        self._namespaces = namespaces
        self._versions = versions
        self._known = known
        self._nudge = nudge

    async def run(self) -> None:
        """For ever; a failure waits for the next period."""
        number = 0
        while True:
            # Spread, so that two replicas and a thousand objects do not ask at one moment.
            await asyncio.sleep(PERIOD * random.uniform(0.9, 1.1))  # noqa: S311
            number += 1
            try:
                await (self.compare_all() if number % FULL_EVERY == 0 else self.compare_keys())
            except KubeError as error:
                LOG.warning("Failed to count the deployments", extra={"error": str(error)[:300]})

    async def compare_keys(self) -> None:
        """Nudge what appeared and what vanished. Raises what the API raises."""
        places = [None] if self._namespaces is None else self._namespaces
        lists = [await self._reader.list(LLM_DEPLOYMENT, place) for place in places]
        there = {
            Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
            for manifests in lists
            for manifest in manifests
        }
        self._nudge_all(there ^ self._known(), "appeared or vanished unseen")

    async def compare_all(self) -> None:
        """Nudge whatever differs from its last round. Raises what the API raises."""
        survey = await take_survey(self._reader, self._namespaces)
        changed: set[Key] = set()
        for key, objects in survey.objects.items():
            await asyncio.sleep(0)  # each one is decoded here
            if self._versions.differs(key, objects.all()):
                changed.add(key)
        gone = self._known() - survey.objects.keys()
        self._nudge_all(changed | gone, "changed unseen")

    def _nudge_all(self, keys: set[Key] | frozenset[Key], why: str) -> None:
        for key in sorted(keys):
            LOG.info("Found what no watch told of", extra={"llmdeployment": str(key), "why": why})
            self._nudge(key)
