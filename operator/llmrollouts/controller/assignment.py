"""What has to be measured for one deployment now: follows from what a round observed.

                      canary arm            control arm
    rollout           canaryRevision        stableRevision
    watch after it    stableRevision        warm.revision      (the new one against the old)

The stage, its level and its name are the state machine's (status.attempt). Decides nothing else.
Called by controller/gate_engine in each round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from llmrollouts.analysis.policy import Policy
from llmrollouts.api import labels
from llmrollouts.api.duration import parse_duration
from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.controller.keys import Key
from llmrollouts.metrics.port import Candidate, Worker
from llmrollouts.rollout.capacity import can_match
from llmrollouts.rollout.facts import read_share
from llmrollouts.rollout.observation import Observation, WorkerPod
from llmrollouts.rollout.policy import make_policy

# A stage without a length of its own (its step was edited away) still spreads its bets over time.
_SOME_STAGE: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """stage: status.attempt.stage, empty before the first. judged, reference: revisions of the
    canary and the control arm. ticks: planned seconds of the stage. matches_load: the two arms are
    meant to be equally busy. policy: None while the objectives cannot be read, which ``problem``
    says. started_at: when the stage began."""

    key: Key
    uid: str
    stage: str
    level: float
    judged: str
    reference: str
    canary: tuple[Candidate, ...]
    control: tuple[Candidate, ...]
    kind: Literal["Shadow", "Canary", "Watch"]
    ticks: int
    matches_load: bool
    observes: bool
    placebo: bool
    policy: Policy | None
    problem: str = ""
    started_at: datetime | None = None

    @property
    def reverses(self) -> bool:
        return self.kind == "Watch"

    def selector(self, revision: str) -> str:
        """Which pods are looked for, as a person would ask for them (R24)."""
        return f"{labels.DEPLOYMENT}={self.key.name},{labels.REVISION}={revision}"


def assign(seen: Observation, warm: Mapping[str, float]) -> Assignment | None:
    """None: nothing is compared now. ``warm``: pods (uid) that have been ready for a
    while, and since when."""
    deployment = seen.deployment
    spec, status = deployment.spec, deployment.status
    gate = spec.gates.latency
    pair = _arms(status)
    if pair is None or gate.mode == "Off" or deployment.deleting:
        return None
    judged, reference = pair
    attempt = status.attempt
    tried = attempt is not None and attempt.revision == judged
    kind = _kind(status)
    # A route of the user's own copies no requests: what the shares give is what there is.
    copies = spec.traffic.provider != "HTTPRoute"
    policy, problem = _policy(spec)
    return Assignment(
        key=Key(deployment.namespace, deployment.name),
        uid=deployment.uid,
        stage=attempt.stage if attempt is not None and tried else "",
        level=attempt.level if attempt is not None and tried else 0.0,
        judged=judged,
        reference=reference,
        canary=_candidates(seen.pods, judged, warm),
        control=_candidates(seen.pods, reference, warm),
        kind=kind,
        ticks=_ticks(status, spec),
        matches_load=copies and (kind == "Watch" or _step_matches(status, spec)),
        observes=gate.mode == "Observe",
        placebo=gate.placebo,
        policy=policy,
        problem=problem,
        started_at=_began(status, spec),
    )


def _arms(status: LLMDeploymentStatus) -> tuple[str, str] | None:
    stable, canary = status.stable_revision, status.canary_revision
    if stable is None:
        return None
    if canary is not None:
        return canary, stable
    return (stable, status.warm.revision) if status.warm is not None else None


def _kind(status: LLMDeploymentStatus) -> Literal["Shadow", "Canary", "Watch"]:
    if status.canary_revision is None:
        return "Watch"
    return status.step.kind if status.step is not None else "Canary"


def _step_matches(status: LLMDeploymentStatus, spec: LLMDeploymentSpec) -> bool:
    step = status.step
    if step is None or step.kind != "Canary" or not spec.strategy.match_load:
        return False
    return can_match(read_share(step.share))


def _policy(spec: LLMDeploymentSpec) -> tuple[Policy | None, str]:
    try:
        return make_policy(spec), ""
    except ValueError as error:
        return None, str(error)


def _ticks(status: LLMDeploymentStatus, spec: LLMDeploymentSpec) -> int:
    if status.canary_revision is None:
        seconds = parse_duration(spec.strategy.rollback_window)
    else:
        index = status.step.index if status.step is not None else -1
        steps = spec.strategy.steps
        step = (steps[index].canary or steps[index].shadow) if 0 <= index < len(steps) else None
        seconds = parse_duration(step.duration) if step is not None else _SOME_STAGE
    return max(1, round(seconds))


def _began(status: LLMDeploymentStatus, spec: LLMDeploymentSpec) -> datetime | None:
    """When the running stage began; a stage of which nothing is stored by then has lost it."""
    if status.canary_revision is not None:
        return status.step.started_at if status.step is not None else None
    if status.warm is None:
        return None
    return status.warm.until - timedelta(seconds=parse_duration(spec.strategy.rollback_window))


def _candidates(
    pods: Iterable[WorkerPod], revision: str, warm: Mapping[str, float]
) -> tuple[Candidate, ...]:
    """Its pods; those that have been ready longest first."""
    return tuple(
        Candidate(Worker(pod.uid, pod.name, pod.address), pod.ready, pod.ready and pod.uid in warm)
        for pod in sorted(pods, key=lambda pod: (warm.get(pod.uid, math.inf), pod.name))
        if pod.revision == revision and pod.address and not pod.terminating
    )
