"""What a running step can find at its real rate: in the status, and an Event when nothing."""

from __future__ import annotations

import pytest

from llmrollouts.analysis.reach import Reach
from tests.rollout.scenarios import in_step
from tests.rollout.test_gates import PATIENT, index
from tests.rollout.world import World

SEEING = Reach("4.2", "2x slower within 19 s", False, "With 4.2 requests this step finds 2x")
BLIND = Reach("0.01", "", True, "With 0.01 compared canary requests a second it can find nothing")


def warnings(world: World) -> list[str]:
    return [notice.message for notice in world.notices if notice.reason == "StepIsBlind"]


def test_the_status_says_what_the_step_can_find_and_nobody_is_warned() -> None:
    world = in_step(1, latency="Enforce", steps=PATIENT)
    world.latency.say("Passed", "NoHarm", "no harm seen")
    world.latency.power = SEEING
    world.run(seconds=20)
    power = world.status.gates[0].power
    assert power is not None
    assert (power.requests_per_second, power.finds, power.blind) == (
        "4.2",
        "2x slower within 19 s",
        False,
    )
    assert power.message == SEEING.message
    assert warnings(world) == []


def test_a_blind_step_is_told_once_and_says_what_to_do() -> None:
    world = in_step(1, latency="Enforce", steps=PATIENT)
    world.latency.say("Passed", "NoHarm", "no harm seen")
    world.latency.power = BLIND
    world.run(seconds=300)
    # Neither a better moment nor another operator makes it news again.
    world.latency.power = SEEING
    world.run(seconds=60)
    world.latency.power = BLIND
    world.restart()
    world.run(seconds=120)
    [told] = warnings(world)
    assert told.startswith("Canary step 2 of 3, gate latency: With 0.01 compared canary requests")
    assert told.endswith("make it longer or raise its share")
    assert next(n.kind for n in world.notices if n.reason == "StepIsBlind") == "Warning"
    assert index(world) == 1, "it decides nothing"


def test_each_blind_step_is_told() -> None:
    world = in_step(0, latency="Enforce")
    world.latency.say("Passed", "NoHarm", "no harm seen", "Proven")
    world.latency.power = BLIND
    world.run(lambda w: index(w) == 2, seconds=600)
    world.run(seconds=20)
    assert len(warnings(world)) == 3


def test_an_observed_gate_warns_of_nothing_and_is_shown() -> None:
    world = in_step(1, latency="Observe", steps=PATIENT)
    world.latency.power = BLIND
    world.run(seconds=30)
    assert warnings(world) == []
    power = world.status.gates[0].power
    assert power is not None
    assert power.blind


@pytest.mark.parametrize("changing", [False, True])
def test_power_that_changes_all_the_time_writes_the_status_no_more_often(changing: bool) -> None:
    world = in_step(1, latency="Enforce", steps=PATIENT)
    world.latency.say("Passed", "NoHarm", "no harm seen")
    world.latency.power = SEEING
    world.run(seconds=100)
    before = world.writes
    for second in range(50):
        if changing:
            world.latency.power = Reach(f"{second}", "2x slower", False, f"look {second}")
        world.run(seconds=2)
    assert 8 <= world.writes - before <= 13
