"""R26: whatever is wrong with one object, it gets a condition, keeps its traffic, and the others
go on."""

from __future__ import annotations

from datetime import datetime
from functools import partial

import pytest

from llmrollouts.api.settings import OperatorSettings
from llmrollouts.controller.keys import Key
from llmrollouts.controller.queue import BackOff, Settled
from llmrollouts.kube.port import LLM_DEPLOYMENT
from llmrollouts.rollout.effects import Plan
from llmrollouts.rollout.observation import Observation
from llmrollouts.rollout.plan import plan
from tests.controller.shell import KEY, Shell, make_deployment
from tests.fakes.kube_faults import Fault

GOOD = Key("prod", "good")


def buggy_plan(
    observation: Observation, settings: OperatorSettings, now: datetime, epoch: int
) -> Plan:
    """A bug that one object alone brings out."""
    if observation.deployment.name == KEY.name:
        raise ZeroDivisionError("division by zero")
    return plan(observation, settings, now, epoch)


@pytest.fixture
async def shell() -> Shell:
    shell = Shell()
    for key in (KEY, GOOD):
        shell.apply(make_deployment("v1", key))
        await shell.run_until(partial(shell.is_serving, "v1", key), key)
    return shell


async def test_r26_a_bug_with_one_object_is_told_there_and_stops_no_other(shell: Shell) -> None:
    process = shell.start(buggy_plan)
    await process.take_over()
    assert isinstance(await process.round(KEY), BackOff)
    condition = shell.condition("Reconciled")
    assert condition["status"] == "False"
    assert condition["reason"] == "ReconcileError"
    assert "ZeroDivisionError" in condition["message"]
    shell.apply(make_deployment("v2", GOOD))
    await shell.run_until(lambda: shell.is_serving("v2", GOOD), GOOD)


async def test_r26_an_object_with_a_bug_keeps_its_traffic_and_follows_its_workers(
    shell: Shell,
) -> None:
    process = shell.start(buggy_plan)
    await process.take_over()
    uid = shell.uid()
    stable = shell.revision_of("v1")
    assert process.traffic.programmed[uid].default == stable
    pod = shell.workers.pods("prod", f"chat-{stable}")[0]["metadata"]["name"]
    shell.workers.set_ready("prod", pod, False)
    await process.round(KEY)
    endpoints = process.traffic.programmed[uid].revisions[0].endpoints
    assert len(endpoints) == 1
    assert endpoints[0].pod != pod


async def test_the_complaint_is_gone_after_the_first_good_round(shell: Shell) -> None:
    await shell.start(buggy_plan).round(KEY)
    assert shell.condition("Reconciled")
    await shell.start().round(KEY)
    assert not shell.condition("Reconciled")


async def test_the_complaint_is_written_once(shell: Shell) -> None:
    process = shell.start(buggy_plan)
    await process.round(KEY)
    version = shell.deployment()["metadata"]["resourceVersion"]
    shell.pass_time(60)
    await process.round(KEY)
    assert shell.deployment()["metadata"]["resourceVersion"] == version


async def test_a_spec_that_cannot_be_read_gets_a_condition_and_keeps_its_traffic(
    shell: Shell,
) -> None:
    def poison(found: dict[str, object]) -> None:
        found["spec"] = {"replicas": "many"}

    shell.kube.edit(LLM_DEPLOYMENT, KEY.namespace, KEY.name, poison)
    process = shell.start()
    await process.take_over()
    assert isinstance(await process.round(KEY), Settled)
    assert shell.condition("SourceResolved")["reason"] == "InvalidSpec"
    assert process.traffic.programmed[shell.uid()].default == shell.revision_of("v1")


async def test_a_status_edited_to_nonsense_is_rebuilt_from_the_children(shell: Shell) -> None:
    def poison(found: dict[str, object]) -> None:
        found["status"] = {"stableRevision": 7, "conditions": "none", "step": []}

    shell.kube.edit(LLM_DEPLOYMENT, KEY.namespace, KEY.name, poison, status=True)
    process = shell.start()
    await process.take_over()
    await process.settle(KEY)
    assert shell.status()["stableRevision"] == shell.revision_of("v1")
    assert shell.workers.created == 4  # no worker was restarted


async def test_a_write_that_is_forbidden_is_told_with_what_the_server_said(shell: Shell) -> None:
    shell.apply(make_deployment("v2"))
    shell.kube.faults.fail(Fault.FORBIDDEN, "create", "ControllerRevision", times=100)
    outcome = await shell.process.round(KEY)
    assert isinstance(outcome, BackOff)
    assert outcome.first >= 5
    condition = shell.condition("Reconciled")
    assert condition["reason"] == "APIRejected"
    assert "Forbidden" in condition["message"]
    shell.kube.faults.clear()
    await shell.run_until(lambda: shell.is_serving("v2"))


async def test_r26_telling_the_user_may_fail_too(shell: Shell) -> None:
    process = shell.start(buggy_plan)
    shell.kube.faults.down = True
    assert isinstance(await process.round(KEY), BackOff)
    shell.kube.faults.clear()
    shell.kube.faults.fail(Fault.FORBIDDEN, "replace_status")
    assert isinstance(await process.round(KEY), BackOff)
