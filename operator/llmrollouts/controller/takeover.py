"""All deployments at once: at the start, when leading begins, and when the world is counted over.

A take-over reads everything in five lists (never deployment by deployment), tells the traffic
provider what each status has committed, and only then may the gateways hear this process. A
deployment that cannot be read is logged and leaves the others alone. Shares that were committed
are kept alive when the first plan agrees, so that a change of leader moves no share.
It decides nothing about a rollout. Called by controller/operator.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.controller.keep import committed_traffic
from llmrollouts.controller.keys import Key, read_key
from llmrollouts.controller.observe import CHILDREN, Objects, Observer, Sight
from llmrollouts.controller.reconcile import Planner
from llmrollouts.kube.port import LLM_DEPLOYMENT, KubeError, Reader
from llmrollouts.traffic.port import TrafficPort

LOG: Final = logging.getLogger(__name__)

OWNED: Final = {labels.MANAGED_BY: labels.FIELD_MANAGER}


@dataclass(slots=True)
class Survey:
    """Every LLMDeployment with its labelled children."""

    objects: Mapping[Key, Objects] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Programmed:
    """What a take-over found. urgent: keys whose round cannot wait; failed: keys left out."""

    uids: Mapping[Key, str]
    urgent: frozenset[Key]
    failed: frozenset[Key]


async def take_survey(reader: Reader, namespaces: Sequence[str] | None) -> Survey:
    """List everything, of some namespaces or (None) of all. Raises what the API raises."""

    async def everything(kind: Any, selector: Mapping[str, str] | None) -> list[Manifest]:
        where: Iterable[str | None] = [None] if namespaces is None else namespaces
        pages = await asyncio.gather(*(reader.list(kind, place, selector) for place in where))
        return [manifest for page in pages for manifest in page]

    deployments, *children = await asyncio.gather(
        everything(LLM_DEPLOYMENT, None), *(everything(kind, OWNED) for kind in CHILDREN)
    )
    grouped: list[dict[Key, list[Manifest]]] = []
    for manifests in children:
        by_key: dict[Key, list[Manifest]] = {}
        for manifest in manifests:
            key = read_key(manifest)
            if key is not None:
                by_key.setdefault(key, []).append(manifest)
        grouped.append(by_key)
    found: dict[Key, Objects] = {}
    for manifest in deployments:
        key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        found[key] = Objects(manifest, *(by_key.get(key, []) for by_key in grouped))
    return Survey(found)


class TakeOver:
    def __init__(
        self,
        reader: Reader,
        observer: Observer,
        planner: Planner,
        traffic: TrafficPort,
        settings: OperatorSettings,
        namespaces: Sequence[str] | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._reader = reader
        self._observer = observer
        self._planner = planner
        self._traffic = traffic
        self._settings = settings
        self._namespaces = namespaces
        self._now = now

    async def survey(self) -> Survey:
        return await take_survey(self._reader, self._namespaces)

    async def program_all(self, epoch: int | None) -> Programmed:
        """Program what every status has committed. ``epoch`` None: for a standby, whose shares
        have no lease and so are 0."""
        survey = await self.survey()
        uids: dict[Key, str] = {}
        urgent: set[Key] = set()
        failed: set[Key] = set()
        for number, (key, objects) in enumerate(survey.objects.items()):
            if number % 50 == 49:
                await asyncio.sleep(0)  # a thousand deployments must not hold up the elector
            try:
                uids[key] = objects.deployment["metadata"]["uid"]
                if await self._program(key, objects, epoch):
                    urgent.add(key)
            except KubeError as error:
                failed.add(key)
                names = {"llmdeployment": str(key), "error": str(error)[:300]}
                LOG.warning("Failed to read a deployment at the take-over", extra=names)
            except Exception:
                failed.add(key)
                names = {"llmdeployment": str(key)}
                LOG.exception("Failed to take a deployment over", extra=names)
        return Programmed(uids, frozenset(urgent), frozenset(failed))

    async def _program(self, key: Key, objects: Objects, epoch: int | None) -> bool:
        """Whether its round is urgent."""
        sight = await self._observer.interpret(key, objects)
        seen, now = sight.observation, self._now()
        committed = committed_traffic(seen, self._settings, now, epoch or 0)
        self._traffic.program(committed)
        if epoch is None:
            return False
        active = any(r.share or r.mirror for r in committed.revisions)
        if active and sight.spec_problem is None:
            plan = self._planner(self._observer.look_again(seen), self._settings, now, epoch)
            if plan.renew:
                self._traffic.renew(seen.deployment.uid)
        return active or _has_news(sight)


def _has_news(sight: Sight) -> bool:
    deployment = sight.observation.deployment
    status = deployment.status
    return (
        deployment.generation != status.observed_generation
        or deployment.command is not None
        or status.canary_revision is not None
        or status.promotion is not None
        or bool(status.retiring)
    )
