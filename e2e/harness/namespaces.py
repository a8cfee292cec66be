"""Namespaces of tests: each begins empty, whatever an ended or interrupted session left behind.

Sessions may run side by side on one cluster (the workers of one `make test` do). Each holds a
shared lock while it lives, so that only the first one sweeps what the ended ones left.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from e2e.cluster.places import find_places
from e2e.harness.kube import Kube, eventually

PART_OF = "app.kubernetes.io/part-of"
OWNER = "llm-rollouts-e2e"
GONE = 180.0  # seconds: vLLM workers drain before they go


@contextmanager
def a_clean_start(kube: Kube) -> Iterator[None]:
    """Delete every test's namespace, unless another session runs and may own it.

    Workers of an interrupted session would take memory and processor from the new one's.
    """
    with (find_places().cache / ".e2e-session.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            _sweep(kube)
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def make_anew(kube: Kube, name: str) -> None:
    """An empty namespace of this name: one that is still there is deleted first."""
    _delete(kube, [name])
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {PART_OF: OWNER}},
        }
    )


def _sweep(kube: Kube) -> None:
    left = [n["metadata"]["name"] for n in kube.items("/api/v1/namespaces", f"{PART_OF}={OWNER}")]
    if left:
        print(f"Deleting what ended sessions left: {', '.join(left)}", file=sys.stderr, flush=True)
        _delete(kube, left)


def _delete(kube: Kube, names: list[str]) -> None:
    def present() -> list[str]:
        return [name for name in names if kube.get(f"/api/v1/namespaces/{name}")]

    left = present()
    if left:
        kube.kubectl("delete", "namespace", *left, "--wait=false", "--ignore-not-found")
        what = f"what an ended session left is gone ({', '.join(left)})"
        eventually(what, lambda: not present(), GONE)
