"""The cluster on a Docker engine, by kind.

The same commands as the single node's: `up` creates or restarts it, `down` stops the container
and keeps the objects, `reset` deletes it.
"""

from __future__ import annotations

import json
import os

from e2e.cluster.places import KIND_NAME, REPOSITORY, Places
from e2e.cluster.steps import CannotContinueError, run, say, step, succeeds, wait_until

_CONTAINER = f"{KIND_NAME}-control-plane"
_CONFIG = REPOSITORY / "e2e" / "cluster" / "manifests" / "kind.yaml"


def kind_is_installed() -> bool:
    return succeeds(["kind", "version"])


def up(places: Places) -> None:
    """Create the cluster, or start its stopped container; then write the kubeconfig.

    Raises CannotContinueError when kind is missing or the API server does not answer.
    """
    if not kind_is_installed():
        raise CannotContinueError(
            "A Docker engine answers, but kind is not installed. Install it with: "
            "go install sigs.k8s.io/kind@latest (and have Go's bin folder on the PATH), or set "
            "LLMR_CLUSTER=node for the single node without Docker."
        )
    places.cluster.mkdir(parents=True, exist_ok=True)
    kubeconfig = str(places.kubeconfig)
    if KIND_NAME in run(["kind", "get", "clusters"]).split():
        if not _is_running():
            with step(f"Starting the stopped kind cluster {KIND_NAME}"):
                run(["docker", "start", _CONTAINER])
        run(["kind", "export", "kubeconfig", "--name", KIND_NAME, "--kubeconfig", kubeconfig])
    else:
        with step(f"Creating the kind cluster {KIND_NAME} (minutes when its image is new)"):
            run(
                ["kind", "create", "cluster", "--name", KIND_NAME, "--config", _CONFIG,
                 "--kubeconfig", kubeconfig],
                timeout=900,
            )  # fmt: skip
    with step("Waiting for the API server"):
        ready = ["kubectl", "--kubeconfig", kubeconfig, "get", "--raw", "/readyz"]
        if not wait_until(lambda: succeeds(ready), within=120, every=1):
            raise CannotContinueError(f"It does not answer; see: docker logs {_CONTAINER}")
    _ensure_routes(kubeconfig)


def down() -> None:
    """Stop the container; `up` starts it again with its objects."""
    if _is_running():
        with step(f"Stopping the kind cluster {KIND_NAME}"):
            run(["docker", "stop", _CONTAINER], timeout=120)


def reset() -> None:
    """Delete the cluster with its objects and its images."""
    with step(f"Deleting the kind cluster {KIND_NAME}"):
        run(["kind", "delete", "cluster", "--name", KIND_NAME], timeout=120)


def _is_running() -> bool:
    return bool(run(["docker", "ps", "--quiet", "--filter", f"name=^{_CONTAINER}$"]).strip())


def _ensure_routes(kubeconfig: str) -> None:
    """Let the host talk to pods and Services directly, as the tests do."""
    listed = run(["kubectl", "--kubeconfig", kubeconfig, "get", "nodes", "-o", "json"])
    spec, status = (json.loads(listed)["items"][0][key] for key in ("spec", "status"))
    node = next(a["address"] for a in status["addresses"] if a["type"] == "InternalIP")
    wanted = [spec["podCIDR"], "10.96.0.0/16"]
    if os.geteuid() != 0:
        say(f"  Not root: tests need routes to {' and '.join(wanted)} via {node}")
        return
    for destination in wanted:
        run(["ip", "route", "replace", destination, "via", node])
