"""The parts of the fake that the contract suite cannot see: garbage, events, faults, workers."""

from __future__ import annotations

import asyncio

import pytest

from llmrollouts.kube.port import CONFIG_MAP, DEPLOYMENT, POD, Conflict, NotFound, Transient
from tests.fakes.deployments import REPLICA_SET, Workers
from tests.fakes.kube import FakeKube
from tests.fakes.kube_faults import Crashed, Fault
from tests.kube.objects import config_map, deployment

SPACE = "test"


def owned(name: str, owner_uid: str) -> dict[str, object]:
    manifest = config_map(SPACE, name)
    manifest["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner_uid}
    ]
    return manifest


async def test_dependents_go_with_their_last_owner_through_generations() -> None:
    kube = FakeKube()
    owner = await kube.create(CONFIG_MAP, config_map(SPACE, "owner"))
    child = await kube.create(CONFIG_MAP, owned("child", owner["metadata"]["uid"]))
    await kube.create(CONFIG_MAP, owned("grandchild", child["metadata"]["uid"]))
    await kube.create(CONFIG_MAP, config_map(SPACE, "stranger"))
    await kube.delete(CONFIG_MAP, SPACE, "owner")
    assert [m["metadata"]["name"] for m in kube.objects(CONFIG_MAP)] == ["stranger"]


async def test_garbage_waits_for_its_collector_when_told_so() -> None:
    kube = FakeKube(collects_garbage=False)
    owner = await kube.create(CONFIG_MAP, config_map(SPACE, "owner"))
    await kube.create(CONFIG_MAP, owned("child", owner["metadata"]["uid"]))
    await kube.delete(CONFIG_MAP, SPACE, "owner")
    assert kube.peek(CONFIG_MAP, SPACE, "child")
    kube.collect_garbage()
    assert kube.peek(CONFIG_MAP, SPACE, "child") is None


async def test_watchers_hear_of_each_change_once() -> None:
    kube = FakeKube()
    heard: list[tuple[str, str]] = []
    kube.watch(lambda event, kind, m: heard.append((event, m["metadata"]["name"])))
    await kube.apply(CONFIG_MAP, config_map(SPACE, a="1"))
    await kube.apply(CONFIG_MAP, config_map(SPACE, a="1"))
    await kube.apply(CONFIG_MAP, config_map(SPACE, a="2"))
    await kube.delete(CONFIG_MAP, SPACE, "one")
    assert heard == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]


async def test_what_tests_hold_is_never_the_stored_object() -> None:
    kube = FakeKube()
    created = await kube.create(CONFIG_MAP, config_map(SPACE, a="1"))
    for copy in (created, kube.peek(CONFIG_MAP, SPACE, "one"), kube.objects(CONFIG_MAP)[0]):
        assert copy is not None
        copy["data"]["a"] = "changed"
        assert (await kube.get(CONFIG_MAP, SPACE, "one"))["data"] == {"a": "1"}


async def test_faults_strike_where_they_are_planned_and_nowhere_else() -> None:
    kube = FakeKube()
    kube.faults.at_call(2, Fault.CONFLICT)
    await kube.apply(CONFIG_MAP, config_map(SPACE))
    with pytest.raises(Conflict):
        await kube.get(CONFIG_MAP, SPACE, "one")
    await kube.get(CONFIG_MAP, SPACE, "one")
    kube.faults.fail(Fault.THROTTLED, verb="get", name="one", skip=1, times=2)
    await kube.get(CONFIG_MAP, SPACE, "one")
    for _ in range(2):
        with pytest.raises(Transient) as raised:
            await kube.get(CONFIG_MAP, SPACE, "one")
        assert raised.value.retry_after == 1.0
    await kube.get(CONFIG_MAP, SPACE, "one")
    assert [str(call) for call in kube.calls[:2]] == [
        "apply ConfigMap test/one",
        "get ConfigMap test/one",
    ]


