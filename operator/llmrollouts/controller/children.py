"""Carries out the effects of a plan on the children and on the command annotation.

Each effect may be carried out twice, also by two processes: creations accept what is there already,
applies and deletions are idempotent, patches test what they replace. Objects of other owners are
neither changed nor deleted. It decides nothing. Called by controller/act.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.controller.fence import ChildWriter
from llmrollouts.controller.keys import Key
from llmrollouts.controller.ownership import belongs_to
from llmrollouts.controller.records import content_of, write_rejection
from llmrollouts.controller.versions import Versions
from llmrollouts.kube.port import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    LLM_DEPLOYMENT,
    Conflict,
    Kind,
    NotFound,
    Reader,
    Rejected,
    Transient,
)
from llmrollouts.resources.children import (
    Owner,
    make_config_map,
    make_controller_revision,
    make_worker_deployment,
)
from llmrollouts.rollout.effects import (
    ApplyWorkers,
    DeleteRevision,
    DeleteWorkers,
    Effect,
    RejectRevision,
    RemoveCommand,
    StoreRevision,
)
from llmrollouts.rollout.observation import Observation, Rejection, RevisionRecord

Role = Literal["stable", "canary", "retired"]


class ChildrenKeeper:
    def __init__(self, reader: Reader, writer: ChildWriter, versions: Versions) -> None:
        self._reader = reader
        self._writer = writer
        self._versions = versions

    async def perform(self, key: Key, seen: Observation, effects: tuple[Effect, ...]) -> None:
        """All effects in their order; the first failure ends it with the API's error."""
        owner = Owner(key.namespace, key.name, seen.deployment.uid)
        records = {record.name: record for record in seen.revisions}
        for effect in effects:
            match effect:
                case StoreRevision(record):
                    records[record.name] = record
                    await self._store(key, owner, record)
                case RejectRevision(revision, rejection):
                    await self._reject(key, revision, rejection)
                case ApplyWorkers(revision, replicas, role):
                    await self._apply_workers(key, owner, records, revision, replicas, role)
                case DeleteWorkers(revision):
                    await self._delete_workers(key, seen, revision)
                case DeleteRevision(revision):
                    if any(record.name == revision for record in seen.revisions):
                        name = labels.child_name(key.name, revision)
                        await self._writer.delete(CONTROLLER_REVISION, key.namespace, name)
                case RemoveCommand(value, sequence):
                    await self._remove_command(key, value, sequence)

    async def _store(self, key: Key, owner: Owner, record: RevisionRecord) -> None:
        manifest = make_controller_revision(owner, content_of(record))
        try:
            created = await self._writer.create(CONTROLLER_REVISION, manifest)
        except Conflict:
            await self._raise_number(key, owner, record, manifest)
        else:
            self._versions.note_written(key, created)

    async def _raise_number(
        self, key: Key, owner: Owner, record: RevisionRecord, wanted: Manifest
    ) -> None:
        """The record exists: its data must be the same; only its number may grow."""
        name = wanted["metadata"]["name"]
        found = await self._reader.get(CONTROLLER_REVISION, key.namespace, name)
        if not belongs_to(found, owner.uid) or "deletionTimestamp" in found["metadata"]:
            raise Transient(f"ControllerRevision {name} of an earlier deployment is still there")
        if found.get("data") != wanted["data"]:
            raise Rejected(
                f"ControllerRevision {name} exists with other data: delete it, "
                "it was not written by this operator"
            )
        number = int(found.get("revision") or 0)
        if number < record.number:
            operations = [
                {"op": "test", "path": "/revision", "value": number},
                {"op": "replace", "path": "/revision", "value": record.number},
            ]
            await self._patch(key, CONTROLLER_REVISION, name, operations)

    async def _reject(self, key: Key, revision: str, rejection: Rejection | None) -> None:
        name = labels.child_name(key.name, revision)
        try:
            found = await self._reader.get(CONTROLLER_REVISION, key.namespace, name)
        except NotFound:
            return  # a lost record cannot be annotated; the status tells of the rejection too
        metadata = found["metadata"]
        annotations = metadata.get("annotations") or {}
        note = None if rejection is None else write_rejection(rejection)
        if annotations.get(labels.REJECTED) == note:
            return
        kept = {k: v for k, v in annotations.items() if k != labels.REJECTED}
        if note is not None:
            kept[labels.REJECTED] = note
        operations: list[Manifest] = [
            # The whole map is written, so nobody may have changed it in between.
            {"op": "test", "path": "/metadata/resourceVersion", "value": _version(found)},
            {"op": "add", "path": "/metadata/annotations", "value": kept},
        ]
        await self._patch(key, CONTROLLER_REVISION, name, operations)

    async def _apply_workers(
        self,
        key: Key,
        owner: Owner,
        records: Mapping[str, RevisionRecord],
        revision: str,
        replicas: int,
        role: Role,
    ) -> None:
        record = records.get(revision)
        if record is None:
            raise LookupError(f"revision {revision} has no stored record: its workers stay as is")
        content = content_of(record)
        await self._apply(key, owner, CONFIG_MAP, make_config_map(owner, content))
        workers = make_worker_deployment(owner, content, replicas, role)
        await self._apply(key, owner, DEPLOYMENT, workers)

    async def _apply(self, key: Key, owner: Owner, kind: Kind, manifest: Manifest) -> None:
        try:
            written = await self._writer.apply(kind, manifest)
        except Rejected:
            # Two controlling owners are refused: what a deployment of the same name left behind
            # and the garbage collector has not reached yet.
            if await self._is_foreign(kind, manifest, owner.uid):
                name = manifest["metadata"]["name"]
                raise Transient(f"{kind.kind} {name} of another owner is still there") from None
            raise
        self._versions.note_written(key, written)

    async def _is_foreign(self, kind: Kind, manifest: Manifest, uid: str) -> bool:
        metadata = manifest["metadata"]
        try:
            found = await self._reader.get(kind, metadata["namespace"], metadata["name"])
        except NotFound:
            return False
        return not belongs_to(found, uid)

    async def _delete_workers(self, key: Key, seen: Observation, revision: str) -> None:
        name = labels.child_name(key.name, revision)
        for workers in seen.workers:
            if workers.revision == revision:
                await self._writer.delete(DEPLOYMENT, key.namespace, name, workers.uid)
        if revision in seen.config_maps:
            await self._writer.delete(CONFIG_MAP, key.namespace, name)

    async def _remove_command(self, key: Key, value: str, sequence: int) -> None:
        command = _pointer(labels.COMMAND)
        operations: list[Manifest] = [
            {"op": "test", "path": command, "value": value},
            {"op": "remove", "path": command},
            {"op": "add", "path": _pointer(labels.COMMAND_SEQUENCE), "value": str(sequence)},
        ]
        await self._patch(key, LLM_DEPLOYMENT, key.name, operations)

    async def _patch(self, key: Key, kind: Kind, name: str, operations: list[Manifest]) -> None:
        written = await self._writer.patch(kind, key.namespace, name, operations)
        self._versions.note_written(key, written)


def _pointer(annotation: str) -> str:
    return "/metadata/annotations/" + annotation.replace("~", "~0").replace("/", "~1")


def _version(manifest: Manifest) -> str:
    return str(manifest["metadata"]["resourceVersion"])
