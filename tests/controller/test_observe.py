"""What a round sees: ownership, commands, sources, pods and their deaths."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.controller.gates import NoGates
from llmrollouts.controller.observe import Observer, Sight, read_deployment
from llmrollouts.controller.pods import read_pod
from llmrollouts.controller.sources import LONGEST_TEXT
from llmrollouts.controller.versions import Versions
from llmrollouts.kube.port import CONFIG_MAP, CONTROLLER_REVISION, DEPLOYMENT, LLM_DEPLOYMENT, POD
from llmrollouts.resources.children import (
    Owner,
    make_config_map,
    make_controller_revision,
    make_worker_deployment,
)
from llmrollouts.resources.revision import RevisionContent
from tests.controller.shell import KEY, make_deployment
from tests.fakes.kube import FakeKube
from tests.fakes.traffic import FakeTraffic

CONTENT = RevisionContent("bcdfghjklm", 1, "{}", {}, "{}", {})


def make_kube(**metadata: Any) -> tuple[FakeKube, str]:
    kube = FakeKube(collects_garbage=False)
    manifest = make_deployment()
    manifest["metadata"].update(metadata)
    return kube, kube.put(LLM_DEPLOYMENT, manifest)["metadata"]["uid"]


async def look(kube: FakeKube) -> Sight:
    observer = Observer(kube, FakeTraffic(lambda: 0.0), NoGates(), Versions())
    return await observer.observe(KEY)


def put_children(kube: FakeKube, uid: str) -> None:
    owner = Owner(KEY.namespace, KEY.name, uid)
    kube.put(CONTROLLER_REVISION, make_controller_revision(owner, CONTENT))
    kube.put(CONFIG_MAP, make_config_map(owner, CONTENT))
    kube.put(DEPLOYMENT, make_worker_deployment(owner, CONTENT, 3, "stable"))


async def test_owned_children_are_seen() -> None:
    kube, uid = make_kube()
    put_children(kube, uid)
    seen = (await look(kube)).observation
    assert [record.name for record in seen.revisions] == [CONTENT.name]
    assert [(w.replicas, w.role) for w in seen.workers] == [(3, "stable")]
    assert seen.config_maps == {CONTENT.name}


async def test_children_of_another_owner_are_not() -> None:
    kube, _ = make_kube()
    put_children(kube, "another-uid")
    seen = (await look(kube)).observation
    assert (seen.revisions, seen.workers, seen.config_maps) == ((), (), frozenset())


async def test_children_left_behind_without_an_owner_are_taken_over() -> None:
    kube, uid = make_kube()
    put_children(kube, uid)
    for kind in (CONTROLLER_REVISION, CONFIG_MAP, DEPLOYMENT):
        name = labels.child_name(KEY.name, CONTENT.name)
        kube.edit(kind, KEY.namespace, name, lambda m: m["metadata"].pop("ownerReferences"))
    seen = (await look(kube)).observation
    assert len(seen.revisions) == len(seen.workers) == len(seen.config_maps) == 1


async def test_a_record_that_is_none_of_ours_is_ignored() -> None:
    kube, uid = make_kube()
    record = make_controller_revision(Owner(KEY.namespace, KEY.name, uid), CONTENT)
    record["data"] = {"format": 99}
    kube.put(CONTROLLER_REVISION, record)
    assert (await look(kube)).observation.revisions == ()


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        (
            '{"at": "2026-01-01T00:00:00+00:00", "reason": "GateFailed", "message": "m"}',
            "GateFailed",
        ),
        ("no json", "Rejected"),
        ('{"at": 7}', "Rejected"),
        ("[]", "Rejected"),
    ],
)
async def test_r04_a_rejection_that_cannot_be_read_is_still_one(note: str, reason: str) -> None:
    kube, uid = make_kube()
    put_children(kube, uid)

    def reject(found: Manifest) -> None:
        found["metadata"]["annotations"] = {labels.REJECTED: note}

    name = labels.child_name(KEY.name, CONTENT.name)
    kube.edit(CONTROLLER_REVISION, KEY.namespace, name, reject)
    (record,) = (await look(kube)).observation.revisions
    assert record.rejected is not None
    assert record.rejected.reason == reason


async def test_pods_that_belong_to_no_replica_set_of_ours_get_no_traffic() -> None:
    kube, _ = make_kube()
    for name, owner in (("ours", "chat-bcdfghjklm-7f9"), ("stranger", "elsewhere-7f9")):
        kube.put(POD, make_pod(name, owner))
    seen = (await look(kube)).observation
    assert [pod.name for pod in seen.pods] == ["ours"]


@pytest.mark.parametrize(
    ("metadata", "applied"),
    [
        ({"annotations": {labels.COMMAND: "pause"}}, False),
        (
            {
                "annotations": {
                    labels.COMMAND: "pause",
                    labels.LAST_APPLIED: json.dumps(
                        {"metadata": {"annotations": {labels.COMMAND: "pause"}}}
                    ),
                }
            },
            True,
        ),
        ({"annotations": {labels.COMMAND: "pause", labels.LAST_APPLIED: "[1"}}, False),
        ({"annotations": {labels.COMMAND: "pause", labels.LAST_APPLIED: '"text"'}}, False),
        (
            {
                "annotations": {
                    labels.COMMAND: "pause",
                    labels.LAST_APPLIED: json.dumps({"metadata": {"annotations": [1]}}),
                }
            },
            False,
        ),
    ],
)
async def test_a_command_from_git_is_recognized(metadata: Manifest, applied: bool) -> None:
    kube, _ = make_kube(**metadata)
    seen = (await look(kube)).observation.deployment
    assert (seen.command, seen.command_applied) == ("pause", applied)


def test_the_time_of_a_command_is_when_it_was_written() -> None:
    def entry(manager: str, time: str, *owned: str) -> Manifest:
        fields: Manifest = {"f:annotations": {f"f:{name}": {} for name in owned}}
        return {"manager": manager, "time": time, "fieldsV1": {"f:metadata": fields}}

    manifest = make_deployment()
    manifest["metadata"] |= {"uid": "uid-1", "annotations": {labels.COMMAND: "rollback"}}
    assert read_deployment(KEY, manifest)[0].command_at is None
    manifest["metadata"]["managedFields"] = [
        entry("kubectl-llm", "2026-01-05T11:59:58Z", labels.COMMAND),
        entry("kubectl-edit", "2026-01-05T12:30:00Z", "example.org/other"),
        {"manager": "kubectl", "operation": "Update"},
    ]
    given = datetime(2026, 1, 5, 11, 59, 58, tzinfo=UTC)
    assert read_deployment(KEY, manifest)[0].command_at == given


async def test_a_command_in_a_server_side_applied_manifest_is_recognized() -> None:
    kube = FakeKube()
    manifest = make_deployment()
    manifest["metadata"]["annotations"] = {labels.COMMAND: "pause"}
    await kube.apply(LLM_DEPLOYMENT, manifest)
    assert (await look(kube)).observation.deployment.command_applied


async def test_references_are_resolved_in_every_round() -> None:
    kube = FakeKube()
    manifest = make_deployment()
    reference = {"configMapKeyRef": {"name": "texts", "key": "chat"}}
    manifest["spec"]["revision"]["prompt"] = reference
    kube.put(LLM_DEPLOYMENT, manifest)
    problem = (await look(kube)).observation.problem
    assert problem is not None
    assert problem.reason == "ConfigMapMissing"
    texts: Manifest = {"metadata": {"namespace": "prod", "name": "texts"}, "data": {"other": "x"}}
    kube.put(CONFIG_MAP, texts)
    problem = (await look(kube)).observation.problem
    assert problem is not None
    assert problem.reason == "ConfigMapKeyMissing"
    assert "other" in problem.message
    kube.put(CONFIG_MAP, {**texts, "data": {"chat": "x" * (LONGEST_TEXT + 1)}})
    problem = (await look(kube)).observation.problem
    assert problem is not None
    assert problem.reason == "SourceTooLarge"
    kube.put(CONFIG_MAP, {**texts, "data": {"chat": "hello"}})
    seen = (await look(kube)).observation
    assert (seen.problem, dict(seen.texts)) == (None, {"prompt": "hello"})


def make_pod(name: str = "w", owner: str = "chat-bcdfghjklm-7f9", **status: Any) -> Manifest:
    return {
        "metadata": {
            "namespace": "prod",
            "name": name,
            "uid": f"uid-{name}",
            "labels": {labels.DEPLOYMENT: "chat", labels.REVISION: "bcdfghjklm"},
            "ownerReferences": [
                {"kind": "ReplicaSet", "name": owner, "uid": "rs", "controller": True}
            ],
        },
        "spec": {},
        "status": status,
    }


def ended(code: int, reason: str = "Error", at: str = "2026-01-05T12:00:00Z") -> Manifest:
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": at}}


def engine(restarts: int, state: Manifest, last: Manifest | None = None) -> list[Manifest]:
    container = {"name": "engine", "restartCount": restarts, "state": state}
    return [container if last is None else {**container, "lastState": last}]


def test_one_death_has_one_id_before_and_after_the_restart() -> None:
    dying = read_pod(make_pod(containerStatuses=engine(0, ended(1))))
    restarted = read_pod(make_pod(containerStatuses=engine(1, {"running": {}}, ended(1))))
    assert [d.id for d in dying.deaths] == [d.id for d in restarted.deaths] == ["uid-w/engine/0"]


@pytest.mark.parametrize(
    ("ready", "changed", "started", "lost"),
    [
        ("True", "2026-01-05T12:00:09Z", "2026-01-05T12:00:02Z", False),
        ("False", "2026-01-05T12:00:09Z", "2026-01-05T12:00:02Z", True),
        # Never ready: the condition is as old as the pod.
        ("False", "2026-01-05T12:00:00Z", "2026-01-05T12:00:02Z", False),
        # Restarted since: what was ready is gone.
        ("False", "2026-01-05T12:00:09Z", "2026-01-05T12:00:10Z", False),
        ("False", "2026-01-05T12:00:09Z", None, False),
        ("False", None, "2026-01-05T12:00:02Z", False),
    ],
)
def test_a_worker_that_was_ready_in_this_life_is_told_from_one_that_never_was(
    ready: str, changed: str | None, started: str | None, lost: bool
) -> None:
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": changed}
    state: Manifest = {"running": {"startedAt": started}} if started else {"waiting": {}}
    manifest = make_pod(conditions=[condition], containerStatuses=engine(0, state))
    assert read_pod(manifest).lost_ready is lost
    manifest["status"]["reason"] = "NodeLost"
    assert not read_pod(manifest).lost_ready


@pytest.mark.parametrize(
    ("code", "reason", "deaths"),
    [(137, "OOMKilled", 1), (0, "OOMKilled", 1), (2, "Error", 1), (0, "Completed", 0)],
)
def test_only_a_bad_end_is_a_death(code: int, reason: str, deaths: int) -> None:
    pod = read_pod(make_pod(containerStatuses=engine(1, {"running": {}}, ended(code, reason))))
    assert len(pod.deaths) == deaths


@pytest.mark.parametrize("reason", ["Evicted", "Preempting", "NodeLost", "NodeShutdown"])
def test_what_the_cluster_ended_is_excused(reason: str) -> None:
    pod = read_pod(make_pod(reason=reason, containerStatuses=engine(0, ended(137))))
    assert pod.excused
    assert pod.deaths == ()


def test_a_disruption_is_excused() -> None:
    target = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
    assert read_pod(make_pod(conditions=target, containerStatuses=engine(0, ended(1)))).excused


def test_an_end_after_the_deletion_is_excused_and_one_before_it_is_not() -> None:
    manifest = make_pod(
        containerStatuses=engine(
            1, ended(143, at="2026-01-05T12:01:00Z"), ended(1, at="2026-01-05T11:00:00Z")
        )
    )
    # Asked for at 12:00:30, thirty seconds before the deadline.
    manifest["metadata"]["deletionTimestamp"] = "2026-01-05T12:01:00Z"
    manifest["metadata"]["deletionGracePeriodSeconds"] = 30
    assert [death.id for death in read_pod(manifest).deaths] == ["uid-w/engine/0"]


def test_what_keeps_a_pod_from_starting_is_told() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    pulled = read_pod(make_pod(containerStatuses=engine(0, waiting)))
    assert (pulled.waiting_reason, pulled.waiting_message) == ("ImagePullBackOff", "no such image")
    creating = {"waiting": {"reason": "ContainerCreating"}}
    assert read_pod(make_pod(containerStatuses=engine(0, creating))).waiting_reason is None
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    pending = read_pod(make_pod(conditions=[{**scheduled, "message": "0/3 nodes"}]))
    assert (pending.waiting_reason, pending.waiting_message) == ("Unschedulable", "0/3 nodes")
