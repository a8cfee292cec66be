"""The measurement of one rollout, second by second, on the launcher's real pages."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmrollouts.api import labels
from llmrollouts.controller.measure import SAVE_EVERY
from llmrollouts.controller.memory import LOST_AFTER
from llmrollouts.kube.port import CONFIG_MAP
from llmrollouts.metrics.record import EvidenceRecord
from tests.controller.gate_world import CANARY, STABLE, UID, World
from tests.fakes.kube_faults import Fault
from tests.fakes.taps import Law


async def comparing(**how: Any) -> World:
    """A world whose baseline is collected and whose canary has had its first requests."""
    world = World(**how)
    await world.warm_up()
    await world.run_until("Passed", limit=20)
    return world


def stored(world: World) -> EvidenceRecord:
    found = world.kube.peek(CONFIG_MAP, "prod", "chat-evidence")
    assert found is not None
    return EvidenceRecord.from_data(found["data"])


async def restart(world: World) -> None:
    """The operator dies between two seconds; what was on its way to the store has arrived."""
    await asyncio.sleep(0.01)
    world.start()


async def test_a_good_canary_passes_and_is_shown_to_be_no_worse() -> None:
    world = await comparing()
    gate = await world.run(40)
    assert (gate.verdict, gate.proof) == ("Passed", "Collecting")
    assert gate.numbers is not None
    assert gate.numbers.canary_requests > 300
    for _ in range(30):
        gate = await world.run(10)
        if gate.proof == "Proven":
            break
    assert (gate.verdict, gate.proof, gate.reason) == ("Passed", "Proven", "Proven")


@pytest.mark.parametrize(
    ("law", "reason", "within"),
    [
        (Law(ttft=0.19), "Slower", 25),
        (Law(failing=0.2), "MoreErrors", 25),
        (Law(hangs=True), None, 25),
    ],
    ids=["twice as slow", "failing", "hanging"],
)
async def test_harm_is_found_and_wakes_a_round_at_once(
    law: Law, reason: str | None, within: int
) -> None:
    world = await comparing()
    await world.run(10)
    began, nudges = world.time, world.nudges
    world.canary_law = law
    assert await world.run_until("Failed") <= within
    assert world.nudges == nudges + 1
    (gate,) = world.measurement.gates()
    assert reason in (None, gate.reason)
    assert gate.first_seen_at is not None
    assert gate.detected_at is not None
    assert began - 15 <= gate.first_seen_at.timestamp() <= gate.detected_at.timestamp()
    # Once found it stays found, and nobody is woken for the same news again.
    assert (await world.run(5)).verdict == "Failed"
    assert world.nudges == nudges + 1


async def test_both_slow_together_is_nobodys_fault() -> None:
    world = await comparing()
    world.law = world.canary_law = Law(ttft=0.4)
    assert (await world.run(40)).verdict == "Passed"


async def test_r09_too_few_requests_say_how_many_are_missing_and_how_long_that_takes() -> None:
    world = World(rate=0.5)
    await world.warm_up(30)
    gate = await world.run(20)
    assert (gate.verdict, gate.reason) == ("Inconclusive", "TooFewSamples")
    assert "more requests on stable" in gate.message
    assert "at this rate" in gate.message


async def test_r11_no_worker_answers_at_the_start_and_nothing_passes() -> None:
    world = World()
    for tap in (*world.stable, *world.canary):
        tap.silent = True
    gate = await world.run(20)
    assert (gate.verdict, gate.reason) == ("Error", "GateError")
    assert "s0 did not answer" in gate.message
    for tap in (*world.stable, *world.canary):
        tap.silent = False
    assert await world.run_until("Passed") > 0


async def test_r24_a_selector_that_finds_no_worker_is_named() -> None:
    world = await comparing()
    world.gone = {"c0"}
    gate = await world.second()
    assert (gate.verdict, gate.reason) == ("Error", "NoWorkerFound")
    assert f"{labels.DEPLOYMENT}=chat,{labels.REVISION}={CANARY}" in gate.message
    world.gone = {"s0", "s1", "s2", "s3"}
    world.stage = f"{CANARY}/1/2-Canary-50000"
    gate = await world.second()
    assert f"{labels.REVISION}={STABLE}" in gate.message


async def test_a_canary_whose_taps_fall_silent_is_an_error_never_a_pass() -> None:
    world = await comparing()
    world.canary[0].silent = True
    gate = await world.run(6)
    assert (gate.verdict, gate.reason) == ("Error", "GateError")
    assert "c0 did not answer" in gate.message
    world.canary[0].silent = False
    assert (await world.run(3)).verdict == "Passed"


async def test_an_image_with_neither_tap_nor_metrics_is_said_and_proves_nothing() -> None:
    world = World()
    for tap in (*world.stable, *world.canary):
        tap.sampler.heard = False
    gate = await world.run(5)
    assert (gate.verdict, gate.reason, gate.proof) == ("Inconclusive", "NoTap", "Collecting")
    assert "no page of metrics either" in gate.message


async def test_a_canary_that_is_idler_is_not_passed_and_proves_nothing() -> None:
    world = World()
    await world.warm_up()
    world.canary_rate = 4.0
    gate = await world.run(60)
    assert (gate.verdict, gate.reason) == ("Inconclusive", "LoadNotMatched")
    assert stored_proof(world) == {}


async def test_in_a_shadow_step_an_idle_canary_passes_but_proves_nothing() -> None:
    world = World()
    world.stage = f"{CANARY}/1/0-Shadow-50000"
    await world.warm_up()
    world.canary_rate = 4.0
    gate = await world.run(60)
    assert (gate.verdict, gate.proof) == ("Passed", "Collecting")
    assert "so they prove nothing" in gate.message
    assert stored_proof(world) == {}


def stored_proof(world: World) -> dict[str, object]:
    return stored(world).proof.to_plain()


async def test_workers_that_count_otherwise_than_the_gateways_are_not_believed() -> None:
    world = await comparing()
    for _ in range(70):
        world.gateways.count(CANARY, 4, 0)
        gate = await world.second()
    assert (gate.verdict, gate.reason) == ("Error", "MeasurementDisagrees")


async def test_refused_connections_are_seen_by_the_gateways_counts_alone() -> None:
    world = await comparing()
    world.canary_rate = 0.0
    began = world.time
    for _ in range(30):
        world.gateways.count(CANARY, 20, 0, errors=20)
        if (await world.second()).verdict == "Failed":
            break
    (gate,) = world.measurement.gates()
    assert (gate.verdict, gate.reason) == ("Failed", "MoreErrors")
    assert world.time - began <= 10


async def test_evidence_is_restored_to_the_bit_and_the_gap_is_read_again() -> None:
    world = await comparing()
    await world.run(25)
    await asyncio.sleep(0.01)
    before = stored(world)
    assert before.state is not None
    await restart(world)
    await world.measurement._memory.load(world.measurement._store, "prod/chat")
    world.measurement._enter(world.assignment())
    compared = world.measurement._compared
    assert compared is not None
    assert compared.state.to_json() == before.state.to_json()
    assert compared.stage.to_json() == (before.stage.to_json() if before.stage else "")
    gate = await world.run(3)
    assert gate.numbers is not None
    # What came while nobody looked is not lost: workers remember it.
    assert gate.numbers.canary_requests > 20 * 20
    assert "half" not in gate.message
    assert stored(world).level == world.level


async def test_a_restart_after_the_verdict_still_knows_it() -> None:
    world = await comparing()
    world.canary_law = Law(failing=0.5)
    await world.run_until("Failed")
    await world.run(2)
    (before,) = world.measurement.gates()
    await restart(world)
    gate = await world.run(2)
    assert gate.verdict == "Failed"
    assert (gate.first_seen_at, gate.detected_at) == (before.first_seen_at, before.detected_at)


async def test_lost_evidence_begins_again_with_half_of_the_budget_and_says_so() -> None:
    world = await comparing()
    await world.run(int(LOST_AFTER) + 1)
    await asyncio.sleep(0.01)
    world.kube.remove(CONFIG_MAP, "prod", "chat-evidence")
    await restart(world)
    gate = await world.run(15)
    assert "half" in gate.message
    assert stored(world).level == world.level / 2
    # A further restart does not give it back.
    await restart(world)
    gate = await world.run(3)
    assert "half" in gate.message
    assert stored(world).level == world.level / 2


async def test_evidence_that_cannot_be_read_is_lost_evidence() -> None:
    world = await comparing()
    await world.run(int(LOST_AFTER) + 1)
    await asyncio.sleep(0.01)

    def spoil(found: dict[str, Any]) -> None:
        found["data"] = {"evidence.json": '{"format": 1}'}

    world.kube.edit(CONFIG_MAP, "prod", "chat-evidence", spoil)
    await restart(world)
    assert "half" in (await world.run(3)).message


async def test_a_strangers_config_map_is_neither_read_nor_overwritten() -> None:
    world = World()
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "prod", "name": "chat-evidence"},
        "data": {"mine": "yes"},
    }
    world.kube.put(CONFIG_MAP, manifest)
    await world.warm_up()
    gate = await world.run(int(SAVE_EVERY) + 5)
    assert "belongs to somebody else" in gate.message
    found = world.kube.peek(CONFIG_MAP, "prod", "chat-evidence")
    assert found is not None
    assert found["data"] == {"mine": "yes"}


async def test_while_the_api_server_is_away_nothing_begins_from_nothing() -> None:
    world = World()
    await world.warm_up()
    world.kube.faults.fail(Fault.BROKEN, "get", times=5)
    gate = await world.run(5)
    assert (gate.verdict, gate.reason) == ("Inconclusive", "GateError")
    assert await world.run_until("Passed") > 0


async def test_the_next_stage_carries_the_proof_and_a_new_attempt_does_not() -> None:
    world = await comparing()
    await world.run(60)
    proof = stored_after(world)
    world.stage = f"{CANARY}/1/2-Canary-50000"
    await world.run(5)
    compared = world.measurement._compared
    assert compared is not None
    for key, requests in proof.items():
        assert compared.state.proof.requests[key] >= requests
    world.stage = f"{CANARY}/2/0-Shadow-50000"
    await world.run(1)
    assert world.measurement._memory.proof.requests == {}


def stored_after(world: World) -> dict[str, int]:
    compared = world.measurement._compared
    assert compared is not None
    assert compared.state.proof.requests
    return dict(compared.state.proof.requests)


async def test_a_control_worker_that_dies_is_not_replaced_in_this_stage() -> None:
    world = await comparing(stable=6)
    assert len(compared_control(world)) == 4
    world.gone = {sorted(compared_control(world).values())[0]}
    await world.run(5)
    assert len(compared_control(world)) == 3
    world.gone = set()
    await world.run(15)
    assert len(compared_control(world)) == 3
    assert (await world.second()).verdict == "Passed"


def compared_control(world: World) -> dict[str, str]:
    compared = world.measurement._compared
    assert compared is not None
    return compared.control


async def test_cold_workers_are_not_compared_until_they_are_warm() -> None:
    world = World(canary=2)
    world.cold = {"c1"}
    await world.warm_up()
    await world.run_until("Passed", limit=20)
    compared = world.measurement._compared
    assert compared is not None
    assert set(compared.canary.values()) == {"c0"}
    world.cold = set()
    await world.run(2)
    assert set(compared.canary.values()) == {"c0", "c1"}


async def test_observed_only_it_passes_and_says_what_it_would_have_done() -> None:
    world = World()
    world.options = {"observes": True}
    await world.warm_up()
    await world.run(10)
    world.canary_law = Law(failing=0.5)
    for _ in range(20):
        gate = await world.second()
        assert gate.verdict == "Passed"
    assert "only observed, else Failed" in gate.message
    assert gate.proof == "NotNeeded"


async def test_the_placebo_test_reports_and_decides_nothing() -> None:
    world = World()
    world.options = {"placebo": True}
    await world.warm_up()
    gate = await world.run(40)
    assert "placebo: the same test fired in 0 of 4 stages" in gate.message
    for tap in world.stable[:1]:
        tap.serve = _slow(tap.serve)  # type: ignore[method-assign]  # one stable worker is sick
    gate = await world.run(40)
    placebo = world.measurement.placebo()
    assert placebo is not None
    assert placebo.firings >= 1
    assert gate.verdict == "Passed"
    await asyncio.sleep(0.01)
    assert stored(world).placebo is not None


def _slow(serve: Any) -> Any:
    def slowly(at: float, law: Law, rng: Any, mirrored: bool = False) -> None:
        serve(at, replace(law, ttft=4 * law.ttft), rng, mirrored)

    return slowly


async def test_a_measurement_that_hangs_says_so() -> None:
    world = await comparing()
    world.time += 30
    (gate,) = world.measurement.gates()
    assert (gate.verdict, gate.reason) == ("Error", "GateError")
    assert "30s ago" in gate.message


async def test_a_level_of_nothing_is_said_and_passes_nothing() -> None:
    world = World()
    world.level = 0.0
    await world.warm_up()
    gate = await world.run(6)
    assert gate.verdict == "Error"
    assert "retry" in gate.message


async def test_the_record_is_small_owned_and_unlike_a_child() -> None:
    world = await comparing()
    await world.run(30)
    await asyncio.sleep(0.01)
    found = world.kube.peek(CONFIG_MAP, "prod", "chat-evidence")
    assert found is not None
    assert labels.DEPLOYMENT not in found["metadata"]["labels"]
    assert found["metadata"]["ownerReferences"][0]["uid"] == UID
    assert len(found["data"]["evidence.json"]) < 60_000
    at = datetime.fromisoformat(stored(world).saved_at)
    assert datetime.fromtimestamp(world.time, UTC) - at <= timedelta(seconds=SAVE_EVERY + 1)
