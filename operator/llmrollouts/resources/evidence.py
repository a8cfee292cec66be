"""Makes the ConfigMap that holds a rollout's evidence: one for each LLMDeployment, overwritten.

It is owned by the LLMDeployment and goes with it. What stands in it is metrics/record's. Pure.
"""

from __future__ import annotations

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.resources.children import Owner


def make_evidence(owner: Owner, data: dict[str, str]) -> Manifest:
    """``<deployment>-evidence``; without the children's labels (api/labels.EVIDENCE says why)."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": labels.evidence_name(owner.name),
            "namespace": owner.namespace,
            "labels": {
                labels.MANAGED_BY: labels.FIELD_MANAGER,
                labels.EVIDENCE: owner.name,
            },
            "ownerReferences": [
                {
                    "apiVersion": labels.API_VERSION,
                    "kind": labels.KIND,
                    "name": owner.name,
                    "uid": owner.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "data": data,
    }


def is_evidence(manifest: Manifest, deployment: str, uid: str) -> bool:
    """Whether a ConfigMap of that name is the one that this operator wrote for this deployment;
    a stranger's is neither read nor overwritten."""
    metadata = manifest["metadata"]
    owners = metadata.get("ownerReferences") or []
    return (metadata.get("labels") or {}).get(labels.EVIDENCE) == deployment and any(
        owner.get("uid") == uid for owner in owners
    )
