"""Whose an object with our labels is; decides that strangers' objects are never touched."""

from __future__ import annotations

from llmrollouts.api.manifest import Manifest


def belongs_to(manifest: Manifest, uid: str) -> bool:
    """Owned by the LLMDeployment ``uid``, or by nobody: what a deletion without its children left
    behind is taken over when the deployment is made again."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return all(owner.get("uid") == uid for owner in owners if owner.get("controller"))
