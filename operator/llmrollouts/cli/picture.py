"""One rollout as a person should see it: gathered once, drawn by screen.py or printed as JSON.

It reads the LLMDeployment, its worker Deployments, its stored revisions and the last Events. What
a person may not read is left out and named in ``unread``; a status that cannot be read is said
to be so. It decides nothing. Called by the commands that show something.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from llmrollouts.api import labels
from llmrollouts.api.deployment import read_status
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.reasons import Reason
from llmrollouts.api.spec import default_steps
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.cli.cluster import DEPLOYMENTS, Cluster, list_items, object_path
from llmrollouts.cli.failure import Forbidden
from llmrollouts.cli.lease import find_silence
from llmrollouts.cli.provider import read_route
from llmrollouts.cli.times import read_time

Role: TypeAlias = Literal["stable", "canary", "warm", "starting", "leaving"]
EVENTS: Final = 4


@dataclass(frozen=True, slots=True)
class Arm:
    """One living revision. asked, measured: its share of the user requests; mirror_asked,
    mirror_measured: of the copies; texts with a percent sign, None where it has none."""

    role: Role
    revision: str
    model: str | None
    ready: int | None
    wanted: int | None
    asked: str | None = None
    measured: str | None = None
    mirror_asked: str | None = None
    mirror_measured: str | None = None


@dataclass(frozen=True, slots=True)
class StepMark:
    """One step. kind: Shadow, Canary or All (the promotion)."""

    kind: Literal["Shadow", "Canary", "All"]
    share: str
    state: Literal["done", "now", "next"]
    duration: str = ""
    min_requests: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """One Event."""

    at: datetime | None
    kind: str
    reason: str
    message: str
    count: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that one screen shows. route: the HTTPRoute whose weights are the shares; None:
    the built-in gateways have them, and count the requests. silence: why nobody decides; None where
    an operator leads, where nothing is to be decided, or where the reader may not know."""

    namespace: str
    name: str
    uid: str
    replicas: int
    status: LLMDeploymentStatus
    problem: str | None
    behind: bool
    pending: str | None
    arms: tuple[Arm, ...]
    steps: tuple[StepMark, ...]
    events: tuple[Told, ...]
    unread: tuple[str, ...]
    now: datetime
    route: str | None = None
    silence: str | None = None

    @property
    def phase(self) -> str:
        if self.problem is not None:
            return "Unreadable"
        return self.status.phase or "Pending"

    def condition_messages(self) -> list[tuple[str, str]]:
        """(type, message) of the conditions that a person should know about."""
        bad = {
            "Ready": "False",
            "SourceResolved": "False",
            "InstantRollback": "False",
            "TrafficGuarantees": "False",
            "RouteProgrammed": "False",
            "SourceChanged": "True",
            "RevisionLost": "True",
            "CommandRefused": "True",
            "StatusRebuilt": "True",
        }
        return [
            (c.type, f"{c.reason}: {c.message}")
            for c in self.status.conditions
            if bad.get(c.type) == c.status
            # Nothing warm is the ordinary state of a deployment that rests.
            and not (c.reason == Reason.NO_WARM_REVISION and self.status.canary_revision is None)
        ]


def gather(cluster: Cluster | None, manifest: Manifest, now: datetime) -> Picture:
    """The picture of the LLMDeployment in ``manifest``; without a cluster of its status alone."""
    metadata = manifest["metadata"]
    namespace, name = str(metadata["namespace"]), str(metadata["name"])
    reading = read_status(manifest)
    unread: list[str] = []

    def read(what: str, path: str, query: Mapping[str, str]) -> list[Manifest]:
        if cluster is None:
            return []
        try:
            return list(list_items(cluster, path, query))
        except Forbidden:
            unread.append(what)
            return []

    mine = {"labelSelector": f"{labels.DEPLOYMENT}={name}"}
    base = f"{DEPLOYMENTS}/namespaces/{namespace}"
    workers = read("worker Deployments", f"{base}/deployments", mine)
    records = read("stored revisions", f"{base}/controllerrevisions", mine)
    events = read(
        "Events",
        f"/api/v1/namespaces/{namespace}/events",
        {"fieldSelector": f"involvedObject.uid={metadata['uid']}"},
    )
    spec = manifest.get("spec") or {}
    status = reading.status
    behind = status.observed_generation != metadata.get("generation")
    pending = (metadata.get("annotations") or {}).get(labels.COMMAND)
    moving = status.canary_revision or status.warm or status.retiring or not status.stable_revision
    silence = None
    if cluster is not None and (moving or behind or pending):
        silence = find_silence(cluster, now)
    return Picture(
        namespace=namespace,
        name=name,
        uid=str(metadata["uid"]),
        replicas=int(spec.get("replicas") or 0),
        status=reading.status,
        problem=reading.problem,
        behind=behind,
        pending=pending,
        arms=tuple(_arms(reading.status, workers, records)),
        steps=tuple(_mark_steps(reading.status, spec)),
        events=tuple(_read_events(events)),
        unread=tuple(unread),
        now=now,
        route=read_route(manifest),
        silence=silence,
    )


