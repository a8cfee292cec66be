"""What follows from one observation before anything is decided: the stages' shared reading of it.

Decides nothing and knows no history. Made once in each round by plan(); every stage reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final, Literal

from llmrollouts.api.duration import parse_duration
from llmrollouts.api.labels import ENGINE_PORT
from llmrollouts.api.reasons import ConditionType
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.api.share import NONE, Share
from llmrollouts.api.spec import CanaryStep, LLMDeploymentSpec, ShadowStep
from llmrollouts.api.spec import Step as SpecStep
from llmrollouts.rollout.intent import Endpoint, TrafficObservation
from llmrollouts.rollout.observation import (
    Deployment,
    Observation,
    RevisionRecord,
    WorkerPod,
    WorkerSet,
)

# Load reports come each second; five missed ones are no evidence, fifteen are a fault.
FRESH_SECONDS: Final = 5.0
STALE_SECONDS: Final = 15.0
# A status holds no time of a far century, and nobody keeps GPUs warm for longer than a year.
LONGEST_WINDOW: Final = 366 * 24 * 3600.0

# A step without a deadline of its own has four times its duration, and at least this.
SHORTEST_DEADLINE: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the strategy, parsed. duration, deadline: seconds."""

    kind: Literal["Shadow", "Canary"]
    share: Share
    duration: float
    min_requests: int
    deadline: float = float("inf")

    @property
    def level(self) -> tuple[int, int]:
        """How far a step goes: every canary step goes further than every shadow step."""
        return (int(self.kind == "Canary"), self.share.ppm)


def read_share(text: str | None) -> Share:
    """The share that a status holds; nonsense and nothing are 0."""
    try:
        return Share.parse(text) if text else NONE
    except ValueError:
        return NONE


@dataclass(frozen=True)
class Facts:
    """The observation, the time, and what follows from both."""

    observation: Observation
    settings: OperatorSettings
    now: datetime
    epoch: int

    @property
    def deployment(self) -> Deployment:
        return self.observation.deployment

    @property
    def spec(self) -> LLMDeploymentSpec:
        return self.deployment.spec

    @property
    def traffic(self) -> TrafficObservation:
        return self.observation.traffic

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return tuple(
            step for given in self.spec.strategy.steps if (step := _parse_step(given)) is not None
        )

    @property
    def replicas(self) -> int:
        """Workers at 100 %."""
        return max(0, self.spec.replicas)

    @property
    def room(self) -> int:
        """How many workers of all revisions there may be during a rollout."""
        return self.replicas + self.spec.strategy.room_above(self.replicas)

    @property
    def rollback_window(self) -> timedelta:
        seconds = parse_duration(self.spec.strategy.rollback_window)
        return timedelta(seconds=min(seconds, LONGEST_WINDOW))

    @property
    def ready_timeout(self) -> timedelta:
        return timedelta(seconds=parse_duration(self.spec.strategy.ready_timeout))

    @cached_property
    def source_digest(self) -> str:
        """Names the spec for which an override holds."""
        return hashlib.sha256(self.observation.source.encode()).hexdigest()[:16]

    @cached_property
    def records(self) -> dict[str, RevisionRecord]:
        return {record.name: record for record in self.observation.revisions}

    @cached_property
    def workers(self) -> dict[str, WorkerSet]:
        return {workers.revision: workers for workers in self.observation.workers}

    def pods(self, revision: str | None) -> tuple[WorkerPod, ...]:
        return tuple(
            pod for pod in self.observation.pods if pod.revision == revision and not pod.terminating
        )

    def endpoints(self, revision: str | None) -> tuple[Endpoint, ...]:
        """The workers of a revision that can answer, in a stable order."""
        return _list_endpoints(pod for pod in self.pods(revision) if pod.ready)

    def last_resort(self, revision: str | None) -> tuple[Endpoint, ...]:
        """Workers that run and are not ready any more, in a stable order."""
        return _list_endpoints(pod for pod in self.pods(revision) if pod.lost_ready)

    def ready(self, revision: str | None) -> int:
        return len(self.endpoints(revision))

    def programmed_endpoints(self, revision: str) -> int:
        """Ready workers of a revision that every proxy was told of."""
        programmed = self.traffic.programmed
        if programmed is None:
            return 0
        return sum(len(r.endpoints) for r in programmed.revisions if r.revision == revision)

    def reaches_users(self, revision: str) -> bool:
        """Whether users who ask now are answered by ``revision``.

        To begin with every gateway must have acknowledged it. Once told, it stays so: a gateway
        that restarts later has no routes and therefore no users.
        """
        told = self.observation.deployment.status.conditions
        if any(each.type == ConditionType.READY and each.status == "True" for each in told):
            return True
        programmed = self.traffic.programmed
        return (
            programmed is not None
            and programmed.default == revision
            and self.traffic.settled
            and self.programmed_endpoints(revision) > 0
        )

    @property
    def fresh(self) -> bool:
        """Whether the gateways' reports are young enough to raise a share on."""
        age = self.traffic.report_age
        return age is not None and age <= FRESH_SECONDS

    def why_not_ready(self, revision: str | None) -> str:
        """What the kubelet or the scheduler says of workers that do not start; may be empty."""
        for pod in self.pods(revision):
            if not pod.ready and pod.waiting_reason:
                told = (pod.waiting_message or "").strip()
                return f"{pod.waiting_reason}: {told[:300]}" if told else pod.waiting_reason
        return ""


def _deadline(given: ShadowStep | CanaryStep) -> float:
    if given.deadline is not None:
        return parse_duration(given.deadline)
    return max(SHORTEST_DEADLINE, 4 * parse_duration(given.duration))


def _parse_step(given: SpecStep) -> Step | None:
    """None for a step that is neither shadow nor canary, which the CRD refuses."""
    if given.canary is not None:
        canary = given.canary
        return Step(
            "Canary",
            Share.parse(canary.share),
            parse_duration(canary.duration),
            canary.min_requests,
            _deadline(canary),
        )
    if given.shadow is not None:
        shadow = given.shadow
        return Step(
            "Shadow",
            Share.parse(shadow.share),
            parse_duration(shadow.duration),
            shadow.min_requests,
            _deadline(shadow),
        )
    return None


def _list_endpoints(pods: Iterable[WorkerPod]) -> tuple[Endpoint, ...]:
    known = (Endpoint(pod.address, ENGINE_PORT, pod.name) for pod in pods if pod.address)
    return tuple(sorted(known, key=lambda endpoint: (endpoint.pod, endpoint.address)))
