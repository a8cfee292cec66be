"""What the fast lane lowers, the plan lowers as well; and what it leaves alone, it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, event, given, settings

from llmrollouts.api.share import NONE
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.fast_lane import lowers_at_once
from llmrollouts.rollout.intent import DeploymentTraffic, lowered
from llmrollouts.rollout.observation import Observation
from llmrollouts.rollout.plan import plan
from tests.rollout.scenarios import in_step, promoted
from tests.rollout.sight import observe
from tests.rollout.specs import SETTINGS, make_spec
from tests.rollout.world import World

STEPS: list[dict[str, object]] = [
    {"shadow": {"share": "5%", "duration": "6s", "minRequests": 1}},
    {"canary": {"share": "25%", "duration": "6s", "minRequests": 1}},
]
COMMANDS = (
    "rollback",
    "rollback/1",
    "rollback:<A>",
    "rollback:<B>",
    "rollback:zzzzzzzzzz",
    "rollback:",
    "rollback:<B>/2/3",
    "ROLLBACK",
    "pause",
    "retry:<B>",
    "promote:<B>",
    "promote-full:<B>",
    "nonsense:::",
)


def carries(traffic: DeploymentTraffic) -> dict[str, int]:
    """Parts per million, live and mirrored, by revision; without those that get none."""
    total = {r.revision: r.share.ppm + r.mirror.ppm for r in traffic.revisions}
    return {revision: ppm for revision, ppm in total.items() if ppm}


def lower(seen: Observation, epoch: int) -> DeploymentTraffic | None:
    return lowers_at_once(seen.deployment, seen.traffic.programmed, epoch)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Somewhere in a first rollout, a second or a promotion; perhaps tampered with; commanded."""
    world = World(make_spec(steps=STEPS, rollback_window="20s"), start_seconds=3.0)
    world.run(lambda w: w.status.phase == "Serving")
    world.edit(make_spec("two", steps=STEPS, rollback_window="20s"))
    world.run(lambda w: "<B>" in w.names.values())
    for _ in range(draw(st.integers(0, 32))):
        made = world.round()
        world.advance(min(max(made.wake_after or 5.0, 0.1), 2.0))
    command = draw(st.sampled_from(COMMANDS))
    if draw(st.booleans()):
        # An earlier one that was carried out, and whose removal was perhaps lost.
        world.say(draw(st.sampled_from(["pause", "resume", command])))
        world.round(crash_after=draw(st.sampled_from([1, 2, 3, 99])))
    world.say(command)
    world.command_applied = draw(st.integers(0, 4)) == 0
    if draw(st.integers(0, 3)) == 0:
        tamper(world, draw(st.integers(0, 6)))
    return world


def tamper(world: World, how: int) -> None:
    """Somebody edits the status or deletes children."""
    status = world.status
    match how:
        case 0:
            world.status = LLMDeploymentStatus()
        case 1:
            world.status = status.model_copy(update={"canary_revision": world.name("A")})
        case 2:
            world.status = status.model_copy(update={"stable_revision": world.name("B")})
        case 3:
            world.status = status.model_copy(update={"canary_revision": "zzzzzzzzzz"})
        case 4:
            del world.records[world.name("B")]
            world.workers.pop(world.name("B"), None)
        case 5:
            world.deleting = True
        case _:
            world.status = status.model_copy(update={"epoch": world.epoch + 1})


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(world=worlds())
def test_whatever_it_lowers_the_plan_lowers_and_it_changes_no_decision(world: World) -> None:
    seen = observe(world)
    before = seen.traffic.programmed
    lane = lower(seen, world.epoch)
    made = plan(seen, SETTINGS, world.now, world.epoch)
    if lane is None:
        event("left to the round")
        return
    event("lowered")
    assert before is not None
    assert lane == replace(
        before,
        revisions=tuple(replace(r, share=NONE, mirror=NONE) for r in before.revisions),
    )
    assert made.traffic is not None, "the plan does nothing at all"
    assert carries(lowered(before, made.traffic)) == {}
    assert carries(made.traffic) == {}
    # The round that follows sees what the lane has programmed, and decides the same.
    told = replace(seen.traffic, programmed=lane, settled=False, settled_gateways=0)
    follows = plan(replace(seen, traffic=told), SETTINGS, world.now, world.epoch)
    assert follows.traffic is not None
    assert follows.traffic.default == made.traffic.default
    assert carries(follows.traffic) == {}
    decided = ("stable_revision", "canary_revision", "share", "promotion", "warm", "command")
    for name in (*decided, "last_rollback", "override_revision", "hold", "step"):
        assert getattr(follows.status, name) == getattr(made.status, name), name


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(world=worlds())
def test_it_misses_no_rollback_of_a_canary_and_lowers_for_no_refused_command(world: World) -> None:
    seen = observe(world)
    given_command, sequence = seen.deployment.command or "", seen.deployment.status.command
    made = plan(seen, SETTINGS, world.now, world.epoch)
    told = made.status.command
    new = made.traffic is not None and told is not None and told != sequence
    canary = seen.deployment.status.canary_revision
    lane = lower(seen, world.epoch)
    if new and told is not None and told.result == "Refused":
        believed = canary in world.records and canary != seen.deployment.status.stable_revision
        assert lane is None or not believed, told.message
    sent_back = new and told is not None and told.result == "Done" and "go back" in told.message
    if sent_back and given_command.startswith("rollback") and canary is not None:
        before = seen.traffic.programmed
        assert (lane is not None) == (before is not None and carries(before) != {})


@pytest.mark.parametrize("named", ["", ":{canary}", ":<A>"])
def test_a_rollback_lowers_whichever_side_it_names(named: str) -> None:
    world = in_step(2)
    world.say(f"rollback{named}/1")
    assert carries(world.programmed) if world.programmed else False
    lane = lower(observe(world), world.epoch)
    assert lane is not None
    assert carries(lane) == {}
    assert world.programmed is not None
    assert lane.default == world.programmed.default


def test_a_shadow_is_ended_too() -> None:
    world = in_step(0)
    world.say("rollback")
    lane = lower(observe(world), world.epoch)
    assert lane is not None
    assert carries(lane) == {}


def test_a_rollback_to_another_stored_revision_is_left_to_the_round() -> None:
    """Whether that revision is stored and not rejected stands in its record."""
    world = in_step(2)
    world.say("rollback:zzzzzzzzzz")
    assert lower(observe(world), world.epoch) is None


def test_a_warm_revision_is_left_to_the_round() -> None:
    """That rollback is a change of the default, and a default changes only when committed."""
    world = promoted()
    world.say("rollback")
    assert lower(observe(world), world.epoch) is None


def test_a_command_from_git_a_later_leaders_status_and_a_deleted_object_lower_nothing() -> None:
    world = in_step(2)
    world.say("rollback")
    seen = observe(world)
    assert lower(seen, world.epoch) is not None
    for changed in (
        replace(seen.deployment, command_applied=True),
        replace(seen.deployment, deleting=True),
        replace(seen.deployment, command=None),
    ):
        assert lowers_at_once(changed, seen.traffic.programmed, world.epoch) is None
    assert lowers_at_once(seen.deployment, seen.traffic.programmed, world.epoch - 1) is None
