"""All deployments at once: at the start, when leading begins, and when the world is counted over.

A take-over reads everything in five lists (never deployment by deployment), tells the traffic
provider what each status has committed, and only then may the gateways hear this process. A
deployment that cannot be read is logged and leaves the others alone. Shares that were committed
are kept alive when the first plan agrees, so that a change of leader moves no share.
It decides nothing about a rollout. Called by controller/operator.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.controller.keep import committed_traffic
from llmrollouts.controller.keys import Key, read_key
from llmrollouts.controller.observe import CHILDREN, Objects, Observer, Sight
from llmrollouts.controller.reconcile import Planner
from llmrollouts.kube.port import LLM_DEPLOYMENT, Kind, KubeError, Reader
from llmrollouts.traffic.port import TrafficPort

LOG: Final = logging.getLogger(__name__)

OWNED: Final = {labels.MANAGED_BY: labels.FIELD_MANAGER}


class Packed(Mapping[Key, Objects]):
    """Every LLMDeployment with its labelled children, as text until it is looked at: five thousand
    decoded objects at once would be twice what the whole process needs otherwise."""

    def __init__(self) -> None:
        self._deployments: dict[Key, bytes] = {}
        self._children: dict[Key, tuple[list[bytes], ...]] = {}

    def put(self, deployment: Manifest) -> None:
        metadata = deployment["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        self._deployments[key] = _pack(deployment)
        self._children[key] = tuple([] for _ in CHILDREN)

    def put_child(self, kind: Kind, child: Manifest) -> None:
        """Left out when its deployment is not there."""
        key = read_key(child)
        if key in self._children:
            self._children[key][CHILDREN.index(kind)].append(_pack(child))

    def __getitem__(self, key: Key) -> Objects:
        groups = [[json.loads(data) for data in group] for group in self._children[key]]
        return Objects(json.loads(self._deployments[key]), *groups)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._deployments)

    def __len__(self) -> int:
        return len(self._deployments)


def _pack(manifest: Manifest) -> bytes:
    return json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()


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

    packed = Packed()
    # One kind after the other, for the same reason; what a round changes in between, it reads.
    for place in [None] if namespaces is None else namespaces:
        for deployment in await reader.list(LLM_DEPLOYMENT, place):
            packed.put(deployment)
        for kind in CHILDREN:
            for child in await reader.list(kind, place, OWNED):
                packed.put_child(kind, child)
    return Survey(packed)


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
        for key, objects in survey.objects.items():
            # A thousand deployments must not hold up the elector. Its renewal takes several turns
            # of the loop, so it gets one after each deployment.
            await asyncio.sleep(0)
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
