"""Taking over, standing by and counting over: all deployments at once."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from llmrollouts.api.settings import OperatorSettings
from llmrollouts.controller.follow import Follower
from llmrollouts.controller.keys import Key
from llmrollouts.controller.observe import Objects, Sight
from llmrollouts.controller.queue import Settled
from llmrollouts.controller.resync import Resync
from llmrollouts.kube.port import DEPLOYMENT, LLM_DEPLOYMENT
from llmrollouts.rollout.effects import Plan
from llmrollouts.rollout.observation import Observation
from llmrollouts.rollout.plan import plan
from tests.controller.shell import KEY, SETTINGS, Shell, make_deployment

OTHERS = [Key("prod", f"chat-{number}") for number in range(5)]


@pytest.fixture
async def shell() -> Shell:
    shell = Shell()
    for key in (KEY, *OTHERS):
        shell.apply(make_deployment("v1", key))
        await shell.run_until(lambda: shell.is_serving("v1", key), key)  # noqa: B023 - awaited here
    return shell


async def test_a_take_over_programs_every_deployment_with_five_lists(shell: Shell) -> None:
    process = shell.start()
    before = len(shell.kube.calls)
    await process.take_over()
    assert [call.verb for call in shell.kube.calls[before:]] == ["list"] * 5
    defaults = {t.name: t.default for t in process.traffic.programmed.values()}
    assert defaults == {key.name: shell.revision_of("v1", key) for key in (KEY, *OTHERS)}
    assert all(len(t.revisions[0].endpoints) == 2 for t in process.traffic.programmed.values())


async def test_a_take_over_gives_the_elector_a_turn_after_each_deployment(shell: Shell) -> None:
    process = shell.start()
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    seen: list[int] = []
    real = process.observer.interpret

    async def interpret(key: Key, objects: Objects) -> Sight:
        seen.append(turns)
        return await real(key, objects)

    process.observer.interpret = interpret  # type: ignore[method-assign] # looks on, as it is
    elector = asyncio.create_task(take_turns())
    await process.take_over()
    elector.cancel()
    assert len(seen) == 1 + len(OTHERS)
    assert sorted(set(seen)) == seen, "a turn of the elector before each one"


async def test_r26_one_deployment_that_cannot_be_read_does_not_stop_the_take_over(
    shell: Shell,
) -> None:
    process = shell.start()
    real = process.observer.interpret

    async def interpret(key: Key, objects: object) -> object:
        if key == KEY:
            raise TypeError("a bug in reading")
        return await real(key, objects)  # type: ignore[arg-type]

    process.observer.interpret = interpret  # type: ignore[method-assign, assignment]
    await process.take_over()
    assert len(process.traffic.programmed) == len(OTHERS)


async def test_a_take_over_keeps_committed_shares_and_the_standby_shows_none(shell: Shell) -> None:
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.status().get("share") == "50%")
    uid, canary = shell.uid(), str(shell.revision_of("v2"))
    standby = shell.start()
    follower = Follower(
        standby.observer, standby.reconciler, standby.traffic, SETTINGS, now=shell.wall
    )
    calls = len(shell.kube.calls)
    assert await follower.follow(KEY) == Settled()
    assert not [call for call in shell.kube.calls[calls:] if call.is_write]
    assert standby.traffic.programmed[uid].default == shell.revision_of("v1")
    assert standby.traffic.share(uid, canary) == 0
    await standby.take_over()
    assert standby.traffic.share(uid, canary) == 500_000


async def test_a_standby_forgets_what_was_deleted(shell: Shell) -> None:
    standby = shell.start()
    follower = Follower(standby.observer, standby.reconciler, standby.traffic, SETTINGS)
    await follower.follow(KEY)
    uid = shell.uid()
    shell.kube.remove(LLM_DEPLOYMENT, KEY.namespace, KEY.name)
    await follower.follow(KEY)
    assert standby.traffic.forgotten == [uid]


async def test_a_plan_that_cannot_be_made_at_the_take_over_still_keeps_the_routes(
    shell: Shell,
) -> None:
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.status().get("share") == "50%")

    def buggy(
        observation: Observation, settings: OperatorSettings, now: datetime, epoch: int
    ) -> Plan:
        if observation.deployment.name == KEY.name:
            raise ZeroDivisionError
        return plan(observation, settings, now, epoch)

    process = shell.start(buggy)
    await process.take_over()
    assert process.traffic.programmed[shell.uid()].default == shell.revision_of("v1")
    assert process.traffic.share(shell.uid(), str(shell.revision_of("v2"))) == 0
    assert len(process.traffic.programmed) == 1 + len(OTHERS)


def make_resync(shell: Shell) -> tuple[Resync, list[Key]]:
    nudged: list[Key] = []
    process = shell.process
    resync = Resync(shell.kube, None, process.versions, process.reconciler.known, nudged.append)
    return resync, nudged


async def test_r12_the_resync_finds_what_vanished_and_what_appeared_unseen(shell: Shell) -> None:
    await shell.restart()
    resync, nudged = make_resync(shell)
    await resync.compare_keys()
    assert nudged == []
    shell.kube.remove(LLM_DEPLOYMENT, "prod", "chat-0")
    shell.apply(make_deployment("v1", Key("prod", "new")))
    await resync.compare_keys()
    assert nudged == [Key("prod", "chat-0"), Key("prod", "new")]
    await shell.process.round(nudged[0])
    assert Key("prod", "chat-0") not in shell.process.reconciler.known()


async def test_the_full_resync_finds_a_child_that_changed_unseen(shell: Shell) -> None:
    await shell.restart()
    resync, nudged = make_resync(shell)
    await resync.compare_all()
    assert nudged == []
    name = f"chat-3-{shell.revision_of('v1', OTHERS[3])}"
    shell.kube.edit(DEPLOYMENT, "prod", name, lambda found: found["spec"].update(replicas=1))
    await resync.compare_all()
    assert nudged == [OTHERS[3]]
    await shell.process.settle(OTHERS[3])
    found = shell.kube.peek(DEPLOYMENT, "prod", name)
    assert found is not None
    assert found["spec"]["replicas"] == 2
