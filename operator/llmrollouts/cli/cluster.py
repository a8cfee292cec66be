"""Reads and annotates objects over the official client; the only module that speaks HTTP.

Objects stay plain mappings. Every failure becomes a Failure whose message a person can act on.
It decides nothing and never retries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import quote

import urllib3
import yaml
from kubernetes import client, config

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.cli.failure import Failure, Forbidden, Missing, Raced

RESOURCE: Final = f"/apis/{labels.API_VERSION}"
DEPLOYMENTS: Final = "/apis/apps/v1"
LEASE: Final = "llm-rollouts"
# Writes of people stand under a name of their own, so that `managedFields` shows them.
FIELD_MANAGER: Final = "kubectl-llm"
_CONNECT: Final = 5.0  # seconds
_READ: Final = 15.0

_INSTALL: Final = (
    "Install it: helm install llm-rollouts charts/llm-rollouts "
    "--namespace llm-rollouts-system --create-namespace"
)


class Cluster(Protocol):
    """What the commands need of a cluster."""

    @property
    def namespace(self) -> str:
        """The namespace of the kubeconfig's context."""

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Manifest:
        """The object or list at an API path. Raises Failure, Missing or Forbidden."""

    def patch(self, path: str, body: Manifest) -> Manifest:
        """Merge-patch the object at an API path. Raises Failure, Missing, Forbidden or Raced."""


def object_path(namespace: str, name: str) -> str:
    return (
        f"{RESOURCE}/namespaces/{quote(namespace, safe='')}/{labels.PLURAL}/{quote(name, safe='')}"
    )


def list_path(namespace: str | None) -> str:
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace is not None else ""
    return f"{RESOURCE}{scope}/{labels.PLURAL}"


class KubeCluster:
    """A cluster behind a kubeconfig (or, inside of a pod, behind its service account)."""

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        configuration = client.Configuration()
        self.namespace = "default"
        try:
            config.load_kube_config(kubeconfig, context, client_configuration=configuration)
            self.namespace = _context_namespace(kubeconfig, context)
        except config.ConfigException as problem:
            if kubeconfig or context:
                raise _unusable(kubeconfig, _first_line(problem)) from problem
            try:
                config.load_incluster_config(configuration)
            except config.ConfigException:
                raise _unusable(kubeconfig, _first_line(problem)) from problem
        except OSError as problem:
            raise _unusable(kubeconfig, problem.strerror or _first_line(problem)) from problem
        except (yaml.YAMLError, TypeError, AttributeError, ValueError, LookupError) as problem:
            # What the client's reader raises for files that hold something else.
            raise _unusable(kubeconfig, "it does not read as a kubeconfig") from problem
        configuration.retries = False
        self._host = configuration.host
        self._api = client.ApiClient(configuration)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Manifest:
        return self._ask("GET", path, query=query)

    def patch(self, path: str, body: Manifest) -> Manifest:
        return self._ask(
            "PATCH",
            path,
            query={"fieldManager": FIELD_MANAGER},
            body=body,
            content_type="application/merge-patch+json",
        )

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str | None = None,
    ) -> Manifest:
        headers = {"Accept": "application/json"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        try:
            answer = self._api.call_api(
                *self._api.param_serialize(
                    method=method,
                    resource_path=path,
                    query_params=list((query or {}).items()),
                    header_params=headers,
                    body=body,
                    auth_settings=["BearerToken"],
                ),
                _request_timeout=(_CONNECT, _READ),
            )
            data: bytes = answer.read()
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as problem:
            why = _first_line(problem)
            if "SSL" in f"{why} {problem}":
                raise Failure(
                    f"No cluster: no trusted connection to {self._host} ({why}).",
                    "Either another server answers at this address, or the certificate authority "
                    "in the kubeconfig is not this cluster's: kubectl cluster-info",
                ) from problem
            raise Failure(
                f"No cluster: {self._host} does not answer ({why}).",
                "Check the address in the kubeconfig (kubectl cluster-info) and your network.",
            ) from problem
        if answer.status >= 400:
            raise _explain(answer.status, data, method, path, self._host)
        found: Manifest = json.loads(data)
        return found


def _context_namespace(kubeconfig: str | None, context: str | None) -> str:
    contexts, active = config.list_kube_config_contexts(kubeconfig)
    chosen = next((c for c in contexts if c["name"] == context), active)
    return str(chosen["context"].get("namespace") or "default")


def _unusable(kubeconfig: str | None, why: str) -> Failure:
    given = kubeconfig or os.environ.get("KUBECONFIG")
    tried = given or "~/.kube/config (KUBECONFIG is not set)"
    why = why.rstrip(".")
    return Failure(
        f"No cluster: {tried} cannot be used: {why}.",
        "Set KUBECONFIG to a file, or give --kubeconfig FILE. The local cluster's file is printed "
        "by: make -s kubeconfig",
    )


def _first_line(problem: BaseException) -> str:
    reason = getattr(problem, "reason", None) or problem
    lines = [line for line in str(reason).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].isidentifier():
        # The client puts the name of the exception before its words.
        del lines[0]
    return lines[0][:200] if lines else type(problem).__name__


def _explain(status: int, data: bytes, method: str, path: str, host: str) -> Failure:
    try:
        message = str(json.loads(data).get("message", ""))[:600]
    except (ValueError, AttributeError):
        message = data[:200].decode(errors="replace")
    if status == 401:
        return Failure(f"{host} does not accept your credentials.", "Log in again, as for kubectl.")
    if status == 403:
        verb = {"GET": "get or list", "PATCH": "patch"}[method]
        return Forbidden(
            f"You may not {verb} here: {message}",
            "Ask an administrator for it: the ClusterRoles llm-rollouts-view and llm-rollouts-edit "
            "are part of `view` and `edit`.",
        )
    if status == 404:
        if message.startswith("the server could not find") or "404 page not found" in message:
            return Missing("LLM Rollouts is not installed in this cluster: no such CRD.", _INSTALL)
        return Missing(message or f"{path} is not there")
    if status == 409:
        return Raced(message)
    return Failure(f"The API server refused ({status}): {message}")


def list_items(cluster: Cluster, path: str, query: Mapping[str, str]) -> Sequence[Manifest]:
    """All items of a list, page by page."""
    items: list[Manifest] = []
    more: dict[str, str] = {}
    while True:
        page = cluster.get(path, {**query, "limit": "500", **more})
        items.extend(page.get("items") or [])
        token = (page.get("metadata") or {}).get("continue")
        if not token:
            return items
        more = {"continue": token}
