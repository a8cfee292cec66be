"""What kube-controller-manager, scheduler and kubelet do for worker Deployments, on a FakeKube.

Keeps as many pods as a Deployment wants (through a ReplicaSet, as the real one does), replaces
those that are gone, and keeps the Deployment's status. Readiness and misfortunes are up to the
test. It reacts within the very change that causes it; nothing here takes time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Final

from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.port import DEPLOYMENT, POD, Kind, NotFound
from tests.fakes.kube import FakeKube

REPLICA_SET: Final = Kind("apps/v1", "ReplicaSet", "replicasets")
_MANAGER: Final = "kube-controller-manager"
_GRACE: Final = "tests/grace-period"
_HASH: Final = "pod-template-hash"


class Workers:
    """The worker pods of all Deployments.

    auto_ready: new pods are ready at once. lingers: deleted pods stay, terminating, until the test
    calls ``finish``, like pods that drain.
    """

    def __init__(self, kube: FakeKube, auto_ready: bool = True, lingers: bool = False) -> None:
        self.kube = kube
        self.auto_ready = auto_ready
        self.lingers = lingers
        self.created = 0  # pods, ever: a test that says "no worker restarts" compares this
        self._busy = False
        self._again = False
        self._addresses = itertools.count(1)
        kube.watch(self._on_change)
        self._settle()

    def pods(self, namespace: str, deployment: str) -> list[Manifest]:
        """The pods of one Deployment, oldest first."""
        found = self.kube.peek(DEPLOYMENT, namespace, deployment)
        if found is None:
            return []
        wanted = found["spec"]["selector"]["matchLabels"]
        return sorted(self.kube.objects(POD, namespace, wanted), key=lambda p: p["metadata"]["uid"])

    def set_ready(self, namespace: str, pod: str, ready: bool = True) -> None:
        """The readiness probe of one pod answers, or stops answering."""
        self.kube.edit(POD, namespace, pod, lambda m: _set_ready(m, ready), "kubelet", status=True)

    def set_all_ready(self, namespace: str, deployment: str, ready: bool = True) -> None:
        """The readiness probes of all present pods of a Deployment answer, or stop answering."""
        for pod in self.pods(namespace, deployment):
            self.set_ready(namespace, pod["metadata"]["name"], ready)

    def crash(
        self,
        namespace: str,
        pod: str,
        at: str,
        reason: str = "Error",
        exit_code: int = 1,
        message: str = "",
    ) -> None:
        """The engine container ended by itself and is started again. ``at``: RFC 3339."""

        def change(manifest: Manifest) -> None:
            _set_ready(manifest, False)
            container = manifest["status"]["containerStatuses"][0]
            container["restartCount"] += 1
            end = {"exitCode": exit_code, "reason": reason, "finishedAt": at, "message": message}
            container["lastState"] = {"terminated": end}

        self.kube.edit(POD, namespace, pod, change, "kubelet", status=True)

    def wait_in(self, namespace: str, pod: str, reason: str, message: str = "") -> None:
        """The engine container cannot start: ``ErrImagePull``, ``CreateContainerConfigError`` …"""

        def change(manifest: Manifest) -> None:
            _set_ready(manifest, False)
            waiting = {"waiting": {"reason": reason, "message": message}}
            manifest["status"]["containerStatuses"][0]["state"] = waiting

        self.kube.edit(POD, namespace, pod, change, "kubelet", status=True)

    def evict(self, namespace: str, pod: str) -> None:
        """The kubelet evicted the pod: it failed, for no fault of its own, and is replaced."""

        def change(manifest: Manifest) -> None:
            _set_ready(manifest, False)
            manifest["status"].update(phase="Failed", reason="Evicted")

        self.kube.edit(POD, namespace, pod, change, "kubelet", status=True)

    def kill(self, namespace: str, pod: str) -> None:
        """Somebody deleted the pod, or its node went."""
        self.kube.remove(POD, namespace, pod)

    def finish(self, namespace: str, pod: str) -> None:
        """A terminating pod has drained and is gone (see ``lingers``)."""
        self.kube.edit(POD, namespace, pod, lambda m: m["metadata"].pop("finalizers"), "kubelet")

    def _on_change(self, event: str, kind: Kind, manifest: Manifest) -> None:
        if kind.kind in (DEPLOYMENT.kind, POD.kind, REPLICA_SET.kind):
            self._again = True
            if not self._busy:
                self._settle()

    def _settle(self) -> None:
        """Go round until nothing changes: our own writes come back as events."""
        self._busy = True
        try:
            self._again = True
            while self._again:
                self._again = False
                for deployment in self.kube.objects(DEPLOYMENT):
                    self._reconcile(deployment)
        finally:
            self._busy = False

    def _reconcile(self, deployment: Manifest) -> None:
        metadata, spec = deployment["metadata"], deployment["spec"]
        if "deletionTimestamp" in metadata:
            return
        template = json.dumps(spec["template"], sort_keys=True).encode()
        digest = hashlib.sha256(template).hexdigest()[:9]
        replica_set = self._ensure_replica_set(deployment, digest)
        pods = self.pods(metadata["namespace"], metadata["name"])
        current = [p for p in pods if p["metadata"]["labels"].get(_HASH) == digest and _is_alive(p)]
        for pod in pods:
            # Another template: the pods are made anew, and a test that counts them sees it.
            if pod["metadata"]["labels"].get(_HASH) != digest:
                self._remove(pod)
        wanted = spec.get("replicas", 1)
        # Those that are not ready go first, then the youngest.
        current.sort(key=lambda p: (not _is_ready(p), p["metadata"]["uid"]))
        for pod in current[wanted:]:
            self._remove(pod)
        for _ in range(wanted - len(current)):
            self._start(deployment, replica_set, digest)
        self._report(metadata["namespace"], metadata["name"])

    def _ensure_replica_set(self, deployment: Manifest, digest: str) -> Manifest:
        metadata = deployment["metadata"]
        name = f"{metadata['name']}-{digest}"
        found = self.kube.peek(REPLICA_SET, metadata["namespace"], name)
        return found or self.kube.put(
            REPLICA_SET,
            {
                "metadata": {
                    "namespace": metadata["namespace"],
                    "name": name,
                    "labels": {**deployment["spec"]["selector"]["matchLabels"], _HASH: digest},
                    "ownerReferences": [_owner(DEPLOYMENT, metadata)],
                }
            },
            _MANAGER,
        )

    def _start(self, deployment: Manifest, replica_set: Manifest, digest: str) -> None:
        namespace, template = deployment["metadata"]["namespace"], deployment["spec"]["template"]
        self.created += 1
        number = next(self._addresses)
        name = f"{replica_set['metadata']['name']}-{number:05d}"
        self.kube.put(
            POD,
            {
                "metadata": {
                    "namespace": namespace,
                    "name": name,
                    "labels": {**template["metadata"].get("labels", {}), _HASH: digest},
                    "annotations": template["metadata"].get("annotations", {}),
                    # The real one lingers by its grace period; the fake by this.
                    "finalizers": [_GRACE] if self.lingers else [],
                    "ownerReferences": [_owner(REPLICA_SET, replica_set["metadata"])],
                },
                "spec": template["spec"],
            },
            _MANAGER,
        )

        def schedule(manifest: Manifest) -> None:
            container = template["spec"]["containers"][0]["name"]
            manifest["status"] = {
                "phase": "Running",
                "podIP": f"10.{number // 65536}.{number // 256 % 256}.{number % 256}",
                "containerStatuses": [
                    {"name": container, "restartCount": 0, "state": {"running": {}}}
                ],
            }
            _set_ready(manifest, self.auto_ready)

        self.kube.edit(POD, namespace, name, schedule, "kubelet", status=True)

    def _remove(self, pod: Manifest) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            return
        try:
            self.kube.remove(POD, pod["metadata"]["namespace"], pod["metadata"]["name"])
        except NotFound:
            return  # gone with its owner meanwhile

    def _report(self, namespace: str, name: str) -> None:
        pods = [pod for pod in self.pods(namespace, name) if _is_alive(pod)]
        ready = sum(map(_is_ready, pods))

        def change(manifest: Manifest) -> None:
            manifest["status"] = {
                "observedGeneration": manifest["metadata"]["generation"],
                "replicas": len(pods),
                "updatedReplicas": len(pods),
                "readyReplicas": ready,
                "availableReplicas": ready,
                "unavailableReplicas": manifest["spec"].get("replicas", 1) - ready,
            }

        if self.kube.peek(DEPLOYMENT, namespace, name):
            self.kube.edit(DEPLOYMENT, namespace, name, change, _MANAGER, status=True)


def _owner(kind: Kind, metadata: Manifest) -> Manifest:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _set_ready(pod: Manifest, ready: bool) -> None:
    status = pod.setdefault("status", {})
    status["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]
    for container in status.get("containerStatuses", []):
        container["ready"] = ready


def _is_ready(pod: Manifest) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _is_alive(pod: Manifest) -> bool:
    ended = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return not ended and "deletionTimestamp" not in pod["metadata"]