def fetch(cluster: Cluster, namespace: str, name: str, now: datetime) -> Picture:
    """Read the LLMDeployment and gather its picture. Raises Failure."""
    return gather(cluster, cluster.get(object_path(namespace, name)), now)


def read_model(record: Manifest) -> str | None:
    """The model's address in a stored revision."""
    source = (record.get("data") or {}).get("source")
    if not isinstance(source, str):
        return None
    try:
        model = json.loads(source).get("model")
    except (ValueError, AttributeError):
        return None
    return str(model.get("uri")) if isinstance(model, dict) else None


def _revision_of(manifest: Manifest) -> str:
    return str((manifest["metadata"].get("labels") or {}).get(labels.REVISION, ""))


def _arms(
    status: LLMDeploymentStatus, workers: Iterable[Manifest], records: Iterable[Manifest]
) -> Iterable[Arm]:
    deployments = {_revision_of(w): w for w in workers}
    models = {_revision_of(r): read_model(r) for r in records}

    def arm(role: Role, revision: str, **shares: str | None) -> Arm:
        found = deployments.get(revision)
        ready = wanted = None
        if found is not None:
            ready = int((found.get("status") or {}).get("readyReplicas") or 0)
            wanted = int((found.get("spec") or {}).get("replicas") or 0)
        return Arm(role, revision, models.get(revision), ready, wanted, **shares)

    if status.stable_revision:
        yield arm("stable", status.stable_revision)
    if status.canary_revision:
        yield arm(
            "canary",
            status.canary_revision,
            asked=status.share,
            measured=status.measured_share,
            mirror_asked=status.shadow_share,
            mirror_measured=status.measured_shadow_share,
        )
    if status.warm:
        warm = status.warm
        yield arm("warm", warm.revision, asked=warm.share, mirror_asked=warm.shadow_share)
    shown = {status.stable_revision, status.canary_revision, status.warm and status.warm.revision}
    leaving = [r.revision for r in status.retiring if r.revision not in shown]
    for revision in leaving:
        yield arm("leaving", revision)
    for revision in sorted(deployments.keys() - shown - set(leaving)):
        yield arm("leaving" if status.stable_revision else "starting", revision)


def _mark_steps(status: LLMDeploymentStatus, spec: Manifest) -> Iterable[StepMark]:
    given = (spec.get("strategy") or {}).get("steps")
    steps: list[Manifest] = (
        given
        if isinstance(given, list)
        else [s.model_dump(by_alias=True, exclude_none=True) for s in default_steps()]
    )
    rolling = status.canary_revision is not None
    index = status.step.index if status.step is not None else -1

    def state(number: int) -> Literal["done", "now", "next"]:
        if not rolling or (status.promotion is None and number > index):
            return "next"
        return "now" if status.promotion is None and number == index else "done"

    for number, step in enumerate(steps):
        kind: Literal["Shadow", "Canary"] = "Shadow" if step.get("shadow") else "Canary"
        body = step.get("shadow") or step.get("canary") or {}
        yield StepMark(
            kind,
            str(body.get("share", "?")),
            state(number),
            str(body.get("duration", "")),
            int(body.get("minRequests") or 0),
        )
    yield StepMark("All", "100%", "now" if rolling and status.promotion else "next")


def _read_events(events: Iterable[Manifest]) -> list[Told]:
    told = []
    for event in events:
        series = event.get("series") or {}
        at = next(
            (
                time
                for time in (
                    read_time(series.get("lastObservedTime")),
                    read_time(event.get("lastTimestamp")),
                    read_time(event.get("eventTime")),
                )
                if time is not None
            ),
            None,
        )
        told.append(
            Told(
                at,
                str(event.get("type", "Normal")),
                str(event.get("reason", "")),
                str(event.get("message") or ""),
                int(series.get("count") or event.get("count") or 1),
            )
        )
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(told, key=lambda t: t.at or oldest)[-EVENTS:]