async def test_a_lost_answer_and_a_crash_after_leave_the_write_done() -> None:
    kube = FakeKube()
    kube.faults.at_write(1, Fault.ANSWER_LOST)
    with pytest.raises(Transient):
        await kube.create(CONFIG_MAP, config_map(SPACE, "lost"))
    assert kube.peek(CONFIG_MAP, SPACE, "lost")
    kube.faults.at_write(1, Fault.CRASH_AFTER)
    with pytest.raises(Crashed):
        await kube.create(CONFIG_MAP, config_map(SPACE, "after"))
    assert kube.peek(CONFIG_MAP, SPACE, "after")
    kube.faults.at_write(1, Fault.CRASH_BEFORE)
    with pytest.raises(Crashed):
        await kube.create(CONFIG_MAP, config_map(SPACE, "before"))
    assert kube.peek(CONFIG_MAP, SPACE, "before") is None


async def test_a_server_that_is_down_or_hangs_does_nothing() -> None:
    kube = FakeKube()
    kube.faults.down = True
    with pytest.raises(Transient):
        await kube.create(CONFIG_MAP, config_map(SPACE))
    kube.faults.clear()
    kube.faults.fail(Fault.HANG)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await kube.create(CONFIG_MAP, config_map(SPACE))
    with pytest.raises(NotFound):
        await kube.get(CONFIG_MAP, SPACE, "one")


async def test_what_is_no_json_cannot_be_sent() -> None:
    with pytest.raises(TypeError):
        await FakeKube().create(CONFIG_MAP, {**config_map(SPACE), "data": {"a": {1, 2}}})


async def test_workers_follow_the_wanted_number_and_report_readiness() -> None:
    kube = FakeKube()
    workers = Workers(kube, auto_ready=False)
    await kube.apply(DEPLOYMENT, deployment(SPACE, replicas=3))
    assert len(workers.pods(SPACE, "workers")) == 3
    assert ready(kube) == 0
    first = workers.pods(SPACE, "workers")[0]["metadata"]["name"]
    workers.set_ready(SPACE, first)
    assert ready(kube) == 1
    await kube.apply(DEPLOYMENT, deployment(SPACE, replicas=1))
    # The one that is ready is kept.
    assert [p["metadata"]["name"] for p in workers.pods(SPACE, "workers")] == [first]
    assert workers.created == 3
    await kube.delete(DEPLOYMENT, SPACE, "workers")
    assert not kube.objects(POD)
    assert not kube.objects(REPLICA_SET)


async def test_lost_workers_are_replaced_and_another_template_restarts_all() -> None:
    kube = FakeKube()
    workers = Workers(kube)
    await kube.apply(DEPLOYMENT, deployment(SPACE, replicas=2))
    one, two = (p["metadata"]["name"] for p in workers.pods(SPACE, "workers"))
    workers.kill(SPACE, one)
    workers.evict(SPACE, two)
    assert ready(kube) == 2
    assert workers.created == 4
    workers.crash(
        SPACE, workers.pods(SPACE, "workers")[-1]["metadata"]["name"], "2026-01-01T00:00:00Z"
    )
    assert ready(kube) == 1
    assert workers.created == 4
    await kube.apply(DEPLOYMENT, deployment(SPACE, "NEW", replicas=2))
    assert workers.created == 6


async def test_workers_that_linger_are_gone_only_when_they_have_finished() -> None:
    kube = FakeKube()
    workers = Workers(kube, lingers=True)
    await kube.apply(DEPLOYMENT, deployment(SPACE, replicas=1))
    await kube.apply(DEPLOYMENT, deployment(SPACE, replicas=0))
    (pod,) = workers.pods(SPACE, "workers")
    assert pod["metadata"]["deletionTimestamp"]
    workers.finish(SPACE, pod["metadata"]["name"])
    assert not kube.objects(POD)


def ready(kube: FakeKube) -> int:
    found = kube.peek(DEPLOYMENT, SPACE, "workers")
    assert found is not None
    count: int = found["status"]["readyReplicas"]
    return count
