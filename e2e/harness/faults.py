"""Faults that end-to-end tests inject, each into processes of the project's own local cluster.

On the local cluster the node's containers are processes of this machine, found by the uid of
their pod in /proc/<pid>/cgroup. Nothing else is ever signalled.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
