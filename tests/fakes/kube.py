"""A Kubernetes API server in memory: honest where the operator relies on the real one.

The contract suite in tests/kube/contract.py runs against this and against a real kube-apiserver;
what that suite does not check, no test may expect from here. Beyond the ports it offers what tests
need: a look at objects without a request (``peek``, ``objects``), edits by other people (``edit``,
``put``, ``remove``), the list of requests made (``calls``), planned failures (``faults``), and
watch events (``watch``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from llmrollouts.api.labels import FIELD_MANAGER
from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.port import Conflict, Kind, NotFound, Rejected
from tests.fakes.copies import copied
from tests.fakes.json_patch import DoesNotFit, patch_object
from tests.fakes.kube_faults import Call, Fault, Faults
from tests.fakes.kube_store import HAVE_STATUS, OnChange, Store, plain

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class FakeKube:
    """Implements Reader, Writer and StatusWriter (and so the elector's LeaseStore).

    now: the server's wall clock, for timestamps. delay: seconds that each request takes, half
    before and half after its effect. collects_garbage: dependents go with their last owner.
    """

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        delay: float = 0.0,
        collects_garbage: bool = True,
    ) -> None:
        self.faults = Faults()
        self.calls: list[Call] = []
        self.delay = delay
        self._store = Store(now, collects_garbage)

    # The ports.

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        answer: Manifest = await self._serve(
            "get", kind, namespace, name, lambda: self._store.find(kind, namespace, name)
        )
        return answer

    async def list(
        self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Manifest]:
        found = await self._serve(
            "list", kind, namespace, "", lambda: self._store.objects(kind, namespace, labels)
        )
        return list(found)

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        return await self._write("create", kind, manifest, FIELD_MANAGER)

    async def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        return await self._write("apply", kind, manifest, FIELD_MANAGER)

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        return await self._write("replace", kind, manifest, FIELD_MANAGER)

    async def replace_status(self, kind: Kind, manifest: Manifest) -> Manifest:
        return await self._write("replace_status", kind, manifest, FIELD_MANAGER)

    async def patch(
        self, kind: Kind, namespace: str, name: str, operations: Sequence[Manifest]
    ) -> Manifest:
        sent = plain(list(operations))

        def act() -> Manifest:
            old = self._store.find(kind, namespace, name)
            try:
                new = patch_object(old, sent)
            except DoesNotFit as error:
                raise Conflict(f"patch {kind.kind} {namespace}/{name}: {error}") from error
            return self._store.update(kind, old, new, FIELD_MANAGER)

        answer: Manifest = await self._serve("patch", kind, namespace, name, act)
        return answer

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None:
        def act() -> None:
            try:
                old = self._store.find(kind, namespace, name)
            except NotFound:
                return
            if uid is not None and old["metadata"]["uid"] != uid:
                raise Conflict(f"delete {kind.kind} {namespace}/{name}: it has another uid")
            self._store.delete(kind, old)

        await self._serve("delete", kind, namespace, name, act)

    # What tests do and see, without a request.

    def watch(self, on_change: OnChange) -> None:
        """Call ``on_change`` after every change from now on, at once."""
        self._store.watch(on_change)

    def peek(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """The object as it is, or None."""
        try:
            return copied(self._store.find(kind, namespace, name))
        except NotFound:
            return None

    def objects(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Manifest]:
        """All objects of a kind that carry the labels, in the server's order."""
        return copied(self._store.objects(kind, namespace, labels))

    def collect_garbage(self) -> None:
        """Delete what has owners of which none is left (for collects_garbage=False)."""
        self._store.collect_garbage()

    def put(self, kind: Kind, manifest: Manifest, manager: str = "kubectl") -> Manifest:
        """Somebody creates the object, or changes it to this (its status stays)."""
        metadata = manifest["metadata"]
        old = self.peek(kind, metadata["namespace"], metadata["name"])
        if old is None:
            return copied(self._store.create(kind, plain(manifest), manager))
        new = plain(manifest)
        new["metadata"] = {**old["metadata"], **new["metadata"]}
        return copied(self._store.update(kind, old, new, manager))

    def edit(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Callable[[Manifest], None],
        manager: str = "kubectl-edit",
        status: bool = False,
    ) -> Manifest:
        """Somebody edits the object in place (``status``: its status subresource)."""
        old = self._store.find(kind, namespace, name)
        new = copied(old)
        change(new)
        return copied(self._store.update(kind, old, plain(new), manager, status))

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        """Somebody deletes the object."""
        self._store.delete(kind, self._store.find(kind, namespace, name))

    # How a request is served.

    async def _serve(
        self, verb: str, kind: Kind, namespace: str | None, name: str, act: Callable[[], Any]
    ) -> Any:
        call = Call(len(self.calls) + 1, verb, kind.kind, namespace, name)
        self.calls.append(call)
        fault = self.faults.of(call)
        await asyncio.sleep(self.delay / 2)
        if fault is Fault.HANG:
            await asyncio.Event().wait()
        if fault is not None and not fault.is_done:
            raise fault.error(str(call))
        if verb != "list" and not _NAME.fullmatch(name):
            raise Rejected(f"{call}: {name!r} is no name that Kubernetes accepts")
        answer = copied(act())
        await asyncio.sleep(self.delay / 2)
        if fault is not None:
            raise fault.error(str(call))
        return answer

    async def _write(self, verb: str, kind: Kind, manifest: Manifest, manager: str) -> Manifest:
        sent = plain(manifest)
        metadata = sent["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if verb.startswith("replace") and not metadata.get("resourceVersion"):
            raise ValueError("a replaced object needs the metadata.resourceVersion that was read")

        def act() -> Manifest:
            match verb:
                case "create":
                    return self._store.create(kind, sent, manager)
                case "apply":
                    return self._store.apply(kind, sent, manager)
            old = self._store.find(kind, namespace, name)
            if verb == "replace_status" and kind.kind not in HAVE_STATUS:
                raise NotFound(f"{kind.kind} has no status subresource")
            return self._store.update(kind, old, sent, manager, status=verb == "replace_status")

        answer: Manifest = await self._serve(verb, kind, namespace, name, act)
        return answer
