"""An LLMDeployment on a real API server: its status, its columns, its scale, its help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmrollouts.api import crd
from llmrollouts.api.deployment import write_status
from llmrollouts.api.status import Condition, GateStatus, LLMDeploymentStatus, StepStatus
from tests.api.manifests import (
    Applier,
    make_manifest,
)
from tests.apiserver import ApiServer

pytestmark = pytest.mark.apiserver


def test_scale_changes_replicas_and_shows_the_workers(
    apiserver: ApiServer, namespace: str, applier: Applier
) -> None:
    stored = applier.create(make_manifest())
    status = LLMDeploymentStatus(replicas=3, ready_replicas=2, selector="a=b")
    assert applier.put(write_status(stored, status), "/status").status == 200
    done = apiserver.kubectl("scale", "-n", namespace, "llmd/chat", "--replicas=5")
    assert done.returncode == 0, done.stderr
    scale = applier.get("chat", "/scale")
    assert scale["spec"]["replicas"] == 5
    assert scale["status"] == {"replicas": 3, "selector": "a=b"}
    refused = apiserver.kubectl("scale", "-n", namespace, "llmd/chat", "--replicas=0")
    assert "greater than or equal to 1" in refused.stderr


def make_status() -> LLMDeploymentStatus:
    at = "2026-11-22T21:15:00.123456Z"
    progressing = {
        "type": "Progressing",
        "status": "True",
        "reason": "StepRunning",
        "message": "m" * 5_000,
        "lastTransitionTime": at,
    }
    gate = {
        "name": "latency",
        "verdict": "Inconclusive",
        "reason": "TooFewSamples",
        "message": "needs 90 more requests",
        "since": at,
        "updatedAt": at,
        "proof": "Collecting",
    }
    step = {"index": 1, "kind": "Canary", "share": "0.5%", "startedAt": at, "heldSeconds": 1.5}
    return LLMDeploymentStatus(
        phase="Progressing",
        stable_revision="bbbbbbbbbb",
        canary_revision="cccccccccc",
        share="0.5%",
        step=StepStatus.model_validate(step),
        gates=[GateStatus.model_validate(gate)],
        conditions=[Condition.model_validate(progressing)],
    )


def test_what_the_operator_writes_is_stored_as_written(applier: Applier) -> None:
    wanted = write_status(applier.create(make_manifest()), make_status())
    answer = applier.put(wanted, "/status")
    assert answer.status == 200, answer.message
    # A status that came back otherwise would be written again in every round.
    assert applier.get("chat")["status"] == wanted["status"]


def test_columns_show_a_rollout_at_a_glance(
    apiserver: ApiServer, namespace: str, applier: Applier
) -> None:
    applier.put(write_status(applier.create(make_manifest()), make_status()), "/status")
    done = apiserver.kubectl("get", "llmd", "-n", namespace)
    head, row = (line.split() for line in done.stdout.splitlines())
    assert head == ["NAME", "PHASE", "STABLE", "CANARY", "STEP", "SHARE", "VERDICT", "AGE"]
    assert row[:-1] == [
        *("chat", "Progressing", "bbbbbbbbbb", "cccccccccc"),
        *("2/5", "Canary", "0.5%", "Inconclusive:", "TooFewSamples"),
    ]


def test_the_status_is_apart_from_the_spec(applier: Applier) -> None:
    stored = applier.create(make_manifest())
    stored["status"] = {"phase": "Serving"}
    assert applier.put(stored).status == 200
    assert "status" not in applier.get("chat")


def test_a_status_of_nonsense_is_refused_where_its_form_is_wrong(applier: Applier) -> None:
    stored = applier.create(make_manifest())
    stored["status"] = {"phase": "Bogus", "step": 3}
    answer = applier.put(stored, "/status")
    assert answer.status == 422
    assert "status.phase" in answer.message


def _paths(node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for field, inner in node.get("properties", {}).items():
        below = f"{path}.{field}"
        yield below, inner.get("description", "")
        yield from _paths(inner.get("items", inner), below)


def test_kubectl_explain_works_on_every_field(apiserver: ApiServer) -> None:
    version = crd.make_crd()["spec"]["versions"][0]
    root = version["schema"]["openAPIV3Schema"]
    done = apiserver.kubectl("explain", "llmd", "--recursive")
    assert done.returncode == 0, done.stderr
    assert "One large language model behind one address" in " ".join(done.stdout.split())
    # kubectl prints what this document says, so all of it is compared, and a few are printed.
    document = apiserver.request("GET", "/openapi/v3/apis/llmrollouts.dev/v1alpha1").body
    schemas = document["components"]["schemas"]
    (served,) = [s for n, s in schemas.items() if n.endswith(".LLMDeployment")]
    expected = dict(
        _paths({"properties": {k: root["properties"][k] for k in ("spec", "status")}}, "")
    )
    found = dict(_paths(served, ""))
    assert expected.items() <= found.items()
    assert all(expected.values())
    for path in (
        "spec.strategy.steps.canary.share",
        "spec.revision.model.uri",
        "status.warm.until",
    ):
        printed = apiserver.kubectl("explain", f"llmd.{path}")
        assert printed.returncode == 0, printed.stderr
        assert expected[f".{path}"][:60] in " ".join(printed.stdout.split())


def test_the_short_name_the_category_and_the_kind_find_it(
    apiserver: ApiServer, namespace: str, applier: Applier
) -> None:
    applier.create(make_manifest())
    for word in ("llmd", "llm", "llmdeployment", "llmdeployments.llmrollouts.dev"):
        done = apiserver.kubectl("get", word, "-n", namespace, "-o", "name")
        assert done.stdout.strip() == "llmdeployment.llmrollouts.dev/chat", done.stderr
