"""A stored ControllerRevision as the state machine's record of it, and its rejection note.

It decides that a rejection note that cannot be read is a rejection all the same: a revision that
was once rejected gets traffic only when a person says so (R04). Called by observe and children.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.reasons import Reason
from llmrollouts.controller.pods import read_time
from llmrollouts.resources.children import UnreadableRevision, read_controller_revision
from llmrollouts.resources.revision import RevisionContent
from llmrollouts.rollout.observation import Rejection, RevisionRecord

LOG: Final = logging.getLogger(__name__)

_LONGEST_NOTE: Final = 4096


def read_record(manifest: Manifest) -> RevisionRecord | None:
    """None for an object that carries our labels but not our data; it is left alone."""
    metadata = manifest["metadata"]
    try:
        content = read_controller_revision(manifest)
    except UnreadableRevision as error:
        LOG.warning(
            "Ignored a record that cannot be read",
            extra={
                "controllerrevision": f"{metadata['namespace']}/{metadata['name']}",
                "error": str(error),
            },
        )
        return None
    note = (metadata.get("annotations") or {}).get(labels.REJECTED)
    created_at = read_time(metadata.get("creationTimestamp"))
    return RevisionRecord(
        name=content.name,
        number=content.number,
        source=content.source,
        texts=content.texts,
        template=content.template,
        files=content.files,
        created_at=created_at,
        rejected=None if note is None else _read_rejection(note, created_at),
    )


def content_of(record: RevisionRecord) -> RevisionContent:
    return RevisionContent(
        name=record.name,
        number=record.number,
        source=record.source,
        texts=record.texts,
        template=record.template,
        files=record.files,
    )


def write_rejection(rejection: Rejection) -> str:
    note = {
        "at": rejection.at.astimezone(UTC).isoformat(),
        "reason": rejection.reason,
        "message": rejection.message[: _LONGEST_NOTE // 4],
    }
    return json.dumps(note, sort_keys=True)


def _read_rejection(note: str, created_at: datetime | None) -> Rejection:
    try:
        told = json.loads(note[:_LONGEST_NOTE])
        at = datetime.fromisoformat(told["at"])
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return Rejection(at, str(told["reason"]), str(told["message"]))
    except (ValueError, TypeError, KeyError):
        at = created_at or datetime.fromtimestamp(0, UTC)
        return Rejection(at, Reason.REJECTED, "rejected; the note that says why cannot be read")
