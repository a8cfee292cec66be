"""The name of one LLMDeployment, as the queue and the logs use it; decides nothing."""

from __future__ import annotations

from typing import NamedTuple

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest


class Key(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def read_key(manifest: Manifest) -> Key | None:
    """The deployment that ``manifest`` is, or is a labelled child of; None: neither."""
    metadata = manifest.get("metadata") or {}
    if manifest.get("kind") == labels.KIND:
        return Key(metadata.get("namespace", ""), metadata.get("name", ""))
    name = (metadata.get("labels") or {}).get(labels.DEPLOYMENT)
    return Key(metadata.get("namespace", ""), name) if name else None
