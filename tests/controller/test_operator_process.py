"""The whole process against a real API server: starts, stops, hands over, and forgets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from e2e.harness.processes import closed_port
from tests.apiserver import ApiServer
from tests.controller.shell import make_deployment

pytestmark = pytest.mark.apiserver

GROUP = "/apis/llmrollouts.dev/v1alpha1"


@dataclass
class Replica:
    process: subprocess.Popen[bytes]
    log: Path
    port: int

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metric(self, line: str) -> float | None:
        found = [x for x in self.get("/metrics")[1].splitlines() if x.startswith(f"{line} ")]
        return float(found[0].rsplit(" ", 1)[1]) if found else None

    def said(self, text: str) -> bool:
        return text in self.log.read_text(encoding="utf-8")


@dataclass
class Cluster:
    server: ApiServer
    namespace: str
    folder: Path
    replicas: list[Replica] = field(default_factory=list)

    def start(self, kubeconfig: Path | None = None) -> Replica:
        number = len(self.replicas)
        log = self.folder / f"replica-{number}.log"
        port = closed_port()
        command = [
            sys.executable,
            "-m",
            "llmrollouts.controller.main",
            f"--pod-name=replica-{number}",
            f"--namespace={self.namespace}",
            f"--namespaces={self.namespace}",
            f"--kubeconfig={kubeconfig or self.server.kubeconfig}",
            "--launcher-image=localhost/launcher:1",
            "--engine-image-cpu=localhost/engine:1",
            "--allow-tags",
            f"--http-port={port}",
            f"--xds-port={closed_port()}",
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        replica = Replica(process, log, port)
        self.replicas.append(replica)
        return replica

    def status(self) -> dict[str, Any]:
        path = f"{GROUP}/namespaces/{self.namespace}/llmdeployments/chat"
        body = self.server.request("GET", path).body
        status: dict[str, Any] = body.get("status") or {}
        return status

    def create(self) -> None:
        manifest = make_deployment()
        manifest["metadata"]["namespace"] = self.namespace
        path = f"{GROUP}/namespaces/{self.namespace}/llmdeployments"
        answer = self.server.request("POST", path, manifest)
        assert answer.status == 201, answer.message

    def delete(self) -> None:
        path = f"{GROUP}/namespaces/{self.namespace}/llmdeployments/chat"
        assert self.server.request("DELETE", path).status == 200


@pytest.fixture
def cluster(apiserver: ApiServer, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(apiserver, namespace, tmp_path)
    yield cluster
    for replica in cluster.replicas:
        with contextlib.suppress(ProcessLookupError):
            os.kill(replica.process.pid, signal.SIGCONT)
        replica.process.kill()
        replica.process.wait()


async def until(reached: Callable[[], object], seconds: float = 30.0) -> float:
    """The seconds that it took."""
    began = time.monotonic()
    while not await asyncio.to_thread(reached):
        assert time.monotonic() - began < seconds, f"not reached within {seconds:g} s"
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def leads(replica: Replica) -> Callable[[], bool]:
    return lambda: replica.said("Took over")


async def test_it_leads_reconciles_and_forgets_a_deleted_deployment(cluster: Cluster) -> None:
    replica = cluster.start()
    await until(leads(replica))
    assert replica.get("/healthz")[0] == replica.get("/readyz")[0] == 200
    cluster.create()
    await until(lambda: cluster.status().get("phase"))
    series = "llmrollouts_deployment_step{"
    await until(lambda: series in replica.get("/metrics")[1])
    cluster.delete()
    await until(lambda: series not in replica.get("/metrics")[1])


async def test_r31_a_change_is_acted_on_within_a_second(cluster: Cluster) -> None:
    replica = cluster.start()
    await until(leads(replica))
    cluster.create()
    await until(lambda: cluster.status().get("phase"))
    before = replica.metric('llmrollouts_rounds_total{result="ok"}') or 0.0
    path = f"{GROUP}/namespaces/{cluster.namespace}/llmdeployments/chat"
    patch = {"metadata": {"annotations": {"llmrollouts.dev/command": "pause/1"}}}
    answer = cluster.server.request("PATCH", path, patch, "application/merge-patch+json")
    assert answer.status == 200
    await until(lambda: (cluster.status().get("command") or {}).get("value") == "pause/1", 3.0)
    assert (replica.metric('llmrollouts_rounds_total{result="ok"}') or 0.0) > before


async def test_sigterm_hands_over_at_once_and_ends_with_success(cluster: Cluster) -> None:
    first = cluster.start()
    await until(leads(first))
    second = cluster.start()
    await until(lambda: second.get("/readyz")[0] == 200)
    began = time.monotonic()
    first.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(first.process.wait, 10) == 0
    assert time.monotonic() - began < 5
    assert await until(leads(second)) < 5
    assert second.metric("llmrollouts_epoch") == 2


async def test_r14_a_frozen_leader_is_replaced_and_stands_by_when_it_thaws(
    cluster: Cluster,
) -> None:
    first = cluster.start()
    await until(leads(first))
    second = cluster.start()
    await until(lambda: second.get("/readyz")[0] == 200)
    first.process.send_signal(signal.SIGSTOP)
    assert await until(leads(second), 15) < 12
    first.process.send_signal(signal.SIGCONT)
    await until(lambda: first.said("leadership lost"), 10)
    # A fresh process in the place of the old one: the kubelet has nothing to restart.
    await until(lambda: first.get("/readyz")[0] == 200)
    assert first.process.poll() is None
    assert first.metric("llmrollouts_leader") == 0
    second.process.send_signal(signal.SIGTERM)
    await until(lambda: first.metric("llmrollouts_leader") == 1, 15)


async def test_an_api_server_that_is_away_at_the_start_is_waited_for(
    cluster: Cluster, tmp_path: Path
) -> None:
    text = cluster.server.kubeconfig.read_text(encoding="utf-8")
    broken = tmp_path / "broken.kubeconfig"
    broken.write_text(text.replace(cluster.server.url, f"https://127.0.0.1:{closed_port()}"))
    assert broken.read_text(encoding="utf-8") != text
    replica = cluster.start(broken)
    await until(lambda: replica.said("Waited for the API server"))
    await asyncio.sleep(3)
    assert replica.process.poll() is None
    assert replica.log.read_text(encoding="utf-8").count("Waited for the API server") == 1
    assert replica.get("/healthz")[0] == 200
    assert replica.get("/readyz")[0] == 503
    replica.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(replica.process.wait, 10) == 0


async def test_the_leader_begins_anew_when_the_api_server_goes_away(cluster: Cluster) -> None:
    replica = cluster.start()
    await until(leads(replica))
    cluster.server.freeze()
    try:
        await until(lambda: replica.said("leadership lost"), 20)
        await until(lambda: replica.said("Waited for the API server"))
        assert replica.get("/healthz")[0] == 200
    finally:
        cluster.server.thaw()
    await until(lambda: replica.metric("llmrollouts_leader") == 1)
    assert replica.process.poll() is None
    assert replica.metric("llmrollouts_epoch") == 2
