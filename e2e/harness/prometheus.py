"""A real Prometheus beside the cluster: scrapes workers, and the operator may ask it.

It runs as a process of this machine on the address that pods reach (the host's end of the node's
network, and nothing else), scrapes the workers of one namespace, and stands behind a Service
without selector, whose name the local operator allows. It dies with the test, also when that is
killed. Only one can be behind the Service at a time.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import urllib3

from e2e.environment import PROMETHEUS
from e2e.harness.kube import Json, Kube
from e2e.harness.namespaces import make_anew
from e2e.harness.prometheus_process import PrometheusProcess

ENGINE_PORT = 8000
USER = "gate"
PASSWORD = "correct horse"  # noqa: S105 - of a Prometheus that lives for one test
_BCRYPT = "$2b$04$CVS66F1RTAX7oJvl/Ym1renSQ/0GgVIMNPnjXrXjcvfkCq2mNUyz."


class RealPrometheus:
    """As a context manager: running, asked with USER and PASSWORD, and gone at the end."""

    def __init__(self, kube: Kube, namespace: str, folder: Path) -> None:
        """``namespace``: of the workers. ``folder``: for its configuration, data and log."""
        self._kube = kube
        self._host = _address_that_pods_reach(kube)
        targets = folder / "targets.json"
        self._discovery = _Discovery(kube, namespace, targets)
        users = {"basic_auth_users": {USER: _BCRYPT}}
        self._process = PrometheusProcess(folder, _make_configuration(targets), users, self._host)

    def __enter__(self) -> Self:
        self.start()
        self._discovery.start()
        host = urlsplit(PROMETHEUS).hostname or ""
        service, namespace, _ = host.split(".")
        make_anew(self._kube, namespace)
        self._kube.apply(*_make_service(service, namespace, self._host, self._process.port))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._discovery.stop()
        self.stop()
        namespace = (urlsplit(PROMETHEUS).hostname or "").split(".")[1]
        self._kube.kubectl("delete", "namespace", namespace, "--wait=false")

    def start(self) -> None:
        """Ready to be asked; again after ``stop``, with the data that it had. Raises RuntimeError
        with its log."""
        self._process.start(self._is_ready)

    def stop(self) -> None:
        """Nobody listens on its port any more."""
        self._process.stop()

    def _is_ready(self) -> bool:
        try:
            answer = urllib3.request(
                "GET",
                f"http://{self._host}:{self._process.port}/-/ready",
                headers=urllib3.make_headers(basic_auth=f"{USER}:{PASSWORD}"),
                timeout=2.0,
                retries=False,
            )
        except urllib3.exceptions.HTTPError:
            return False
        return answer.status == 200


def make_secret(namespace: str, name: str) -> Json:
    """A Secret with the credentials, as an LLMDeployment's ``basicAuth`` names them."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": namespace, "name": name},
        "stringData": {"user": USER, "password": PASSWORD},
    }


def _make_configuration(targets: Path) -> Json:
    return {
        "global": {"scrape_interval": "2s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": "workers",
                "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "5s"}],
            }
        ],
    }


class _Discovery(Thread):
    """Keeps the file of targets true: every worker of the namespace, with its names as labels.

    Debian's Prometheus is built without the discovery of Kubernetes.
    """

    def __init__(self, kube: Kube, namespace: str, file: Path) -> None:
        super().__init__(name="discovery", daemon=True)
        self._kube = Kube(kube.kubeconfig)  # a connection of its own
        self._namespace = namespace
        self._file = file
        self._stopped = Event()
        self._write([])

    def run(self) -> None:
        while not self._stopped.wait(1.0):
            pods = self._kube.pods(self._namespace, "llmrollouts.dev/revision")
            self._write([pod for pod in pods if pod.get("status", {}).get("podIP")])

    def stop(self) -> None:
        self._stopped.set()
        self.join(15)

    def _write(self, pods: list[Json]) -> None:
        targets = [
            {
                "targets": [f"{pod['status']['podIP']}:{ENGINE_PORT}"],
                "labels": {
                    "namespace": pod["metadata"]["namespace"],
                    "pod": pod["metadata"]["name"],
                    "revision": pod["metadata"]["labels"]["llmrollouts.dev/revision"],
                },
            }
            for pod in pods
        ]
        whole = self._file.with_suffix(".new")
        whole.write_text(json.dumps(targets), encoding="utf-8")
        whole.replace(self._file)


def _make_service(name: str, namespace: str, host: str, port: int) -> tuple[Json, Json]:
    """A Service that leads out of the cluster, to this machine."""
    port_of_service = urlsplit(PROMETHEUS).port
    service: Json = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"ports": [{"name": "http", "port": port_of_service, "targetPort": port}]},
    }
    endpoints: Json = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": f"{name}-host",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port}],
        "endpoints": [{"addresses": [host]}],
    }
    return service, endpoints


def _address_that_pods_reach(kube: Kube) -> str:
    """This machine's address on the network that it shares with the node."""
    node = kube.items("/api/v1/nodes")[0]
    addresses = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((addresses[0], 9))  # sends nothing: the kernel only chooses the way
        return str(probe.getsockname()[0])
