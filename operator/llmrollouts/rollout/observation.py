"""The world as one round of the loop saw it: the only input of the state machine beside time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from llmrollouts.analysis.reach import Reach
from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.api.status import LLMDeploymentStatus, Proof, Verdict
from llmrollouts.rollout.intent import TrafficObservation

# The gate that spec.gates.latency sets up; others have names of their own.
LATENCY_GATE: Final = "latency"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One LLMDeployment as read in this round."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: LLMDeploymentSpec
    status: LLMDeploymentStatus
    deleting: bool = False
    # Why the status could not be read and an empty one stands here instead.
    status_problem: str | None = None
    # Annotations llmrollouts.dev/command and .../command-sequence.
    command: str | None = None
    command_sequence: int = 0
    # The command stands in last-applied or in a field owned by an Apply: it came from Git.
    command_applied: bool = False
    # When the command was given, to the second, as far as the API server tells.
    command_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    at: datetime
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RevisionRecord:
    """A stored ControllerRevision.

    source: canonical JSON of what the user gave (spec.revision without any default).
    texts: resolved texts of the references, by field path (``prompt``, ``retrieval``).
    template: canonical JSON of the rendered pod template; files: the revision's own ConfigMap.
    """

    name: str
    number: int
    source: str
    texts: Mapping[str, str]
    template: str
    files: Mapping[str, str]
    created_at: datetime | None = None
    rejected: Rejection | None = None


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """A reference of the spec that cannot be resolved now (ConfigMap or key missing, too big)."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ContainerDeath:
    """A container of a worker that ended by its own fault (OOMKilled or a non-zero exit).

    id: ``<pod uid>/<container>/<restart count>``, the same in every round.
    """

    id: str
    at: datetime | None
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class WorkerPod:
    """One pod of a revision.

    excused: evicted, preempted or its node lost: never a fault.
    lost_ready: its containers run and were ready since they started, and the pod is not ready now:
        a probe got no answer in time, which a starved machine does to all workers at once.
    """

    name: str
    uid: str
    revision: str
    address: str | None
    ready: bool
    terminating: bool
    excused: bool = False
    lost_ready: bool = False
    deaths: tuple[ContainerDeath, ...] = ()
    # Why it does not start, as the kubelet or scheduler says (ImagePullBackOff, Unschedulable …).
    waiting_reason: str | None = None
    waiting_message: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerSet:
    """The worker Deployment of one revision."""

    revision: str
    replicas: int
    role: Literal["stable", "canary", "retired"] | None
    uid: str
    terminating: bool = False
    # Canonical JSON of its pod template, to rewrite a record that was deleted.
    template: str | None = None


@dataclass(frozen=True, slots=True)
class MetricNumbers:
    """What a gate found for one metric, such as ``ttft``.

    evidence: of harm; ``needed`` of it decides. p50, p95, p99: canary to stable, as a ratio.
    ks, ks_lower: the distance of the two distributions, and what it is at least.
    """

    name: str
    evidence: float | None = None
    needed: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    ks: float | None = None
    ks_lower: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class GateNumbers:
    """The evidence behind a verdict: requests compared, metric by metric.

    cut_streams: answers of the judged revision in this attempt that ended after their first token
    and too early; None where nobody counts them.
    """

    canary_requests: int = 0
    control_requests: int = 0
    metrics: tuple[MetricNumbers, ...] = ()
    cut_streams: int | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """The verdict of one gate on the running stage.

    reason: one word of api/reasons.py; message: one plain sentence with its numbers.
    proof: Collecting while the revision has yet to be shown no worse, which shares above 5 % and
        the promotion need; NotNeeded for gates that prove nothing.
    first_seen_at: when the evidence that decided began; detected_at: when it was enough.
    stage: status.attempt.stage that was judged; a verdict on another stage is not heard. Empty for
        gates that know no stages.
    power: what the running step can find at its real rate; None: not known yet.
    """

    name: str
    verdict: Verdict
    reason: str
    message: str
    proof: Proof = "NotNeeded"
    first_seen_at: datetime | None = None
    detected_at: datetime | None = None
    numbers: GateNumbers | None = None
    stage: str = ""
    power: Reach | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that ``plan`` may look at.

    source: canonical JSON of spec.revision as the user gave it; texts: its references resolved
        now (empty where ``problem`` is set).
    config_maps: revisions whose own ConfigMap exists.
    """

    deployment: Deployment
    source: str
    texts: Mapping[str, str]
    problem: SourceProblem | None
    revisions: tuple[RevisionRecord, ...]
    workers: tuple[WorkerSet, ...]
    pods: tuple[WorkerPod, ...]
    config_maps: frozenset[str]
    traffic: TrafficObservation
    gates: tuple[Gate, ...] = ()
