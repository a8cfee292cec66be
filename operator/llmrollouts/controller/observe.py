"""Reads the world for one round: the only place where the shell looks at the cluster.

        LLMDeployment ──┐
  ControllerRevisions ──┤
   worker Deployments ──┼──> Observation ──> plan
                 Pods ──┤
           ConfigMaps ──┤   (own ones by label, referenced ones by name)
      traffic provider ─┤   (programmed, acknowledged, measured)
                 gates ─┘

Everything is read from the API server in this very round, in parallel; nothing comes from a watch
or a cache (R31). Objects that carry our labels but belong to another owner are left out, so that
a stranger's object can neither get traffic nor be deleted. It never writes and never decides.
Called by controller/reconcile (one deployment) and controller/takeover (all, from bulk lists).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, cast

from llmrollouts.api import labels
from llmrollouts.api.deployment import InvalidSpec, read_spec, read_status
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.spec import LLMDeploymentSpec, ModelSource, Revision
from llmrollouts.controller.gates import GateSource
from llmrollouts.controller.keys import Key
from llmrollouts.controller.ownership import belongs_to
from llmrollouts.controller.pods import read_pod, read_time
from llmrollouts.controller.records import read_record
from llmrollouts.controller.sources import Sources, resolve_sources
from llmrollouts.controller.versions import Versions
from llmrollouts.kube.port import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    LLM_DEPLOYMENT,
    POD,
    Kind,
    Reader,
)
from llmrollouts.resources.canonical import canonical_json
from llmrollouts.rollout.observation import Deployment, Observation, WorkerPod, WorkerSet
from llmrollouts.traffic.port import TrafficPort

# Stands where a spec cannot be read, so that the rest of the observation still has its form.
_NO_SPEC: Final = LLMDeploymentSpec.model_construct(
    replicas=0, revision=Revision.model_construct(model=ModelSource.model_construct(uri=""))
)
_ROLES: Final = ("stable", "canary", "retired")


def _disregard(_kind: Kind, _objects: Iterable[Manifest]) -> None:
    """For tests and tools that have no watches."""


@dataclass(frozen=True, slots=True)
class Sight:
    """manifest: the LLMDeployment as read (its resourceVersion guards the status).
    spec_problem: the spec cannot be used; the observation's is a stand-in that only lets the
    committed traffic be kept, and no plan may be made from it."""

    manifest: Manifest
    observation: Observation
    spec_problem: str | None = None


@dataclass(frozen=True, slots=True)
class Objects:
    """One deployment and its labelled children, as the API server gave them."""

    deployment: Manifest
    revisions: Sequence[Manifest]
    workers: Sequence[Manifest]
    pods: Sequence[Manifest]
    config_maps: Sequence[Manifest]

    def all(self) -> Iterable[Manifest]:
        yield self.deployment
        for group in (self.revisions, self.workers, self.pods, self.config_maps):
            yield from group


CHILDREN: Final = (CONTROLLER_REVISION, DEPLOYMENT, POD, CONFIG_MAP)


class Observer:
    """``on_read`` hears what was read, past the watches."""

    def __init__(
        self,
        reader: Reader,
        traffic: TrafficPort,
        gates: GateSource,
        versions: Versions,
        on_read: Callable[[Kind, Iterable[Manifest]], None] = _disregard,
    ) -> None:
        self._reader = reader
        self._traffic = traffic
        self._gates = gates
        self._versions = versions
        self._on_read = on_read

    async def read(self, key: Key) -> Objects:
        """Raises NotFound when the LLMDeployment is gone, else what the API raises."""

        def children(kind: Kind) -> Any:
            return self._reader.list(kind, key.namespace, {labels.DEPLOYMENT: key.name})

        answers = await asyncio.gather(
            self._reader.get(LLM_DEPLOYMENT, key.namespace, key.name),
            *(children(kind) for kind in CHILDREN),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        deployment, revisions, workers, pods, config_maps = cast(list[Any], answers)
        self._on_read(LLM_DEPLOYMENT, (deployment,))
        groups = (revisions, workers, pods, config_maps)
        for kind, group in zip(CHILDREN, groups, strict=True):
            self._on_read(kind, group)
        return Objects(deployment, *groups)

    async def interpret(self, key: Key, objects: Objects) -> Sight:
        """Raises what the API raises while references are read."""
        self._versions.note(key, objects.all())
        manifest = objects.deployment
        deployment, spec_problem = read_deployment(key, manifest)
        uid, spec = deployment.uid, deployment.spec
        sources = Sources("{}", {})
        if spec_problem is None:
            sources = await resolve_sources(self._reader, manifest, spec)
        records = (read_record(m) for m in objects.revisions if belongs_to(m, uid))
        observation = Observation(
            deployment=deployment,
            source=sources.source,
            texts=sources.texts,
            problem=sources.problem,
            revisions=tuple(record for record in records if record is not None),
            workers=tuple(_read_workers(m) for m in objects.workers if belongs_to(m, uid)),
            pods=tuple(_own_pods(key, objects.pods)),
            config_maps=frozenset(
                _revision(m)
                for m in objects.config_maps
                if belongs_to(m, uid)
                and m["metadata"]["name"] == labels.child_name(key.name, _revision(m))
            ),
            traffic=self._traffic.observe(uid),
        )
        if spec_problem is None:
            observation = replace(observation, gates=self._gates.judge(observation))
        return Sight(manifest, observation, spec_problem)

    def forget(self, key: Key) -> None:
        """The deployment is gone: nothing is measured for it any more."""
        self._gates.forget(key)

    def look_again(self, seen: Observation) -> Observation:
        """The same with what the traffic provider knows at this moment."""
        return replace(seen, traffic=self._traffic.observe(seen.deployment.uid))

    async def observe(self, key: Key) -> Sight:
        return await self.interpret(key, await self.read(key))


def read_deployment(key: Key, manifest: Manifest) -> tuple[Deployment, str | None]:
    """The LLMDeployment, and why its spec cannot be used: then a stand-in is in its place."""
    metadata = manifest["metadata"]
    spec_problem = None
    try:
        spec = read_spec(manifest)
    except InvalidSpec as error:
        spec, spec_problem = _NO_SPEC, str(error)
    reading = read_status(manifest)
    annotations = metadata.get("annotations") or {}
    command = annotations.get(labels.COMMAND)
    deployment = Deployment(
        namespace=key.namespace,
        name=key.name,
        uid=metadata["uid"],
        generation=int(metadata.get("generation") or 0),
        spec=spec,
        status=reading.status,
        status_problem=reading.problem,
        deleting="deletionTimestamp" in metadata,
        command=command,
        command_sequence=_read_number(annotations.get(labels.COMMAND_SEQUENCE)),
        command_applied=command is not None and _is_applied(metadata, annotations),
        command_at=_given_at(metadata) if command is not None else None,
    )
    return deployment, spec_problem


def _own_pods(key: Key, pods: Iterable[Manifest]) -> Iterable[WorkerPod]:
    for manifest in pods:
        prefix = labels.child_name(key.name, _revision(manifest)) + "-"
        owners = manifest["metadata"].get("ownerReferences") or []
        # A worker pod belongs to a ReplicaSet of the worker Deployment; nothing else does.
        if any(
            owner.get("kind") == "ReplicaSet"
            and owner.get("controller")
            and str(owner.get("name", "")).startswith(prefix)
            for owner in owners
        ):
            yield read_pod(manifest)


def _read_workers(manifest: Manifest) -> WorkerSet:
    metadata = manifest["metadata"]
    role = (metadata.get("labels") or {}).get(labels.ROLE)
    spec = manifest.get("spec") or {}
    replicas, template = spec.get("replicas"), spec.get("template")
    return WorkerSet(
        revision=_revision(manifest),
        replicas=1 if replicas is None else int(replicas),
        role=cast(Literal["stable", "canary", "retired"], role) if role in _ROLES else None,
        uid=metadata["uid"],
        terminating="deletionTimestamp" in metadata,
        template=None if template is None else canonical_json(template),
    )


def _revision(manifest: Manifest) -> str:
    return str((manifest["metadata"].get("labels") or {}).get(labels.REVISION, ""))


def _read_number(text: str | None) -> int:
    """The annotation is written by us alone, but anybody may have edited it: then 0, which at
    worst makes the status say "done but not yet removed" once more."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _is_applied(metadata: Manifest, annotations: Manifest) -> bool:
    """Does the command stand in a manifest that somebody applies (Git), not annotates?"""
    last_applied = annotations.get(labels.LAST_APPLIED)
    if last_applied:
        try:
            applied = json.loads(last_applied)["metadata"].get("annotations") or {}
        except (ValueError, TypeError, KeyError, AttributeError):
            applied = {}
        if isinstance(applied, dict) and labels.COMMAND in applied:
            return True
    return any(entry.get("operation") == "Apply" for entry in _command_owners(metadata))


def _given_at(metadata: Manifest) -> datetime | None:
    """When the command was written, to the second; None where the API server does not tell."""
    times = (entry.get("time") for entry in _command_owners(metadata))
    return max((at for time in times if (at := read_time(time)) is not None), default=None)


def _command_owners(metadata: Manifest) -> Iterable[Manifest]:
    """Who wrote the command, as the API server keeps book."""
    for entry in metadata.get("managedFields") or []:
        owned = ((entry.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {}
        if f"f:{labels.COMMAND}" in owned:
            yield entry
