"""A worker pod as Kubernetes tells it, to the ``WorkerPod`` that the state machine judges.

It decides which ends of containers count as the worker's own fault: OOMKilled or a non-zero exit,
but never an eviction, a preemption, a lost node or the end after somebody deleted the pod. It
never decides what follows from a death. Called by controller/observe.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.rollout.observation import ContainerDeath, WorkerPod

# status.reason of a pod that the cluster, not the container, has ended.
_EXCUSES: Final = frozenset(
    {
        "Evicted",
        "Preempting",
        "Preempted",
        "NodeLost",
        "NodeShutdown",
        "Shutdown",
        "Terminated",
        "UnexpectedAdmissionError",
        "NodeAffinity",
    }
)
_STARTING: Final = frozenset({"ContainerCreating", "PodInitializing"})
_MESSAGE: Final = 300


def read_pod(manifest: Manifest) -> WorkerPod:
    """The pod's state; total on any content that the API server lets through."""
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions") or []}
    deletion = _deletion_requested(metadata)
    excused = (
        status.get("reason") in _EXCUSES
        or (conditions.get("DisruptionTarget") or {}).get("status") == "True"
    )
    reason, message = _why_waiting(status, conditions)
    return WorkerPod(
        name=metadata["name"],
        uid=metadata["uid"],
        revision=(metadata.get("labels") or {}).get(labels.REVISION, ""),
        address=status.get("podIP"),
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        terminating="deletionTimestamp" in metadata,
        excused=excused,
        lost_ready=not excused and _lost_ready(status, conditions.get("Ready") or {}),
        deaths=() if excused else _read_deaths(metadata["uid"], status, deletion),
        waiting_reason=reason,
        waiting_message=message,
    )


def _lost_ready(status: Manifest, ready: Manifest) -> bool:
    # A pod that was never ready has been so since before its containers started.
    changed = read_time(ready.get("lastTransitionTime"))
    if ready.get("status") != "False" or changed is None:
        return False
    containers = status.get("containerStatuses") or []
    started = [
        read_time(((c.get("state") or {}).get("running") or {}).get("startedAt"))
        for c in containers
    ]
    return bool(started) and all(at is not None and changed > at for at in started)


def _read_deaths(
    uid: str, status: Manifest, deletion: datetime | None
) -> tuple[ContainerDeath, ...]:
    # The init container is ours and copies a file: its failures say nothing about the revision.
    deaths = []
    for container in status.get("containerStatuses") or []:
        restarts = int(container.get("restartCount") or 0)
        lives = (
            (restarts - 1, (container.get("lastState") or {}).get("terminated")),
            (restarts, (container.get("state") or {}).get("terminated")),
        )
        for life, end in lives:
            if end is None or not _own_fault(end):
                continue
            at = read_time(end.get("finishedAt"))
            if deletion is not None and (at is None or at >= deletion):
                continue
            code = end.get("exitCode")
            deaths.append(
                ContainerDeath(
                    id=f"{uid}/{container.get('name', '')}/{max(life, 0)}",
                    at=at,
                    reason=str(end.get("reason") or "Error"),
                    message=(f"exit code {code}. {end.get('message') or ''}").strip()[:_MESSAGE],
                )
            )
    return tuple(deaths)


def _own_fault(end: Manifest) -> bool:
    return end.get("reason") == "OOMKilled" or int(end.get("exitCode") or 0) != 0


def _deletion_requested(metadata: Manifest) -> datetime | None:
    """When somebody asked for the deletion: deletionTimestamp lies one grace period later."""
    deadline = read_time(metadata.get("deletionTimestamp"))
    if deadline is None:
        return None
    return deadline - timedelta(seconds=int(metadata.get("deletionGracePeriodSeconds") or 0))


def _why_waiting(
    status: Manifest, conditions: dict[str, Manifest]
) -> tuple[str | None, str | None]:
    statuses = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    for container in statuses:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in _STARTING:
            return waiting.get("reason"), str(waiting.get("message") or "")[:_MESSAGE]
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        return scheduled.get("reason"), str(scheduled.get("message") or "")[:_MESSAGE]
    return None, None


def read_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
