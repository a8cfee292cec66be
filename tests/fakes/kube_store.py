"""The objects of the fake API server, and the rules by which they change.

Knows nothing of requests, faults or event loops: FakeKube does. Every change is stamped with a new
resourceVersion and told to the watchers at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.port import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    LLM_DEPLOYMENT,
    POD,
    Conflict,
    Kind,
    NotFound,
    Rejected,
)
from tests.fakes.copies import copied
from tests.fakes.field_ownership import (
    Fields,
    changed_fields,
    fields_of,
    merge,
    remove_fields,
    union,
    without,
)

# (ADDED | MODIFIED | DELETED, kind, the object)
OnChange: TypeAlias = Callable[[str, Kind, Manifest], None]
Key: TypeAlias = tuple[str, str, str]

HAVE_STATUS: Final = frozenset({LLM_DEPLOYMENT.kind, DEPLOYMENT.kind, POD.kind})
HAVE_GENERATION: Final = frozenset({LLM_DEPLOYMENT.kind, DEPLOYMENT.kind})
SERVER_OWNED: Final = ("uid", "creationTimestamp", "generation", "deletionTimestamp")
MEBIBYTE: Final = 1024 * 1024


class Store:
    """All objects. The methods return the stored object itself: callers copy."""

    def __init__(self, now: Callable[[], datetime], collects_garbage: bool) -> None:
        self._now = now
        self._collects_garbage = collects_garbage
        self._objects: dict[Key, Manifest] = {}
        self._kinds: dict[str, Kind] = {}
        self._watchers: list[OnChange] = []
        self._revision = 0
        self._born = 0

    def watch(self, on_change: OnChange) -> None:
        """Call ``on_change`` after every change from now on, at once."""
        self._watchers.append(on_change)

    def objects(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Manifest]:
        """All objects of a kind that carry the labels, in the server's order."""
        wanted = (labels or {}).items()
        return [
            found
            for (name, space, _), found in sorted(self._objects.items())
            if name == kind.kind
            and namespace in (None, space)
            and wanted <= (found["metadata"].get("labels") or {}).items()
        ]

    def collect_garbage(self) -> None:
        """Delete what has owners of which none is left."""
        while True:
            uids = {found["metadata"]["uid"] for found in self._objects.values()}
            orphans = [
                (key, found)
                for key, found in self._objects.items()
                if (owners := found["metadata"].get("ownerReferences"))
                and not any(owner["uid"] in uids for owner in owners)
            ]
            if not orphans:
                return
            for key, found in orphans:
                # Another orphan's deletion may have taken this one already.
                if self._objects.get(key) is found:
                    self._drop(self._kinds[key[0]], found)

    def find(self, kind: Kind, namespace: str, name: str) -> Manifest:
        found = self._objects.get((kind.kind, namespace, name))
        if found is None:
            raise NotFound(f'{kind.plural} "{name}" not found in {namespace}')
        return found

    def create(self, kind: Kind, sent: Manifest, manager: str) -> Manifest:
        self._kinds[kind.kind] = kind
        metadata = sent["metadata"]
        if (kind.kind, metadata["namespace"], metadata["name"]) in self._objects:
            raise Conflict(f'{kind.plural} "{metadata["name"]}" already exists')
        new = copied(sent)
        if kind.kind in HAVE_STATUS:
            new.pop("status", None)
        self._stamp(kind, new)
        new["metadata"]["managedFields"] = [_entry(manager, "Update", fields_of(new))]
        _validate(kind, None, new)
        return self._store("ADDED", kind, new)

    def _stamp(self, kind: Kind, new: Manifest) -> None:
        self._born += 1
        metadata = new["metadata"]
        metadata.update(
            uid=f"00000000-0000-4000-8000-{self._born:012d}",
            creationTimestamp=self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        metadata.pop("resourceVersion", None)
        if kind.kind in HAVE_GENERATION:
            metadata["generation"] = 1

    def apply(self, kind: Kind, sent: Manifest, manager: str) -> Manifest:
        metadata = sent["metadata"]
        self._kinds[kind.kind] = kind
        sent.pop("status", None)
        mine = fields_of(sent)
        old = self._objects.get((kind.kind, metadata["namespace"], metadata["name"]))
        if old is None:
            new = copied(sent)
            self._stamp(kind, new)
            new["metadata"]["managedFields"] = [_entry(manager, "Apply", mine)]
            _validate(kind, None, new)
            return self._store("ADDED", kind, new)
        if (version := metadata.get("resourceVersion")) not in (
            None,
            old["metadata"]["resourceVersion"],
        ):
            raise Conflict(
                f"apply {kind.kind} {metadata['name']}: resourceVersion {version} is old"
            )
        new = merge(old, sent)
        taken = changed_fields(_body(old), _body(new))
        entries, before = [], {}
        for entry in old["metadata"].get("managedFields", []):
            if (entry["manager"], entry["operation"]) == (manager, "Apply"):
                before = entry["fieldsV1"]
            elif "subresource" in entry:
                entries.append(entry)
            elif rest := without(entry["fieldsV1"], taken):
                entries.append({**entry, "fieldsV1": rest})
        others: Fields = {}
        for entry in entries:
            others = union(others, entry["fieldsV1"])
        remove_fields(new, without(without(before, mine), others))
        entries.append(_entry(manager, "Apply", mine))
        new["metadata"]["managedFields"] = sorted(entries, key=_entry_order)
        return self._commit(kind, old, new)

    def update(
        self, kind: Kind, old: Manifest, sent: Manifest, manager: str, status: bool = False
    ) -> Manifest:
        """Replace ``old`` by what the server lets through of ``sent``."""
        version = sent["metadata"].get("resourceVersion")
        if version not in (None, old["metadata"]["resourceVersion"]):
            raise Conflict(
                f'{kind.plural} "{old["metadata"]["name"]}": the object has been modified; '
                "please apply your changes to the latest version and try again"
            )
        if sent["metadata"].get("uid") not in (None, old["metadata"]["uid"]):
            raise Conflict(f"{kind.kind} {old['metadata']['name']}: it has another uid")
        if status:
            new = copied(old)
            new.pop("status", None)
            if "status" in sent:
                new["status"] = sent["status"]
        else:
            new = copied(sent)
            if kind.kind in HAVE_STATUS:
                new.pop("status", None)
                if "status" in old:
                    new["status"] = copied(old["status"])
        for name in SERVER_OWNED:
            new["metadata"].pop(name, None)
            if name in old["metadata"]:
                new["metadata"][name] = old["metadata"][name]
        new["metadata"]["managedFields"] = self._after_update(old, new, manager, status)
        return self._commit(kind, old, new)

    def _after_update(
        self, old: Manifest, new: Manifest, manager: str, status: bool
    ) -> Sequence[Manifest]:
        part = (lambda o: {"status": o.get("status", {})}) if status else _body
        changed = changed_fields(part(old), part(new))
        gone = without(fields_of(old, status), fields_of(new, status))
        entries, mine = [], changed
        for entry in old["metadata"].get("managedFields", []):
            if ("subresource" in entry) != status:
                entries.append(entry)
            elif (entry["manager"], entry["operation"]) == (manager, "Update"):
                mine = union(without(entry["fieldsV1"], gone), changed)
            elif rest := without(without(entry["fieldsV1"], changed), gone):
                entries.append({**entry, "fieldsV1": rest})
        if mine:
            entries.append(_entry(manager, "Update", mine, status))
        return sorted(entries, key=_entry_order)

    def _commit(self, kind: Kind, old: Manifest, new: Manifest) -> Manifest:
        _validate(kind, old, new)
        metadata = new["metadata"]
        metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        if kind.kind in HAVE_GENERATION and _spec(new) != _spec(old):
            metadata["generation"] = old["metadata"]["generation"] + 1
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            return self._drop(kind, new)
        if new == old:
            return old  # nothing changed: no new version, and nobody is told
        return self._store("MODIFIED", kind, new)

    def _store(self, event: str, kind: Kind, new: Manifest) -> Manifest:
        self._revision += 1
        metadata = new["metadata"]
        metadata["resourceVersion"] = str(self._revision)
        new.update(apiVersion=kind.api_version, kind=kind.kind)
        self._objects[kind.kind, metadata["namespace"], metadata["name"]] = new
        self._tell(event, kind, new)
        return new

    def delete(self, kind: Kind, old: Manifest) -> None:
        if old["metadata"].get("finalizers"):
            if "deletionTimestamp" not in old["metadata"]:
                new = copied(old)
                new["metadata"]["deletionTimestamp"] = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
                self._store("MODIFIED", kind, new)
            return
        self._drop(kind, old)

    def _drop(self, kind: Kind, old: Manifest) -> Manifest:
        metadata = old["metadata"]
        self._revision += 1
        del self._objects[kind.kind, metadata["namespace"], metadata["name"]]
        self._tell("DELETED", kind, old)
        if self._collects_garbage:
            self.collect_garbage()
        return old

    def _tell(self, event: str, kind: Kind, found: Manifest) -> None:
        for watcher in self._watchers:
            watcher(event, kind, copied(found))


def _entry(manager: str, operation: str, fields: Fields, status: bool = False) -> Manifest:
    entry = {"manager": manager, "operation": operation, "fieldsV1": fields}
    return {**entry, "subresource": "status"} if status else entry


def _entry_order(entry: Manifest) -> tuple[str, str, str]:
    return entry["manager"], entry["operation"], entry.get("subresource", "")


def plain(value: Any) -> Any:
    # What cannot travel as JSON would not reach a real server either.
    return json.loads(json.dumps(value, allow_nan=False))


def _spec(manifest: Manifest) -> Manifest:
    return {k: v for k, v in manifest.items() if k not in ("metadata", "status")}


def _body(manifest: Manifest) -> Manifest:
    """What the main resource's managers may own."""
    return {
        **{k: v for k, v in manifest.items() if k not in ("apiVersion", "kind", "status")},
        "metadata": {
            k: v
            for k, v in manifest["metadata"].items()
            if k in ("labels", "annotations", "ownerReferences", "finalizers")
        },
    }


def _validate(kind: Kind, old: Manifest | None, new: Manifest) -> None:
    """The refusals that the operator's own writes can meet."""
    where = f'{kind.kind} "{new["metadata"]["name"]}" is invalid'
    match kind.kind:
        case CONTROLLER_REVISION.kind if old and old.get("data") != new.get("data"):
            raise Rejected(f"{where}: data: Invalid value: field is immutable")
        case CONFIG_MAP.kind:
            size = sum(len(text.encode()) for text in (new.get("data") or {}).values())
            if size > MEBIBYTE:
                raise Rejected(f"{where}: data: Too long: may not be more than {MEBIBYTE} bytes")
            if old and old.get("immutable") and old.get("data") != new.get("data"):
                raise Rejected(f"{where}: data: Forbidden: field is immutable")
        case DEPLOYMENT.kind if old and old["spec"]["selector"] != new["spec"]["selector"]:
            raise Rejected(f"{where}: spec.selector: Invalid value: field is immutable")
