"""The children as whole objects: read the files in golden/ to see what the cluster gets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmrollouts.resources.children import (
    Role,
    make_config_map,
    make_controller_revision,
    make_worker_deployment,
)
from tests.resources.golden_files import assert_golden
from tests.resources.worlds import COMMIT, CPU, DIGEST, FULL, OWNER, SMALL, make_content


@pytest.mark.parametrize(
    ("name", "revision"), [("small", SMALL), ("cpu", CPU), ("full", FULL)], ids=str
)
def test_children_are_as_in_the_golden_files(name: str, revision: dict[str, Any]) -> None:
    content = make_content(revision)
    assert_golden(f"{name}-worker-deployment", make_worker_deployment(OWNER, content, 2, "canary"))
    assert_golden(f"{name}-config-map", make_config_map(OWNER, content))


def test_the_controller_revision_is_as_in_the_golden_file() -> None:
    assert_golden("cpu-controller-revision", make_controller_revision(OWNER, make_content(CPU)))


def test_role_and_replicas_never_reach_the_pod_template() -> None:
    content = make_content(FULL)
    roles: list[tuple[int, Role]] = [(0, "retired"), (1, "canary"), (9, "stable")]
    made = [make_worker_deployment(OWNER, content, replicas, role) for replicas, role in roles]
    templates = {json.dumps(one["spec"]["template"], sort_keys=True) for one in made}
    assert len(templates) == 1
    assert {one["metadata"]["labels"]["llmrollouts.dev/role"] for one in made} == {
        "retired",
        "canary",
        "stable",
    }


def test_the_selector_picks_exactly_the_templates_pods() -> None:
    made = make_worker_deployment(OWNER, make_content(SMALL), 1, "stable")
    pod_labels = made["spec"]["template"]["metadata"]["labels"]
    assert made["spec"]["selector"]["matchLabels"].items() <= pod_labels.items()


def test_owners_are_controllers_that_hold_up_no_deletion() -> None:
    content = make_content(SMALL)
    for made in (
        make_worker_deployment(OWNER, content, 1, "stable"),
        make_config_map(OWNER, content),
        make_controller_revision(OWNER, content),
    ):
        (owner,) = made["metadata"]["ownerReferences"]
        assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, False)
        assert owner["uid"] == OWNER.uid
        assert "finalizers" not in made["metadata"]


def engine_of(revision: dict[str, Any]) -> dict[str, Any]:
    (engine,) = json.loads(make_content(revision).template)["spec"]["containers"]
    return dict(engine)


def environment_of(revision: dict[str, Any]) -> dict[str, str]:
    return {v["name"]: v.get("value", "") for v in engine_of(revision)["env"]}


@pytest.mark.parametrize(
    ("engine", "limits", "gpus"),
    [
        ({}, {}, {"nvidia.com/gpu": "1"}),
        ({"tensorParallelSize": 4}, {}, {"nvidia.com/gpu": "4"}),
        ({}, {"nvidia.com/gpu": 2}, {"nvidia.com/gpu": "2"}),
        ({}, {"amd.com/gpu": 1}, {"amd.com/gpu": "1"}),
        ({"device": "CPU", "image": "x:1"}, {}, {}),
    ],
)
def test_a_gpu_worker_gets_the_gpus_it_needs(
    engine: dict[str, Any], limits: dict[str, Any], gpus: dict[str, str]
) -> None:
    revision = {**SMALL, "engine": engine, "resources": {"limits": limits}}
    made = engine_of(revision).get("resources", {}).get("limits", {})
    assert {name: value for name, value in made.items() if "/" in name} == gpus


@pytest.mark.parametrize(
    ("cpu", "threads"), [("500m", "1"), ("2500m", "2"), ("4", "4"), (8, "8"), (None, None)]
)
def test_a_cpu_worker_uses_the_cores_it_was_given(cpu: Any, threads: str | None) -> None:
    limits = {} if cpu is None else {"cpu": cpu}
    revision = {**SMALL, "engine": {"device": "CPU", "image": "x:1"}}
    environment = environment_of({**revision, "resources": {"limits": limits}})
    assert environment.get("OMP_NUM_THREADS") == threads
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_a_users_variable_wins_over_ours_and_is_taken_as_it_is() -> None:
    assert environment_of(CPU)["VLLM_CPU_KVCACHE_SPACE"] == "2"
    # Kubernetes would put a secret where $(HF_TOKEN) stands.
    assert environment_of(FULL)["NCCL_DEBUG"] == "$$(HF_TOKEN)"


def test_the_token_of_a_private_model_comes_from_its_secret_and_nowhere_else() -> None:
    reference = {"name": "hub", "key": "token"}
    revision = {"model": {**SMALL["model"], "tokenSecretKeyRef": reference}}
    (token,) = [v for v in engine_of(revision)["env"] if v["name"] == "HF_TOKEN"]
    assert token == {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}}


@pytest.mark.parametrize(
    ("uri", "volume"),
    [
        ("pvc://claim/x", {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}}),
        (
            f"oci://registry.example/m@{DIGEST}",
            {
                "image": {
                    "reference": f"registry.example/m@{DIGEST}",
                    "pullPolicy": "IfNotPresent",
                }
            },
        ),
        ("file:///models/v1", None),
        (f"hf://org/model@{COMMIT}", None),
    ],
)
def test_a_model_on_a_volume_is_mounted_read_only(uri: str, volume: dict[str, Any] | None) -> None:
    spec = json.loads(make_content({"model": {"uri": uri}}).template)["spec"]
    volumes = {v.pop("name"): v for v in spec["volumes"]}
    mounts = {m["name"]: m for m in spec["containers"][0]["volumeMounts"]}
    assert volumes.get("model") == volume
    assert ("model" in mounts) == (volume is not None)
    if volume is not None:
        assert mounts["model"]["readOnly"]


@pytest.mark.parametrize("revision", [SMALL, CPU, FULL], ids=["small", "cpu", "full"])
def test_no_worker_reaches_its_node(revision: dict[str, Any]) -> None:
    spec = json.loads(make_content(revision).template)["spec"]
    assert not [v for v in spec["volumes"] if "hostPath" in v]
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
