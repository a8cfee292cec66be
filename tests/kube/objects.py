"""Small objects of each kind that the operator reads and writes, for the tests of the API."""

from __future__ import annotations

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest


def config_map(namespace: str, name: str = "one", **data: str) -> Manifest:
    metadata = {"namespace": namespace, "name": name}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def deployment(namespace: str, *env: str, replicas: int = 1) -> Manifest:
    pod_labels = {"app": "x"}
    engine = {
        "name": "engine",
        "image": "localhost/engine:1",
        "env": [{"name": name, "value": "1"} for name in env],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": "workers"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": pod_labels},
            "template": {"metadata": {"labels": pod_labels}, "spec": {"containers": [engine]}},
        },
    }


def llm_deployment(namespace: str) -> Manifest:
    return {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "metadata": {"namespace": namespace, "name": "chat"},
        "spec": {
            "replicas": 1,
            "revision": {
                "model": {"uri": "pvc://models/v1"},
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
            },
        },
    }


def revision(namespace: str, data: Manifest) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {"namespace": namespace, "name": "chat-a"},
        "data": data,
        "revision": 1,
    }


def version(manifest: Manifest) -> str:
    return str(manifest["metadata"]["resourceVersion"])
