"""Bad input: refused at apply, or answered by a condition; everybody else is unharmed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from e2e.harness.kube import LLMD, Json, eventually
from e2e.harness.scenario import Chat, canary, shadow


def _with_steps(given: Chat, steps: list[Json]) -> Json:
    manifest = given.manifest()
    manifest["spec"]["strategy"]["steps"] = steps
    return manifest


@pytest.mark.timeout(120)
def test_refused_at_apply_with_a_message_that_says_how_to_mend(chat: Callable[..., Chat]) -> None:
    given = chat()
    refused = {
        "a share of 0 %": (_with_steps(given, [canary("0%")]), "0%"),
        "a share of 100.1 %": (_with_steps(given, [canary("100.1%")]), "share"),
        "half": (_with_steps(given, [canary("half")]), "share"),
        "falling steps": (_with_steps(given, [canary("5%"), canary("1%")]), "ris"),
        "shadow after canary": (_with_steps(given, [canary("5%"), shadow("1%")]), "shadow"),
        "no steps": (_with_steps(given, []), "steps"),
        "a name too long": (
            {**given.manifest(), "metadata": {"name": "x" * 60, "namespace": given.namespace}},
            "40",
        ),
        "an unknown field": (
            {**given.manifest(), "spec": {**given.manifest()["spec"], "replcas": 3}},
            "replcas",
        ),
        "a megabyte": (given.manifest(prompt={"chatTemplate": "x" * (1 << 20)}), "chatTemplate"),
    }
    for what, (manifest, expected) in refused.items():
        said = given.kube.try_apply(manifest)
        assert expected in said, f"{what}: {said[:600]}"
        assert "created" not in said, what
    assert given.resource is None


@pytest.mark.timeout(300)
def test_answered_by_a_condition_and_others_unharmed(chat: Callable[..., Chat]) -> None:
    good = chat(name="good").serving("v1")
    missing_key = chat(name="no-config-map").applied(
        "v1", prompt={"configMapKeyRef": {"name": "absent", "key": "chat"}}
    )
    no_image = chat(name="no-image", image="localhost/nothing-here:1").applied("v1")
    no_model = chat(name="no-model").applied("nosuchmodel")

    missing_key.sees("says which ConfigMap", lambda s: "absent" in json.dumps(s), 30)
    no_image.sees(
        "says which image",
        lambda s: "localhost/nothing-here:1" in json.dumps(s.get("conditions")),
        60,
    )
    no_model.sees("says which model", lambda s: "nosuchmodel" in str(s.get("message")), 90)

    with good.traffic(rate=20, requests=100) as load:
        tally = load.wait(60)
    assert not tally.failures, tally.explain()
    assert good.status["phase"] == "Serving"


@pytest.mark.timeout(300)
def test_status_edited_to_nonsense_or_wiped_is_rebuilt_and_nothing_promoted(
    chat: Callable[..., Chat],
) -> None:
    given = chat(steps=[canary("10%", "20m", 1), canary("50%", "20m", 1)]).serving("v1")
    old = given.stable
    given.applied("v2")
    new = given.canary()
    given.in_step(0)
    path = f"{LLMD}/namespaces/{given.namespace}/llmdeployments/{given.name}/status"
    nonsense = {
        "stableRevision": "nonsense00",
        "canaryRevision": "alsononsens",
        "share": "99%",
        "step": {
            "index": 17,
            "kind": "Canary",
            "share": "99%",
            "startedAt": "2020-01-01T00:00:00Z",
        },
    }
    with given.traffic(rate=30) as load:
        for status in (nonsense, None):
            found = given.resource
            assert found is not None
            found["status"] = status
            if status is None:
                del found["status"]
            given.kube.kubectl("replace", "--raw", path, "-f", "-", given=json.dumps(found))
            rebuilt = given.sees(
                "rebuilt",
                lambda s: (
                    s.get("stableRevision") == old and s.get("canaryRevision") in (None, new) and s
                ),
                60,
            )
            assert rebuilt.get("share") in (None, "0%", "10%")
            given.in_step(0)
        tally = load.stop()
    assert not tally.failures, tally.explain()
    assert given.stable == old


@pytest.mark.timeout(240)
def test_a_deleted_controller_revision_touches_no_pod(chat: Callable[..., Chat]) -> None:
    given = chat().serving("v1")
    pods = {pod["metadata"]["uid"] for pod in given.pods()}
    given.kube.kubectl("delete", "controllerrevisions", "-n", given.namespace, "--all")
    eventually(
        "RevisionLost, or written again",
        lambda: (
            (given.condition("RevisionLost") or {}).get("status") == "True"
            or given.kube.items(f"/apis/apps/v1/namespaces/{given.namespace}/controllerrevisions")
        ),
        30,
    )
    with given.traffic(rate=20, requests=60) as load:
        tally = load.wait(60)
    assert not tally.failures, tally.explain()
    assert {pod["metadata"]["uid"] for pod in given.pods()} == pods
