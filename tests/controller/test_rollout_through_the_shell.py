"""Whole rollouts through observe, plan and act, on a fake API server."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llmrollouts.api import labels
from llmrollouts.kube.port import DEPLOYMENT, LLM_DEPLOYMENT
from tests.controller.shell import Shell, make_deployment
from tests.fakes.kube_faults import API_ERRORS, CRASHES, Call, Fault

Story = Callable[[Shell], Awaitable[None]]


@pytest.fixture
def shell() -> Shell:
    return Shell()


async def serve_v1(shell: Shell) -> None:
    shell.apply(make_deployment("v1"))
    await shell.run_until(lambda: shell.is_serving("v1"))


async def roll_out(shell: Shell) -> None:
    await serve_v1(shell)
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.is_serving("v2"))


async def roll_back(shell: Shell) -> None:
    await serve_v1(shell)
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.status().get("share") == "0.5%")
    shell.command("rollback/1")
    await shell.run_until(
        lambda: shell.is_serving("v1") and shell.status().get("phase") == "Degraded"
    )


async def test_a_rollout_goes_through_every_step_to_a_hundred_percent(shell: Shell) -> None:
    await roll_out(shell)
    asked = {
        r.share.ppm
        for traffic in shell.process.traffic.asked
        for r in traffic.revisions
        if r.revision == shell.revision_of("v2")
    }
    assert {0, 5_000, 500_000, 1_000_000} <= asked
    names = [d["metadata"]["name"] for d in shell.kube.objects(DEPLOYMENT, "prod")]
    assert names == [labels.child_name("chat", str(shell.revision_of("v2")))]


async def test_a_rollback_command_lowers_the_share_before_it_is_committed(shell: Shell) -> None:
    await serve_v1(shell)
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.status().get("share") == "50%")
    uid, canary = shell.uid(), str(shell.revision_of("v2"))
    assert shell.process.traffic.share(uid, canary) == 500_000
    shell.command("rollback/1")
    # The API server refuses the commit: the users are safe all the same.
    shell.kube.faults.fail(Fault.BROKEN, "replace_status", times=1)
    await shell.process.round()
    assert shell.process.traffic.share(uid, canary) == 0
    assert shell.status()["share"] == "50%"
    await shell.run_until(lambda: shell.is_serving("v1"))
    assert shell.end_state()["records"].count((f"chat-{canary}", True)) == 1


async def test_a_command_is_carried_out_once_and_removed(shell: Shell) -> None:
    await serve_v1(shell)
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.status().get("share") == "0.5%")
    shell.command("pause/1")
    await shell.process.settle()
    annotations = shell.deployment()["metadata"]["annotations"]
    assert labels.COMMAND not in annotations
    assert annotations[labels.COMMAND_SEQUENCE] == str(shell.status()["command"]["sequence"])
    assert shell.status()["paused"] is True


async def test_nothing_is_written_once_everything_is_settled(shell: Shell) -> None:
    await serve_v1(shell)
    await shell.process.settle()
    shell.pass_time(100)
    before = len([call for call in shell.kube.calls if call.is_write])
    await shell.process.round()
    await shell.process.round()
    assert len([call for call in shell.kube.calls if call.is_write]) == before


async def test_a_round_renews_the_lease_and_without_rounds_the_share_falls_to_zero(
    shell: Shell,
) -> None:
    await serve_v1(shell)
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.status().get("share") == "0.5%")
    await shell.process.round()
    uid, canary = shell.uid(), str(shell.revision_of("v2"))
    assert shell.process.traffic.share(uid, canary) == 5_000
    shell.pass_time(8.5)
    assert shell.process.traffic.share(uid, canary) == 0


async def test_rounds_that_fail_do_not_renew_the_lease(shell: Shell) -> None:
    await serve_v1(shell)
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.status().get("share") == "0.5%")
    uid, canary = shell.uid(), str(shell.revision_of("v2"))
    shell.kube.faults.fail(Fault.FORBIDDEN, "list", "Pod", times=1000)
    for _ in range(5):
        await shell.process.round()
        shell.pass_time(2)
    assert shell.process.traffic.share(uid, canary) == 0


async def test_r12_a_deleted_deployment_leaves_nothing_behind(shell: Shell) -> None:
    await roll_out(shell)
    uid = shell.uid()
    shell.kube.remove(LLM_DEPLOYMENT, "prod", "chat")
    await shell.process.round()
    assert uid not in shell.process.traffic.programmed
    assert shell.process.telemetry.known() == frozenset()
    assert shell.process.reconciler.known() == frozenset()
    assert shell.kube.objects(DEPLOYMENT) == []


async def test_a_deployment_made_again_under_its_name_starts_afresh(shell: Shell) -> None:
    await serve_v1(shell)
    old = shell.uid()
    shell.kube.remove(LLM_DEPLOYMENT, "prod", "chat")
    shell.apply(make_deployment("v2"))
    await shell.run_until(lambda: shell.is_serving("v2"))
    assert shell.process.traffic.forgotten == [old]
    assert list(shell.process.traffic.programmed) == [shell.uid()]


async def count_writes(story: Story) -> tuple[int, Any]:
    shell = Shell()
    await story(shell)
    writes = len([call for call in shell.kube.calls if call.is_write])
    return writes, shell.end_state()


async def crash_at(story: Story, number: int, fault: Fault, expected: Any) -> None:
    shell = Shell()
    shell.kube.faults.at_write(number, fault)
    await story(shell)
    assert shell.epoch == 2, f"no crash at write {number}"
    assert shell.end_state() == expected, f"{fault} at write {number}"
    assert_never_above_its_step(shell)


async def fail_at(story: Story, call: Call, fault: Fault, expected: Any) -> None:
    shell = Shell()
    shell.kube.faults.at_call(call.number, fault)
    await story(shell)
    assert shell.end_state() == expected, f"{fault} at {call}"
    assert_never_above_its_step(shell)


@pytest.mark.parametrize("story", [roll_out, roll_back])
async def test_the_end_is_the_same_after_a_crash_at_each_write(story: Story) -> None:
    """Before and after in turn: after one write is before the next, but for reads between."""
    writes, expected = await count_writes(story)
    assert writes > 10
    for number, fault in zip(range(1, writes + 1), itertools.cycle(CRASHES), strict=False):
        await crash_at(story, number, fault, expected)


@pytest.mark.thorough
@pytest.mark.parametrize("story", [roll_out, roll_back])
@pytest.mark.parametrize("fault", CRASHES)
async def test_the_end_is_the_same_after_each_crash_at_each_write(
    story: Story, fault: Fault
) -> None:
    writes, expected = await count_writes(story)
    for number in range(1, writes + 1):
        await crash_at(story, number, fault, expected)


@pytest.mark.parametrize("story", [roll_out, roll_back])
async def test_the_end_is_the_same_after_an_error_of_the_api_at_any_call(story: Story) -> None:
    """Each call that is tried fails in one way, each way in turn."""
    clean = Shell()
    await story(clean)
    calls = calls_to_try(clean.kube.calls)
    assert len(calls) > len(API_ERRORS)
    for call, fault in zip(calls, itertools.cycle(API_ERRORS), strict=False):
        await fail_at(story, call, fault, clean.end_state())


@pytest.mark.thorough
@pytest.mark.parametrize("story", [roll_out, roll_back])
@pytest.mark.parametrize("fault", API_ERRORS)
async def test_the_end_is_the_same_after_each_error_of_the_api_at_each_call(
    story: Story, fault: Fault
) -> None:
    clean = Shell()
    await story(clean)
    for call in calls_to_try(clean.kube.calls):
        await fail_at(story, call, fault, clean.end_state())


def calls_to_try(calls: list[Call]) -> list[Call]:
    """Of calls that are alike (the same verb and kind) every third write and every 25th read, the
    first and the last included: a failure leaves the same world behind for those between."""
    alike: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        alike.setdefault((call.verb, call.kind), []).append(call)
    tried = set()
    for group in alike.values():
        tried |= {*group[:: 3 if group[0].is_write else 25], group[-1]}
    return sorted(tried, key=lambda call: call.number)


def assert_never_above_its_step(shell: Shell) -> None:
    """No share that was ever asked for is one that no step and no promotion names."""
    for traffic in shell.process.traffic.asked:
        for revision in traffic.revisions:
            assert revision.share.ppm in (0, 5_000, 500_000, 1_000_000), traffic
