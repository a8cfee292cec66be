"""Tells the user, in the object itself, that a round could not be completed, and what to do.

A poisoned object gets a condition instead of silence, and its traffic stays as it is. Writing the
condition is best effort: it must never turn one failure into another, so whatever the API server
says to it is logged and the round's own back-off goes on. It works on the plain object, because
a status or spec that cannot be parsed may be the very cause. Called by controller/reconcile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from llmrollouts.api.manifest import Manifest
from llmrollouts.api.reasons import ConditionType
from llmrollouts.controller.errors import NotLeading
from llmrollouts.controller.events import EventRecorder
from llmrollouts.controller.fence import ChildWriter
from llmrollouts.controller.keys import Key
from llmrollouts.controller.versions import Versions
from llmrollouts.kube.port import LLM_DEPLOYMENT, KubeError, Reader
from llmrollouts.rollout.effects import Notice

LOG: Final = logging.getLogger(__name__)

_LONGEST: Final = 800
_ADVICE: Final = (
    "Users stay where they are; a running canary falls back to 0% by itself. The operator tries "
    "again by itself; see its log for this deployment"
)


class Complaints:
    def __init__(
        self,
        reader: Reader,
        writer: ChildWriter,
        events: EventRecorder,
        versions: Versions,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._events = events
        self._versions = versions
        self._now = now

    async def about_spec(self, key: Key, reason: str, message: str) -> None:
        """The spec cannot be used until somebody changes it."""
        await self._complain(key, ConditionType.SOURCE_RESOLVED, reason, message)

    async def about_round(self, key: Key, reason: str, message: str) -> None:
        """The operator could not carry out what it decided, or could not decide."""
        told = f"{message[: _LONGEST - len(_ADVICE)]}. {_ADVICE}"
        await self._complain(key, ConditionType.RECONCILED, reason, told)

    async def _complain(self, key: Key, kind: str, reason: str, message: str) -> None:
        message = message[:_LONGEST]
        try:
            manifest = await self._reader.get(LLM_DEPLOYMENT, key.namespace, key.name)
            status = manifest.get("status")
            status = dict(status) if isinstance(status, dict) else {}
            conditions = [c for c in _conditions(status) if c.get("type") != kind]
            old = next((c for c in _conditions(status) if c.get("type") == kind), {})
            told = {"status": "False", "reason": str(reason), "message": message}
            if all(old.get(field) == value for field, value in told.items()):
                return
            new = {
                "type": str(kind),
                **told,
                "lastTransitionTime": self._since(old),
                "observedGeneration": int(manifest["metadata"].get("generation") or 0),
            }
            status["conditions"] = [*conditions, new]
            written = await self._writer.replace_status(
                LLM_DEPLOYMENT, {**manifest, "status": status}
            )
            self._versions.note_written(key, written)
            self._events.tell(manifest, Notice("Warning", str(reason), message))
        except (KubeError, NotLeading) as error:
            names = {"llmdeployment": str(key), "error": str(error)[:300]}
            LOG.warning("Failed to tell the user in a condition", extra=names)

    def _since(self, old: Manifest) -> str:
        if old.get("status") == "False" and old.get("lastTransitionTime"):
            return str(old["lastTransitionTime"])
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _conditions(status: Manifest) -> list[dict[str, Any]]:
    given = status.get("conditions")
    return [c for c in given if isinstance(c, dict)] if isinstance(given, list) else []
