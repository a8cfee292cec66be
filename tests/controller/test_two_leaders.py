"""R14: an old leader beside a new one neither writes nor programs anything."""

from __future__ import annotations

from datetime import datetime

import pytest

from llmrollouts.api.settings import OperatorSettings
from llmrollouts.kube.port import LLM_DEPLOYMENT
from llmrollouts.rollout.effects import Plan
from llmrollouts.rollout.observation import Observation
from llmrollouts.rollout.plan import plan
from tests.controller.shell import KEY, Shell, make_deployment


@pytest.fixture
async def shell() -> Shell:
    shell = Shell()
    shell.apply(make_deployment("v1"))
    await shell.run_until(lambda: shell.is_serving("v1"))
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.status().get("share") == "0.5%")
    return shell


async def test_r14_a_leader_that_lost_its_lease_writes_nothing_and_ends(shell: Shell) -> None:
    old = shell.process
    shell.command("promote-full:" + str(shell.revision_of("v2")))
    old.leadership.lost = True
    asked, calls = len(old.traffic.asked), len(shell.kube.calls)
    await old.round()
    assert old.stopped
    assert len(old.traffic.asked) == asked
    assert not [call for call in shell.kube.calls[calls:] if call.is_write]


@pytest.mark.parametrize("moment", ["replace_status", "patch", "apply"])
async def test_r14_the_lease_is_asked_for_before_each_write(shell: Shell, moment: str) -> None:
    """The lease runs out in the middle of a round, while a request is under way."""
    old = shell.process
    shell.command("promote-full:" + str(shell.revision_of("v2")))
    calls = len(shell.kube.calls)

    def lose(event: str, kind: object, manifest: object) -> None:
        made = shell.kube.calls[-1]
        old.leadership.lost |= made.number > calls and made.verb == moment

    shell.kube.watch(lose)
    for _ in range(6):
        if old.leadership.lost:
            break
        await old.round()
    assert old.leadership.lost, f"no {moment} in these rounds"
    after = len(shell.kube.calls)
    asked = len(old.traffic.asked)
    await old.round()
    assert not [call for call in shell.kube.calls[after:] if call.is_write]
    assert len(old.traffic.asked) == asked


async def test_r14_of_two_rounds_on_one_reading_only_one_commits(shell: Shell) -> None:
    """A frozen leader thaws between its reading and its write: the other wrote meanwhile."""
    written: list[str] = []

    def meddle(
        observation: Observation, settings: OperatorSettings, now: datetime, epoch: int
    ) -> Plan:
        written.append(f"another leader was here {len(written)}")

        def touch(found: dict[str, dict[str, object]]) -> None:
            found["status"]["message"] = written[-1]

        shell.kube.edit(LLM_DEPLOYMENT, KEY.namespace, KEY.name, touch, status=True)
        return plan(observation, settings, now, epoch)

    shell.command("rollback/1")
    frozen = shell.start(meddle)
    await frozen.take_over()
    await frozen.round()
    assert shell.status()["message"] == written[-1]
    assert shell.status()["share"] == "0.5%"
    uid, canary = shell.uid(), str(shell.revision_of("v2"))
    assert frozen.traffic.share(uid, canary) == 0  # the safe direction needs no commit


async def test_a_status_of_a_later_epoch_is_outranked_only_by_whoever_holds_the_lease(
    shell: Shell,
) -> None:
    def age(found: dict[str, dict[str, object]]) -> None:
        found["status"]["epoch"] = 40

    shell.kube.edit(LLM_DEPLOYMENT, KEY.namespace, KEY.name, age, status=True)
    await shell.process.round()
    assert shell.process.leadership.outranked == [40]
    assert not shell.process.stopped
    assert shell.process.leadership.epoch == 41


async def test_a_new_leader_restores_committed_shares_and_does_not_rewrite_settled_statuses(
    shell: Shell,
) -> None:
    uid, canary = shell.uid(), str(shell.revision_of("v2"))
    new = shell.start()
    await new.take_over()
    assert new.traffic.share(uid, canary) == 5_000
    shell.command("rollback/1")
    await shell.run_until(lambda: shell.is_serving("v1"))
    version = shell.deployment()["metadata"]["resourceVersion"]
    newer = shell.start()
    await newer.take_over()
    await newer.round()
    assert shell.deployment()["metadata"]["resourceVersion"] == version
