"""Makes the children of an LLMDeployment from a stored revision: what the operator applies.

The worker Deployment's pod template is the stored one, to the letter; only replicas and the
Deployment's own metadata ever change. Everything is owned by the LLMDeployment, so that deleting
it cleans up without a finalizer, also while the operator is down. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.resources.revision import RevisionContent

Role: TypeAlias = Literal["stable", "canary", "retired"]


@dataclass(frozen=True, slots=True)
class Owner:
    """The LLMDeployment that owns the children."""

    namespace: str
    name: str
    uid: str


def make_labels(owner: Owner, revision: str) -> dict[str, str]:
    """On every child; with them the operator finds what it owns."""
    return {
        labels.MANAGED_BY: labels.FIELD_MANAGER,
        labels.DEPLOYMENT: owner.name,
        labels.REVISION: revision,
    }


def make_worker_deployment(
    owner: Owner, content: RevisionContent, replicas: int, role: Role
) -> Manifest:
    """``<deployment>-<revision>``; the role stands in its own metadata and never in the pods."""
    metadata = _make_metadata(owner, content.name)
    metadata["labels"][labels.ROLE] = role
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            # The template never changes, so there is nothing to go back to or to roll.
            "revisionHistoryLimit": 0,
            "strategy": {"type": "Recreate"},
            "selector": {
                "matchLabels": {
                    labels.DEPLOYMENT: owner.name,
                    labels.REVISION: content.name,
                }
            },
            "template": json.loads(content.template),
        },
    }


def make_config_map(owner: Owner, content: RevisionContent) -> Manifest:
    """The revision's own files; immutable, as the revision is."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _make_metadata(owner, content.name),
        "immutable": True,
        "data": dict(content.files),
    }


def make_controller_revision(owner: Owner, content: RevisionContent) -> Manifest:
    """The stored form of a revision; its data never changes afterwards."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": _make_metadata(owner, content.name),
        "revision": content.number,
        # Texts, not structures: they come back byte for byte.
        "data": {
            "format": 1,
            "source": content.source,
            "texts": dict(content.texts),
            "template": content.template,
            "files": dict(content.files),
        },
    }


class UnreadableRevision(ValueError):
    """A ControllerRevision that carries our labels but not our data; the message says what."""


def read_controller_revision(manifest: Manifest) -> RevisionContent:
    """The content of a stored revision. Raises UnreadableRevision for anything else."""
    metadata = manifest.get("metadata") or {}
    name = (metadata.get("labels") or {}).get(labels.REVISION)
    number = manifest.get("revision")
    data = manifest.get("data")
    where = f"ControllerRevision {metadata.get('name')}"
    if not isinstance(name, str) or not name:
        raise UnreadableRevision(f"{where} has no label {labels.REVISION}")
    if not isinstance(number, int) or not isinstance(data, dict):
        raise UnreadableRevision(f"{where} has no number or no data")
    if data.get("format") != 1:
        raise UnreadableRevision(f"{where} has a format that this operator does not read")
    texts, files = data.get("texts", {}), data.get("files", {})
    for part, value in (("texts", texts), ("files", files)):
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise UnreadableRevision(f"{where}: data.{part} is no map of texts")
    source, template = data.get("source"), data.get("template")
    for part, text in (("source", source), ("template", template)):
        if not isinstance(text, str) or not _is_json_object(text):
            raise UnreadableRevision(f"{where}: data.{part} is no JSON object")
    return RevisionContent(name, number, str(source), texts, str(template), files)


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _make_metadata(owner: Owner, revision: str) -> Manifest:
    return {
        "name": labels.child_name(owner.name, revision),
        "namespace": owner.namespace,
        "labels": make_labels(owner, revision),
        "ownerReferences": [make_owner_reference(owner)],
    }


def make_owner_reference(owner: Owner) -> Manifest:
    """On every child: it goes with its LLMDeployment."""
    return {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        # Nothing waits for the children when the LLMDeployment is deleted.
        "blockOwnerDeletion": False,
    }
