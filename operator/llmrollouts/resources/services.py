"""Makes the two Services of an LLMDeployment that splits its users by an HTTPRoute.

    <name>-stable   the workers that answer whatever no share takes
    <name>-canary   the workers of the revision that has a share; of stable while none has one

A route in Git can name them for ever: they change the revision that they select, never their name.
Owned by the LLMDeployment, so that they go with it. Pure; called by the HTTPRoute provider.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.resources.children import Owner, make_owner_reference

Side: TypeAlias = Literal["stable", "canary"]
SIDES: Final[tuple[Side, Side]] = ("stable", "canary")
PORT: Final = 80


def service_name(deployment: str, side: Side) -> str:
    """A revision's name has ten characters, so no child of a revision is called like this."""
    return f"{deployment}-{side}"


def make_service(owner: Owner, side: Side, revision: str) -> Manifest:
    """The Service of one side, with ``revision``'s workers behind it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(owner.name, side),
            "namespace": owner.namespace,
            "labels": {
                labels.MANAGED_BY: labels.FIELD_MANAGER,
                labels.DEPLOYMENT: owner.name,
            },
            "ownerReferences": [make_owner_reference(owner)],
        },
        "spec": {
            "type": "ClusterIP",
            "selector": {labels.DEPLOYMENT: owner.name, labels.REVISION: revision},
            "ports": [
                {
                    "name": "http",
                    "port": PORT,
                    "protocol": "TCP",
                    "targetPort": "http",
                    "appProtocol": "http",
                }
            ],
        },
    }


def selected_revision(service: Manifest) -> str | None:
    """The revision whose workers are behind the Service; None when it selects something else."""
    selector = (service.get("spec") or {}).get("selector") or {}
    found = selector.get(labels.REVISION)
    return str(found) if found and labels.DEPLOYMENT in selector else None
