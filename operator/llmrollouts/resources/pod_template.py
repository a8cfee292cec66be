"""Makes the pod template of a worker: the launcher by an init container, then the engine.

                  emptyDir /llmrollouts
    init: launcher ──copies──> │ <──reads── engine: python3 /llmrollouts/launcher run
                                            ├─ launcher :8090  probes, drain
                                            └─ vLLM     :8000  requests

The template is rendered once, stored with the revision and applied from there for ever, so
nothing here may depend on roles, replicas or time. Pods meet the restricted pod security standard.
Pure; called by revision.py.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.model_uri import HubModel, ImageModel, VolumeModel, parse_model_uri
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.api.spec import Engine, Placement, Resources, Revision
from llmrollouts.resources.launcher_config import (
    CONFIG_FILE,
    CONFIG_FOLDER,
    KILL_MARGIN_SECONDS,
    MODEL_FOLDER,
    shutdown_seconds,
)
from llmrollouts.resources.policy import choose_image

LAUNCHER_FOLDER: Final = "/llmrollouts"
HOME_FOLDER: Final = "/var/cache/llmrollouts"
USER: Final = 65532
GPU: Final = "nvidia.com/gpu"
# The kubelet's own delays between preStop, SIGTERM and SIGKILL.
GRACE_MARGIN_SECONDS: Final = 10

_PORT = {"port": "launcher"}
_CONTAINER_SECURITY: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def make_pod_template(
    deployment: str, revision_name: str, revision: Revision, settings: OperatorSettings
) -> Manifest:
    """The pod template of one revision.

    Raises ValueError without an engine image: policy.refuse_revision reports that before.
    """
    engine = revision.engine or Engine()
    image = choose_image(engine, settings)
    if image is None:
        raise ValueError("no engine image: refuse_revision must be asked before")
    spec: Manifest = {
        "automountServiceAccountToken": False,
        # A Service named vllm would otherwise set VLLM_PORT to an address and stop the engine.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": grace_seconds(engine, settings),
        "initContainers": [_make_launcher(settings)],
        "containers": [_make_engine(revision, engine, image, settings)],
        "volumes": _make_volumes(deployment, revision_name, revision, settings),
    }
    _place(spec, revision.placement)
    return {
        "metadata": {
            "labels": {
                "app.kubernetes.io/name": "llm-worker",
                labels.MANAGED_BY: labels.FIELD_MANAGER,
                labels.DEPLOYMENT: deployment,
                labels.REVISION: revision_name,
            },
            "annotations": {"kubectl.kubernetes.io/default-container": labels.ENGINE_CONTAINER},
        },
        "spec": spec,
    }


def grace_seconds(engine: Engine, settings: OperatorSettings) -> int:
    """Longer than everything that the launcher does on the way out, so that it is never killed
    in the middle of it."""
    return (
        math.ceil(settings.drain_seconds)
        + shutdown_seconds(engine, settings)
        + KILL_MARGIN_SECONDS
        + GRACE_MARGIN_SECONDS
    )


def _make_launcher(settings: OperatorSettings) -> Manifest:
    """Its image's own command copies the launcher into /llmrollouts."""
    return {
        "name": "launcher",
        "image": settings.launcher_image,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": {
            "requests": {"cpu": "10m", "memory": "32Mi"},
            "limits": {"memory": "128Mi"},
        },
        "securityContext": _CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "launcher", "mountPath": LAUNCHER_FOLDER}],
    }


