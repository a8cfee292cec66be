"""The ports to the Kubernetes API: plain objects in and out, errors by who is at fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmrollouts.api.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the few kinds this project touches: no discovery is ever made."""

    api_version: str
    kind: str
    plural: str


LLM_DEPLOYMENT = Kind("llmrollouts.dev/v1alpha1", "LLMDeployment", "llmdeployments")
CONTROLLER_REVISION = Kind("apps/v1", "ControllerRevision", "controllerrevisions")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
POD = Kind("v1", "Pod", "pods")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SECRET = Kind("v1", "Secret", "secrets")
EVENT = Kind("events.k8s.io/v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
SERVICE = Kind("v1", "Service", "services")
HTTP_ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
ENDPOINT_SLICE = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")


class KubeError(Exception):
    """Any answer of the API server (or its silence) that is not success."""


class NotFound(KubeError):
    """404: the object is not there."""


class Conflict(KubeError):
    """409: somebody wrote first, or it exists already. Read again, decide again, at once."""


class Rejected(KubeError):
    """400, 403, 413, 422: the request itself is not accepted (RBAC, admission, validation).
    Repeating it soon is no use."""


class Transient(KubeError):
    """408, 410, 429, 5xx, time-out, connection lost. ``retry_after``: seconds, if the server
    said so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Reader(Protocol):
    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """The object; raises NotFound."""

    async def list(
        self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Manifest]:
        """All objects (of one namespace, or of all) that carry the labels; pages are joined."""


class Writer(Protocol):
    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Create; raises Conflict when the name is taken."""

    async def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Server-side apply as our field manager, taking over fields (force)."""

    async def patch(
        self, kind: Kind, namespace: str, name: str, operations: Sequence[Manifest]
    ) -> Manifest:
        """JSON patch; a failed ``test`` raises Conflict."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete in the background; absent is fine; another uid raises Conflict."""


class StatusWriter(Protocol):
    async def replace_status(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Replace the status subresource; ``metadata.resourceVersion`` must match: Conflict."""

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Replace the object; ``metadata.resourceVersion`` must match: Conflict."""
