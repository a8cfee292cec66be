"""The cluster as the end-to-end tests touch it: reads over REST, writes as a user would type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import urllib3
import yaml
from kubernetes import client, config

Json = dict[str, Any]
T = TypeVar("T")

LLMD = "/apis/llmrollouts.dev/v1alpha1"


class Kube:
    """Reads through one kept-alive connection; writes through kubectl."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        configuration = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        self._pool: urllib3.PoolManager = client.ApiClient(configuration).rest_client.pool_manager
        self._host = configuration.host

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Json | None:
        """The object or list at an API path; None when it is not there."""
        answer = self._pool.request(
            "GET", f"{self._host}{path}", fields=dict(query or {}), timeout=10.0, retries=False
        )
        if answer.status == 404:
            return None
        if answer.status >= 400:
            raise RuntimeError(f"GET {path}: HTTP {answer.status}: {answer.data[:300]!r}")
        found: Json = json.loads(answer.data)
        return found

    def items(self, path: str, labels: str = "") -> list[Json]:
        listed = self.get(path, {"labelSelector": labels} if labels else None)
        return list(listed["items"]) if listed else []

    def pods(self, namespace: str, labels: str = "") -> list[Json]:
        return self.items(f"/api/v1/namespaces/{namespace}/pods", labels)

    def kubectl(self, *words: str, given: str | None = None, check: bool = True) -> str:
        """Run kubectl as a user would; its output, or an error that shows what it said."""
        done = subprocess.run(
            [kubectl_path(), *words],
            input=given,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout if not done.returncode else done.stdout + done.stderr

    def llm(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``kubectl llm`` as a user would."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / "kubectl-llm"), *words],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"kubectl llm {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path, "COLUMNS": "110"}

    def apply(self, *manifests: Json) -> str:
        return self.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(manifests))

    def try_apply(self, *manifests: Json) -> str:
        """Apply and return what kubectl says, accepted or refused."""
        return self.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(manifests), check=False)


def kubectl_path() -> str:
    """The pinned kubectl of the project's environment, else the machine's."""
    pinned = Path(sys.executable).parent / "kubectl"
    return str(pinned) if pinned.exists() else "kubectl"


def eventually(what: str, probe: Callable[[], T | None], timeout: float, every: float = 0.3) -> T:
    """Wait until ``probe`` gives something true; it may raise while things settle."""
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            found = probe()
            if found:
                return found
            last = found
        except (RuntimeError, OSError, urllib3.exceptions.HTTPError, KeyError) as error:
            last = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:.0f} s; last seen: {last}")
        time.sleep(every)
