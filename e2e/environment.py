"""What every end-to-end run stands on: cluster, images, an installed operator.

``prepare`` makes true whatever is missing and says what it does; nothing is assumed to be there.
The programs it calls (``e2e.cluster``, ``e2e.cluster.images``, ``e2e.install``) are the same that
``make cluster``, ``make images`` and ``make install`` run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.places import find_places
from e2e.cluster.processes import is_alive, read_identity
from e2e.harness.kube import Json, Kube, eventually

REPOSITORY = Path(__file__).resolve().parent.parent
SYSTEM = "llm-rollouts-system"
# Where gates may ask: a Service that tests make in front of a Prometheus of their own.
PROMETHEUS = "http://prometheus.llmr-e2e-prometheus.svc:9090"


@dataclass(frozen=True)
class Environment:
    """A prepared cluster. ``gateway``: the base URL that reaches the gateways from this host."""

    kube: Kube
    images: Mapping[str, str]
    gateway: str
    system: str = SYSTEM

    @contextmanager
    def api_server_away(self) -> Iterator[None]:
        """The API server hangs: connections stay open and nothing answers."""
        with _stopped("kube-apiserver"):
            yield
        eventually("the API server answers", lambda: self.kube.get("/version"), 30)

    @contextmanager
    def nothing_restarts(self) -> Iterator[None]:
        """The kubelet stands still: what dies stays dead. For less than 40 s, when the node
        would count as lost."""
        with _stopped("kubelet"):
            yield

    @contextmanager
    def another_operator(self) -> Iterator[None]:
        """An operator whose maker renders another pod template for the same revision."""
        install(self.images, {"worker": {"drainSeconds": 9}})
        try:
            yield
        finally:
            install(self.images)


@contextmanager
def _stopped(program: str) -> Iterator[None]:
    """One program of the local node, frozen and thawed again whatever happens."""
    identity = read_identity(find_places().run / f"{program}.pid")
    if identity is None or not is_alive(identity):
        raise RuntimeError(f"the local cluster's {program} is not running: make cluster")
    os.kill(identity.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(identity.pid, signal.SIGCONT)


def _run(*words: str, given: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=REPOSITORY,
        input=given,
        text=True,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"python -m {' '.join(words)} failed (exit {done.returncode})")
    return done.stdout


def build_images(names: Sequence[str]) -> dict[str, str]:
    """Build and load what is missing; the full image names by short name."""
    built: dict[str, str] = json.loads(_run("e2e.cluster.images", *names))
    return built


def values_for(images: Mapping[str, str]) -> Json:
    """Chart values for the local cluster: its images are named by tag and never pulled."""

    def image(name: str) -> Json:
        repository, _, tag = images[name].rpartition(":")
        return {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"}

    return {
        "operator": {"image": image("operator"), "allowedPrometheus": [PROMETHEUS]},
        "gateway": {"image": image("gateway")},
        "worker": {"image": image("worker"), "requireImageDigests": False},
    }


def install(images: Mapping[str, str], extra: Json | None = None) -> None:
    """Install or upgrade the chart, and wait until everything of it is ready."""
    values = values_for(images)
    for part, settings in (extra or {}).items():
        values[part] = {**values.get(part, {}), **settings}
    _run("e2e.install", "--namespace", SYSTEM, "--values", "-", given=json.dumps(values))


def prepare(names: Sequence[str]) -> Environment:
    """Cluster, images, operator: whatever is missing is made, step by step."""
    begin = time.monotonic()
    _run("e2e.cluster", "up")
    images = build_images(names)
    kube = Kube(Path(_run("e2e.cluster", "kubeconfig").strip()))
    os.environ["KUBECONFIG"] = str(kube.kubeconfig)
    install(images)
    service = kube.get(f"/api/v1/namespaces/{SYSTEM}/services/llm-rollouts-gateway")
    if service is None:
        raise RuntimeError("the chart is installed, but its gateway Service is not there")
    address = service["spec"]["clusterIP"]
    print(f"Prepared the cluster in {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return Environment(kube, images, f"http://{address}")
