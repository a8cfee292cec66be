"""A rollback's way past the rounds: one request, then the share is 0, and no round raises it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmrollouts.api.manifest import Manifest
from llmrollouts.controller.queue import Again
from llmrollouts.kube.port import LLM_DEPLOYMENT, POD, Kind
from tests.controller.shell import KEY, Shell, make_deployment
from tests.fakes.kube_faults import API_ERRORS, Fault


@pytest.fixture
async def shell() -> Shell:
    """In a step of 50 %."""
    shell = Shell()
    shell.apply(make_deployment("v1"))
    await shell.run_until(lambda: shell.is_serving("v1"))
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.status().get("share") == "50%")
    await shell.process.round()
    assert share(shell) == 500_000
    return shell


def share(shell: Shell) -> int:
    return shell.process.traffic.share(shell.uid(), str(shell.revision_of("v2")))


def reads(shell: Shell) -> list[tuple[str, str]]:
    return [(call.verb, call.kind) for call in shell.kube.calls]


async def test_one_request_lowers_the_share_and_the_round_does_the_rest(shell: Shell) -> None:
    shell.command("rollback/1")
    before = len(shell.kube.calls)
    await shell.process.fast_lane.look(KEY)
    assert reads(shell)[before:] == [("get", "LLMDeployment")]
    assert share(shell) == 0
    assert shell.status()["share"] == "50%", "nothing is committed yet"
    await shell.run_until(lambda: shell.is_serving("v1"))
    assert shell.status()["command"]["result"] == "Done"
    assert shell.status()["lastRollback"]["rejects"] is True


@pytest.mark.parametrize("command", ["rollback:zzzzzzzzzz", "pause", "retry:x", "nonsense:::"])
async def test_any_other_command_and_a_refused_one_lower_nothing(
    shell: Shell, command: str
) -> None:
    shell.command(command)
    await shell.process.fast_lane.look(KEY)
    assert share(shell) == 500_000


async def test_a_spec_that_cannot_be_used_is_left_to_the_round(shell: Shell) -> None:
    def spoil(found: Manifest) -> None:
        found["spec"]["replicas"] = "many"

    shell.kube.edit(LLM_DEPLOYMENT, KEY.namespace, KEY.name, spoil, "kubectl-edit")
    shell.command("rollback/1")
    await shell.process.fast_lane.look(KEY)
    assert share(shell) == 500_000


async def test_a_round_that_had_read_before_the_command_does_not_raise_the_share_again(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round has read everything when the command comes, and is still waiting."""
    real, process = shell.process.observer._reader.list, shell.process

    async def slow(kind: Kind, *where: object) -> Sequence[Manifest]:
        found = await real(kind, *where)  # type: ignore[arg-type]
        if kind is POD:
            shell.command("rollback/1")
            await process.fast_lane.look(KEY)
            assert share(shell) == 0
        return found

    monkeypatch.setattr(process.observer._reader, "list", slow)
    outcome = await process.round()
    monkeypatch.undo()
    assert isinstance(outcome, Again)
    assert share(shell) == 0
    assert shell.status()["share"] == "50%", "it has lost, so it has committed nothing"
    await process.round()
    assert share(shell) == 0
    assert shell.status().get("share") is None


async def test_a_round_that_is_committing_when_the_command_comes_does_not_raise_the_share(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = shell.process
    commit = process.reconciler._actor._commit

    async def slow(*given: object) -> None:
        await commit(*given)  # type: ignore[arg-type]
        shell.command("rollback/1")
        await process.fast_lane.look(KEY)

    monkeypatch.setattr(process.reconciler._actor, "_commit", slow)
    assert isinstance(await process.round(), Again)
    monkeypatch.undo()
    assert share(shell) == 0
    await shell.run_until(lambda: shell.is_serving("v1"))


async def test_a_replica_that_does_not_lead_any_more_lowers_nothing(shell: Shell) -> None:
    shell.command("rollback/1")
    shell.process.leadership.lost = True
    await shell.process.fast_lane.look(KEY)
    assert share(shell) == 500_000


@pytest.mark.parametrize("fault", API_ERRORS)
async def test_r26_a_look_that_fails_is_left_to_the_round(shell: Shell, fault: Fault) -> None:
    shell.command("rollback/1")
    shell.kube.faults.fail(fault, "get", "LLMDeployment", times=1)
    await shell.process.fast_lane.look(KEY)
    await shell.run_until(lambda: shell.is_serving("v1"))


async def test_an_object_that_breaks_a_look_is_counted_and_left_to_the_round(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_it(*_: object) -> Manifest:
        return {"metadata": {}}

    monkeypatch.setattr(shell.process.observer._reader, "get", break_it)
    await shell.process.fast_lane.look(KEY)
    monkeypatch.undo()
    assert share(shell) == 500_000
    registry = shell.process.telemetry.registry
    assert registry.get_sample_value("llmrollouts_bugs_total") == 1.0


async def test_it_is_open_only_where_users_could_be_lowered(shell: Shell) -> None:
    lane = shell.process.fast_lane
    assert lane.is_open(KEY, shell.uid())
    assert not lane.is_open(KEY, None)
    assert not lane.is_open(KEY, "unknown")
    shell.command("rollback/1")
    await lane.look(KEY)
    assert not lane.is_open(KEY, shell.uid())


async def test_rounds_give_way_to_looks_but_not_for_ever(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, answer = shell.process.fast_lane, asyncio.Event()
    real = shell.process.observer._reader.get

    async def slow(*given: object) -> Manifest:
        await answer.wait()
        return await real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(shell.process.observer._reader, "get", slow)
    monkeypatch.setattr("llmrollouts.controller.fast_lane.GIVE_WAY", 0.05)
    await lane.give_way()
    look = asyncio.create_task(lane.look(KEY))
    await asyncio.sleep(0)
    assert not lane.is_open(KEY, shell.uid()), "one look at a time"
    await lane.give_way()
    assert not look.done(), "it waited for as long as it may"
    monkeypatch.setattr("llmrollouts.controller.fast_lane.GIVE_WAY", 60.0)
    waiting = asyncio.create_task(lane.give_way())
    await asyncio.sleep(0)
    answer.set()
    await asyncio.gather(look, waiting)