def _make_engine(
    revision: Revision, engine: Engine, image: str, settings: OperatorSettings
) -> Manifest:
    container: Manifest = {
        "name": labels.ENGINE_CONTAINER,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python3", f"{LAUNCHER_FOLDER}/launcher"],
        "args": ["run", "--config", f"{CONFIG_FOLDER}/{CONFIG_FILE}"],
        "ports": [
            {"name": "http", "containerPort": labels.ENGINE_PORT, "protocol": "TCP"},
            {"name": "launcher", "containerPort": labels.LAUNCHER_PORT, "protocol": "TCP"},
        ],
        "env": _make_environment(revision, engine, settings),
        "securityContext": _CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # The launcher answers within a second; how long the engine may load is its business.
        "startupProbe": {
            "httpGet": {"path": "/healthz", **_PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 60,
        },
        "readinessProbe": {
            "httpGet": {"path": "/readyz", **_PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", **_PORT},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        # Blocks until the gateways had time to forget the worker; SIGTERM comes after it.
        "lifecycle": {"preStop": {"httpGet": {"path": "/drain", **_PORT}}},
        "volumeMounts": _make_mounts(revision),
    }
    resources = _make_resources(revision.resources, engine)
    if resources:
        container["resources"] = resources
    return container


def _make_environment(
    revision: Revision, engine: Engine, settings: OperatorSettings
) -> list[Manifest]:
    """Ours first; a variable of the user with the same name wins where it may be set at all."""
    values: dict[str, str] = {
        "HOME": HOME_FOLDER,
        "TMPDIR": "/tmp",  # noqa: S108  an emptyDir of this pod alone
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    uri = parse_model_uri(revision.model.uri)
    if not isinstance(uri, HubModel):
        values["HF_HUB_OFFLINE"] = "1"
    if engine.device == "CPU":
        values |= _cpu_environment(revision.resources)
    values |= settings.model_environment
    # Kubernetes would expand $(NAME); a value is taken as it is.
    values |= {given.name: given.value.replace("$(", "$$(") for given in engine.env or []}
    made: list[Manifest] = [{"name": name, "value": value} for name, value in values.items()]
    secret = revision.model.token_secret_key_ref
    if secret is not None:
        reference = {"name": secret.name, "key": secret.key}
        made.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return made


def _cpu_environment(resources: Resources | None) -> dict[str, str]:
    """Without these vLLM's CPU build pins threads to cores that other pods use, too."""
    values = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    cores = _whole_cores(resources)
    if cores is not None:
        values["OMP_NUM_THREADS"] = str(cores)
    return values


def _whole_cores(resources: Resources | None) -> int | None:
    if resources is None:
        return None
    given = (resources.limits or {}).get("cpu", (resources.requests or {}).get("cpu"))
    if given is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(m?)", str(given))
    if match is None:
        return None
    return max(1, int(float(match[1]) / (1000 if match[2] else 1)))


def _make_resources(resources: Resources | None, engine: Engine) -> Manifest:
    limits: dict[str, Any] = dict((resources and resources.limits) or {})
    requests: dict[str, Any] = dict((resources and resources.requests) or {})
    # A name with a slash is an extended resource: the user has chosen an accelerator.
    if engine.device != "CPU" and not any("/" in name for name in limits):
        limits[GPU] = str(engine.tensor_parallel_size or 1)
    made = {"limits": limits, "requests": requests}
    return {
        kind: {name: str(quantity) for name, quantity in sorted(values.items())}
        for kind, values in made.items()
        if values
    }


def _make_volumes(
    deployment: str, revision_name: str, revision: Revision, settings: OperatorSettings
) -> list[Manifest]:
    shared_memory = "1Gi" if (revision.engine or Engine()).device == "CPU" else "16Gi"
    volumes: list[Manifest] = [
        {"name": "launcher", "emptyDir": {}},
        {"name": "config", "configMap": {"name": labels.child_name(deployment, revision_name)}},
        # The engine's processes talk through it; the default of 64 MiB stops it at start.
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "home", "emptyDir": {}},
    ]
    match parse_model_uri(revision.model.uri):
        case VolumeModel(claim, _):
            source = {"claimName": claim, "readOnly": True}
            volumes.append({"name": "model", "persistentVolumeClaim": source})
        case ImageModel(image):
            pulled = {"reference": image, "pullPolicy": settings.image_pull_policy}
            volumes.append({"name": "model", "image": pulled})
        case _:
            pass
    return volumes


def _make_mounts(revision: Revision) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "launcher", "mountPath": LAUNCHER_FOLDER, "readOnly": True},
        {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  the pod's own
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  the pod's own
        {"name": "home", "mountPath": HOME_FOLDER},
    ]
    if isinstance(parse_model_uri(revision.model.uri), VolumeModel | ImageModel):
        mounts.append({"name": "model", "mountPath": MODEL_FOLDER, "readOnly": True})
    return mounts


def _place(spec: Manifest, placement: Placement | None) -> None:
    if placement is None:
        return
    if placement.node_selector:
        spec["nodeSelector"] = dict(placement.node_selector)
    if placement.tolerations:
        spec["tolerations"] = [
            toleration.model_dump(by_alias=True, exclude_none=True)
            for toleration in placement.tolerations
        ]
    if placement.priority_class_name:
        spec["priorityClassName"] = placement.priority_class_name
    if placement.runtime_class_name:
        spec["runtimeClassName"] = placement.runtime_class_name
    if placement.image_pull_secrets:
        secrets = placement.image_pull_secrets
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in secrets]
