"""Faults that end-to-end tests inject, each into processes of the project's own local cluster.

On the local cluster the node's containers are processes of this machine, found by the uid of
their pod in /proc/<pid>/cgroup. Nothing else is ever signalled.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import urllib3

from e2e.harness.kube import Json, Kube


def processes_of(pod: Json, command: str = "") -> list[int]:
    """Process ids in the pod's containers whose command line holds ``command``."""
    uid = pod["metadata"]["uid"]
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            cgroup = (entry / "cgroup").read_text()
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        ours = uid in cgroup or uid.replace("-", "_") in cgroup
        if ours and line and "pause" not in line and command in line:
            found.append(int(entry.name))
    return sorted(found)


def send(pod: Json, number: signal.Signals, command: str = "") -> list[int]:
    """Send a signal to the pod's processes; the pids it reached. None there is an error."""
    pids = processes_of(pod, command)
    if not pids:
        raise RuntimeError(f"no process of pod {pod['metadata']['name']} matches {command!r}")
    for pid in pids:
        os.kill(pid, number)
    return pids


def misbehave(pod: Json, **settings: object) -> None:
    """Change how a fake engine behaves from now on; see worker_image/fake_engine/behavior.py."""
    address = f"http://{pod['status']['podIP']}:8000/fake/faults"
    answer = urllib3.request("POST", address, json=settings, timeout=5.0, retries=False)
    if answer.status != 200:
        raise RuntimeError(f"{address}: HTTP {answer.status}: {answer.data[:200]!r}")


@contextmanager
def frozen(pod: Json) -> Iterator[list[int]]:
    """SIGSTOP every process of the pod; thawed at the end, whatever happens."""
    pids = send(pod, signal.SIGSTOP)
    try:
        yield pids
    finally:
        for pid in pids:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGCONT)


@contextmanager
def all_frozen(pods: Iterable[Json]) -> Iterator[None]:
    """SIGSTOP every process of these pods; thawed at the end, whatever happens."""
    with ExitStack() as stack:
        for pod in pods:
            stack.enter_context(frozen(pod))
        yield


@contextmanager
def blinded(kube: Kube, role: str, resource: str) -> Iterator[None]:
    """Take one resource out of a ClusterRole, so that whoever has it lives, leads and answers its
    probes, and cannot finish a round; given back at the end, whatever happens."""
    path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{role}"
    found = kube.get(path)
    if found is None:
        raise RuntimeError(f"there is no ClusterRole {role}")
    rules = found["rules"]
    less = [
        {**rule, "resources": [each for each in rule.get("resources", []) if each != resource]}
        for rule in rules
    ]
    if less == rules:
        raise RuntimeError(f"ClusterRole {role} does not name {resource}")
    kube.kubectl("patch", "clusterrole", role, "--type=merge", "-p", _as_patch(less))
    try:
        yield
    finally:
        kube.kubectl("patch", "clusterrole", role, "--type=merge", "-p", _as_patch(rules))


def _as_patch(rules: list[Json]) -> str:
    return json.dumps({"rules": [rule for rule in rules if rule.get("resources") != []]})


OPERATOR_LABELS = "app.kubernetes.io/name=llm-rollouts,app.kubernetes.io/component=operator"
GATEWAY_LABELS = "app.kubernetes.io/name=llm-rollouts,app.kubernetes.io/component=gateway"


def operator_pods(kube: Kube, namespace: str) -> list[Json]:
    return [
        p
        for p in kube.pods(namespace, OPERATOR_LABELS)
        if not p["metadata"].get("deletionTimestamp")
    ]


def leader(kube: Kube, namespace: str) -> tuple[Json, list[Json]]:
    """The leading operator pod, and the others."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/llm-rollouts"
    lease = kube.get(path) or {}
    holder = lease.get("spec", {}).get("holderIdentity") or ""
    pods = operator_pods(kube, namespace)
    leading = [p for p in pods if holder.startswith(p["metadata"]["name"])]
    if not leading:
        raise RuntimeError(f"no operator pod holds the Lease (holder: {holder!r})")
    return leading[0], [p for p in pods if p is not leading[0]]
