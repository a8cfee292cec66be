"""Names that the operator writes on Kubernetes objects and in HTTP headers; decides nothing."""

from __future__ import annotations

from typing import Final

GROUP: Final = "llmrollouts.dev"
VERSION: Final = "v1alpha1"
KIND: Final = "LLMDeployment"
PLURAL: Final = "llmdeployments"
API_VERSION: Final = f"{GROUP}/{VERSION}"
FIELD_MANAGER: Final = "llmrollouts"

# Labels on every child.
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
DEPLOYMENT: Final = f"{GROUP}/deployment"
REVISION: Final = f"{GROUP}/revision"
# On a worker Deployment's own metadata only, never in its pod template.
ROLE: Final = f"{GROUP}/role"

# On the ConfigMap that holds a rollout's evidence, with the deployment's name. It carries none of
# the children's labels, so that it is neither watched nor listed with them: it is written every ten
# seconds.
EVIDENCE: Final = f"{GROUP}/evidence"

# Annotations on the LLMDeployment.
COMMAND: Final = f"{GROUP}/command"
COMMAND_SEQUENCE: Final = f"{GROUP}/command-sequence"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

# Annotation on a ControllerRevision: why this revision was rejected (JSON).
REJECTED: Final = f"{GROUP}/rejected"

# Headers at the gateway.
REVISION_HEADER: Final = "x-llmrollouts-revision"
MIRRORED_HEADER: Final = "x-llmrollouts-mirrored"
PROBE_HEADER: Final = "x-llmrollouts-probe"

ENGINE_PORT: Final = 8000
LAUNCHER_PORT: Final = 8090
ENGINE_CONTAINER: Final = "engine"


def child_name(deployment: str, revision: str) -> str:
    """The name of every child of one revision: ``<deployment>-<revision>``."""
    return f"{deployment}-{revision}"


def evidence_name(deployment: str) -> str:
    """The ConfigMap with a rollout's evidence; no revision has a name of eight characters."""
    return f"{deployment}-evidence"
