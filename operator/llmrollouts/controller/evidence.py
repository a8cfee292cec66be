"""Keeps a rollout's evidence in its ConfigMap, so that a restart goes on where it stood.

It decides only whose ConfigMap is read and written: one that this operator made for this very
deployment. Written by the leader alone, through the fenced writer, and on the side: an API server
that hangs must not hold up the measurement. Called by controller/measure.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.controller.errors import NotLeading
from llmrollouts.kube.port import CONFIG_MAP, Kind, KubeError, NotFound, Reader
from llmrollouts.metrics.record import EvidenceRecord
from llmrollouts.resources.children import Owner
from llmrollouts.resources.evidence import is_evidence, make_evidence

LOG: Final = logging.getLogger(__name__)


class Unreadable(Exception):
    """There is a ConfigMap of that name that holds no evidence; the message says why. ours: it is
    this operator's, and may be overwritten."""

    def __init__(self, message: str, *, ours: bool) -> None:
        super().__init__(message)
        self.ours = ours


class Applier(Protocol):
    async def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Server-side apply."""


class EvidenceStore:
    """Of one deployment."""

    def __init__(self, reader: Reader, writer: Applier, owner: Owner) -> None:
        self._reader = reader
        self._writer = writer
        self._owner = owner
        self._saving: asyncio.Task[None] | None = None

    async def load(self) -> EvidenceRecord | None:
        """What was stored; None: nothing. Raises Unreadable, and what the API raises."""
        owner = self._owner
        name = labels.evidence_name(owner.name)
        try:
            found = await self._reader.get(CONFIG_MAP, owner.namespace, name)
        except NotFound:
            return None
        if not is_evidence(found, owner.name, owner.uid):
            raise Unreadable(
                f"ConfigMap {name} belongs to somebody else: rename or delete it, "
                "until then no evidence can be stored",
                ours=False,
            )
        try:
            return EvidenceRecord.from_data(found.get("data") or {})
        except ValueError as error:
            raise Unreadable(f"ConfigMap {name}: {error}", ours=True) from error

    def save(self, record: EvidenceRecord) -> bool:
        """Begin to store ``record``; False while an earlier one is still on its way."""
        if self._saving is not None and not self._saving.done():
            return False
        self._saving = asyncio.get_running_loop().create_task(
            self._save(record), name=f"store evidence of {self._owner.name}"
        )
        return True

    async def stop(self) -> None:
        """End what is on its way."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)

    async def flush(self) -> None:
        """Wait until what is on its way is stored."""
        if self._saving is not None:
            await asyncio.gather(self._saving, return_exceptions=True)

    async def _save(self, record: EvidenceRecord) -> None:
        try:
            await self._writer.apply(CONFIG_MAP, make_evidence(self._owner, record.to_data()))
        except (KubeError, NotLeading, ValueError) as error:
            LOG.warning(
                "Failed to store evidence",
                extra={
                    "llmdeployment": f"{self._owner.namespace}/{self._owner.name}",
                    "error": str(error)[:300],
                },
            )
