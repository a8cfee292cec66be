"""The children on a real API server: accepted, restricted, and the same when applied again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from llmrollouts.resources.children import (
    Owner,
    Role,
    make_config_map,
    make_controller_revision,
    make_worker_deployment,
    read_controller_revision,
)
from tests.apiserver import ApiServer
from tests.resources.worlds import CPU, DIGEST, FULL, SETTINGS, SMALL, make_content

pytestmark = pytest.mark.apiserver

IMAGE_VOLUME = {"model": {"uri": f"oci://registry.example/m@{DIGEST}"}}
REVISIONS = {"small": SMALL, "cpu": CPU, "full": FULL, "image volume": IMAGE_VOLUME}


@pytest.fixture
def owner(namespace: str) -> Owner:
    return Owner(namespace, "chat", "00000000-0000-0000-0000-000000000001")


def apply(server: ApiServer, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Server-side apply, strict: a field that the API server does not know is an error."""
    name = manifest["metadata"]["name"]
    query = "?fieldManager=llmrollouts&force=true&fieldValidation=Strict"
    answer = server.request(
        "PATCH", f"{path}/{name}{query}", manifest, "application/apply-patch+yaml"
    )
    assert answer.status in (200, 201), answer.message
    return dict(answer.body)


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS.keys())
def test_children_are_accepted_as_they_are(
    apiserver: ApiServer, owner: Owner, revision: dict[str, Any]
) -> None:
    content = make_content(revision)
    apps, core = f"/apis/apps/v1/namespaces/{owner.namespace}", "/api/v1/namespaces/"
    apply(apiserver, f"{apps}/deployments", make_worker_deployment(owner, content, 2, "canary"))
    apply(apiserver, f"{core}{owner.namespace}/configmaps", make_config_map(owner, content))
    manifest = make_controller_revision(owner, content)
    stored = apiserver.request("POST", f"{apps}/controllerrevisions", manifest)
    assert stored.status == 201, stored.message
    name = manifest["metadata"]["name"]
    again = apiserver.request("GET", f"{apps}/controllerrevisions/{name}").body
    assert read_controller_revision(again) == content


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS.keys())
def test_pods_meet_the_restricted_security_standard(
    apiserver: ApiServer, owner: Owner, revision: dict[str, Any]
) -> None:
    strict = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    path = f"/api/v1/namespaces/{owner.namespace}"
    assert apiserver.request("PATCH", path, strict, "application/merge-patch+json").status == 200
    template = json.loads(make_content(revision).template)
    # Nobody has made these two classes in this cluster.
    template["spec"].pop("priorityClassName", None)
    template["spec"].pop("runtimeClassName", None)
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"]["generateName"] = "worker-"
    answer = apiserver.request("POST", f"{path}/pods?fieldValidation=Strict", pod)
    assert answer.status == 201, answer.message
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert apiserver.request("POST", f"{path}/pods", pod).status == 403


def test_applying_again_changes_nothing_and_role_and_replicas_touch_no_pod(
    apiserver: ApiServer, owner: Owner
) -> None:
    content = make_content(FULL)
    path = f"/apis/apps/v1/namespaces/{owner.namespace}/deployments"

    def applied(replicas: int, role: Role) -> dict[str, Any]:
        return apply(apiserver, path, make_worker_deployment(owner, content, replicas, role))

    first, same, other = applied(2, "canary"), applied(2, "canary"), applied(9, "stable")
    assert same["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert other["metadata"]["generation"] == 2  # replicas; the role alone is no generation
    assert other["spec"]["template"] == first["spec"]["template"]
    assert applied(9, "retired")["metadata"]["generation"] == 2


def test_a_newer_maker_leaves_a_stored_revision_alone(apiserver: ApiServer, owner: Owner) -> None:
    path = f"/apis/apps/v1/namespaces/{owner.namespace}"
    content = make_content(SMALL)
    apply(apiserver, f"{path}/deployments", make_worker_deployment(owner, content, 2, "stable"))
    record = make_controller_revision(owner, content)
    assert apiserver.request("POST", f"{path}/controllerrevisions", record).status == 201
    newer = make_content(SMALL, settings=replace(SETTINGS, drain_seconds=60))
    assert newer.template != content.template
    assert (newer.source, newer.name) == (content.source, content.name)
    # The data of a stored revision cannot be overwritten, so its template stays what it was.
    changed = make_controller_revision(owner, newer)
    name = record["metadata"]["name"]
    answer = apiserver.request("PUT", f"{path}/controllerrevisions/{name}", changed)
    assert answer.status == 422
    stored = apiserver.request("GET", f"{path}/controllerrevisions/{name}").body
    kept = read_controller_revision(stored)
    again = apply(
        apiserver, f"{path}/deployments", make_worker_deployment(owner, kept, 2, "stable")
    )
    assert again["metadata"]["generation"] == 1
