"""Nothing is written by a process that does not lead: the writer that asks before each write.

It decides nothing but that. Two leaders for a moment are harmless because of it: the old one finds
its Lease run out on the monotonic clock before its next write, whatever it was doing when it was
frozen (R14). Used by controller/act for every write; the elector itself writes past it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.port import Kind, StatusWriter, Writer


class Leadership(Protocol):
    """What the shell needs to know of the election."""

    @property
    def epoch(self) -> int:
        """How often leadership has changed hands, up to this process's term."""

    def require(self) -> None:
        """Raises NotLeading unless the Lease is certainly still ours at this moment."""

    async def outrank(self, epoch: int) -> None:
        """Have an epoch above ``epoch``; raises NotLeading when a later leader has written it."""


class ChildWriter(Writer, StatusWriter, Protocol):
    """All writes of a round."""


class FencedWriter:
    def __init__(self, writer: ChildWriter, leadership: Leadership) -> None:
        self._writer = writer
        self._leadership = leadership

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        self._leadership.require()
        return await self._writer.create(kind, manifest)

    async def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        self._leadership.require()
        return await self._writer.apply(kind, manifest)

    async def patch(
        self, kind: Kind, namespace: str, name: str, operations: Sequence[Manifest]
    ) -> Manifest:
        self._leadership.require()
        return await self._writer.patch(kind, namespace, name, operations)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None:
        self._leadership.require()
        await self._writer.delete(kind, namespace, name, uid)

    async def replace_status(self, kind: Kind, manifest: Manifest) -> Manifest:
        self._leadership.require()
        return await self._writer.replace_status(kind, manifest)

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        self._leadership.require()
        return await self._writer.replace(kind, manifest)
