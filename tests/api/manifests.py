"""LLMDeployments for the tests of the CRD, and who sends them to a real API server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.apiserver import Answer, ApiServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Change = Callable[[dict[str, Any]], Any]


class Applier:
    """Sends manifests as strict server-side validation sees them, without storing them."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self._path = f"/apis/llmrollouts.dev/v1alpha1/namespaces/{namespace}/llmdeployments"

    def try_create(self, manifest: dict[str, Any]) -> Answer:
        query = "?dryRun=All&fieldValidation=Strict"
        return self._server.request("POST", self._path + query, manifest)

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        answer = self._server.request("POST", self._path + "?fieldValidation=Strict", manifest)
        assert answer.status == 201, answer.message
        return dict(answer.body)

    def put(self, manifest: dict[str, Any], part: str = "") -> Answer:
        return self._server.request(
            "PUT", f"{self._path}/{manifest['metadata']['name']}{part}", manifest
        )

    def get(self, name: str, part: str = "") -> dict[str, Any]:
        return dict(self._server.request("GET", f"{self._path}/{name}{part}").body)


def make_manifest(change: Change | None = None) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "apiVersion": "llmrollouts.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "chat"},
        "spec": {"replicas": 2, "revision": {"model": {"uri": f"hf://org/model@{COMMIT}"}}},
    }
    if change is not None:
        change(manifest)
    return manifest


def spec(**fields: Any) -> Change:
    return lambda manifest: manifest["spec"].update(fields)


def revision(**fields: Any) -> Change:
    return lambda manifest: manifest["spec"]["revision"].update(fields)


def steps(*given: dict[str, Any]) -> Change:
    return spec(strategy={"steps": list(given)})


def objectives(**fields: Any) -> Change:
    return spec(objectives=fields)


def canary(share: Any, duration: str = "10m") -> dict[str, Any]:
    return {"canary": {"share": share, "duration": duration}}


def shadow(share: Any) -> dict[str, Any]:
    return {"shadow": {"share": share, "duration": "10m"}}


def model(uri: str, **fields: Any) -> Change:
    return revision(model={"uri": uri, **fields})


def name(text: str) -> Change:
    return lambda manifest: manifest["metadata"].update(name=text)


def engine(**fields: Any) -> Change:
    return revision(engine=fields)


def variable(text: str) -> Change:
    return engine(env=[{"name": text, "value": "x"}])
