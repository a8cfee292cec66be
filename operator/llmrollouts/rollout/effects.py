"""What a round wants done: the output of the state machine. Executed by controller/act.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.intent import DeploymentTraffic
from llmrollouts.rollout.observation import Rejection, RevisionRecord


@dataclass(frozen=True, slots=True)
class StoreRevision:
    """Create the ControllerRevision; where it exists with the same data, raise its ``.revision``
    to the record's number (a text that came back by ``refresh``). Data never changes."""

    record: RevisionRecord


@dataclass(frozen=True, slots=True)
class RejectRevision:
    """Write (or with None remove) the annotation that says why a revision was rejected."""

    revision: str
    rejection: Rejection | None


@dataclass(frozen=True, slots=True)
class ApplyWorkers:
    """Server-side apply the revision's ConfigMap and worker Deployment from its stored template."""

    revision: str
    replicas: int
    role: Literal["stable", "canary", "retired"]


@dataclass(frozen=True, slots=True)
class DeleteWorkers:
    """Delete the worker Deployment and ConfigMap of a revision (in the background)."""

    revision: str


@dataclass(frozen=True, slots=True)
class DeleteRevision:
    """Delete a ControllerRevision beyond the history limit."""

    revision: str


@dataclass(frozen=True, slots=True)
class RemoveCommand:
    """Remove the command annotation if it still has this value; records the sequence."""

    value: str
    sequence: int


Effect: TypeAlias = (
    StoreRevision | RejectRevision | ApplyWorkers | DeleteWorkers | DeleteRevision | RemoveCommand
)


@dataclass(frozen=True, slots=True)
class Notice:
    """A Kubernetes Event and a log line: one transition, told to a person."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One round's decision.

    status: to be committed by compare-and-swap when it differs from the one read.
    traffic: what the proxies do after the commit (before it, only ``lowered``); None: unchanged,
        because the deployment is being deleted.
    effects: in this order, after the commit and the traffic.
    renew: the shares' leases are renewed with this round: its evidence is fresh (or a new leader
        waits for its first report).
    wake_after: seconds until the next round is due without any event; None: no hurry.
    """

    status: LLMDeploymentStatus
    traffic: DeploymentTraffic | None
    effects: tuple[Effect, ...] = ()
    notices: tuple[Notice, ...] = ()
    renew: bool = False
    wake_after: float | None = None
