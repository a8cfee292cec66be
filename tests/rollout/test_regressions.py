"""What went wrong elsewhere and must hold here; the numbers are those of the project's list."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from llmrollouts.api.share import NONE, Share
from llmrollouts.rollout.effects import ApplyWorkers, DeleteWorkers
from llmrollouts.rollout.plan import plan
from tests.rollout.scenarios import at_rest, failed_first, in_step, promoted, rolling, serving
from tests.rollout.sight import observe
from tests.rollout.specs import SETTINGS, SHORT_STEPS, make_spec
from tests.rollout.world import World


def condition(world: World, kind: str) -> tuple[str, str, str]:
    found = next(each for each in world.status.conditions if each.type == kind)
    return (found.status, found.reason, found.message)


def result(world: World) -> tuple[str, str]:
    assert world.status.command is not None
    return (world.status.command.result, world.rename(world.status.command.message))


def test_r01_a_rollback_ends_at_exactly_zero_at_the_proxies() -> None:
    world = in_step(3)
    canary = world.status.canary_revision or ""
    assert world.share == Share.parse("50%")
    world.say("rollback")
    made = world.round()
    assert made.traffic is not None
    assert made.traffic.share_of(canary) == NONE
    at_rest(world)
    assert world.actual is not None
    assert all(not told.share and not told.mirror for told in world.actual.revisions)


def test_r02_a_share_rises_only_when_the_ready_workers_carry_it() -> None:
    world = in_step(2)
    world.run(lambda w: w.status.step is not None and w.status.step.index == 3)
    canary = world.status.canary_revision or ""
    while observe(world).traffic.programmed is not None and world.share < Share.parse("50%"):
        world.round()
        world.advance(1)
        ready = sum(p.ready for p in observe(world).pods if p.revision == canary)
        if world.share > Share.parse("25%"):
            assert ready >= 2


def test_r03_workers_go_only_after_every_proxy_has_forgotten_them() -> None:
    world = in_step(3)
    canary = world.status.canary_revision or ""
    world.ack_seconds = 20.0
    world.edit(make_spec("three", steps=SHORT_STEPS))
    world.run(seconds=15)
    assert canary in world.workers, "a gateway had not confirmed yet"
    assert world.programmed is not None
    assert world.programmed.share_of(canary) == NONE
    world.run(lambda w: canary not in w.workers)
    assert world.actual is not None
    assert all(told.revision != canary for told in world.actual.revisions)


def test_r04_rollback_with_nothing_on_its_way_changes_nothing_and_says_so() -> None:
    world = serving()
    world.say("rollback")
    before = dict(world.workers)
    world.run(seconds=30)
    assert world.workers == before
    assert result(world)[0] == "Refused"
    assert "nothing to roll back" in result(world)[1]
    assert world.command is None


def test_r04_a_rejected_revision_gets_traffic_only_by_retry() -> None:
    world = in_step(2)
    world.say("rollback")
    at_rest(world)
    rejected = world.name("B")
    world.restart(1)
    world.edit(make_spec("two", steps=SHORT_STEPS, replicas=5))
    world.run(seconds=300)
    assert rejected not in world.workers
    assert world.status.phase == "Degraded"
    assert "`retry:" in (world.status.message or "")
    world.say("retry:<B>")
    world.run(lambda w: w.status.canary_revision == rejected)
    world.run(seconds=5)
    assert world.records[rejected].rejected is None


def test_r06_promote_full_gets_the_fix_out_when_stable_is_the_bad_one() -> None:
    world = rolling()
    stable = world.status.stable_revision
    for pod in world.pods:
        if pod.revision == stable:
            pod.broken = True
    world.say("promote-full:{canary}")
    world.run(lambda w: w.status.stable_revision == w.name("B"), seconds=300)


def test_r09_too_few_requests_are_told_with_a_forecast() -> None:
    world = in_step(1, World(rate=0.5))
    world.spec = make_spec(
        "two",
        steps=[
            {"shadow": {"share": "5%", "duration": "1m", "minRequests": 1}},
            {"canary": {"share": "0.5%", "duration": "1m", "minRequests": 5000}},
        ],
    )
    world.run(seconds=180)
    assert "more requests, about" in (world.status.message or "")
    assert world.status.step is not None
    assert world.status.step.index == 1


@pytest.mark.parametrize("phase", ["paused", "held", "lapsed", "growing", "rejected", "failed"])
def test_r10_a_new_revision_leaves_any_state(phase: str) -> None:
    world = failed_first() if phase == "failed" else in_step(2)
    match phase:
        case "paused":
            world.say("pause")
        case "held":
            world.status = world.status.model_copy(update={"hold": "a person must look"})
        case "lapsed":
            world.reports = False
            world.silent_since = world.now
            world.run(lambda w: w.status.lapse is not None)
            world.reports = True
        case "growing":
            world.say("promote-full:{canary}")
        case "rejected":
            world.say("rollback")
    world.run(seconds=4)
    world.edit(make_spec("three", steps=SHORT_STEPS))
    world.run(lambda w: "<C>" in w.names.values() or phase == "failed", seconds=60)
    wanted = "B" if phase == "failed" else "C"
    world.run(
        lambda w: w.name(wanted) in (w.status.canary_revision, w.status.stable_revision),
        seconds=300,
    )


def test_r14_a_leader_of_an_older_term_changes_nothing() -> None:
    world = in_step(2)
    seen = replace(
        observe(world),
        deployment=replace(
            observe(world).deployment, status=world.status.model_copy(update={"epoch": 7})
        ),
    )
    made = plan(seen, SETTINGS, world.now, 6)
    assert made.status == seen.deployment.status
    assert made.traffic is None
    assert not made.effects
    assert not made.renew


def test_r15_a_failure_after_promotion_goes_back_to_the_warm_revision_by_itself() -> None:
    world = promoted()
    for pod in world.pods:
        if pod.revision == world.name("B"):
            pod.broken = True
    at_rest(world)
    assert world.status.stable_revision == world.name("A")
    assert world.actual is not None
    assert world.actual.default == world.name("A")
    assert world.records[world.name("B")].rejected is not None
    assert world.failed == 0


def test_r15_a_promotion_never_touches_the_workers_that_serve() -> None:
    world = rolling()
    stable = world.status.stable_revision or ""
    pods = {pod.name for pod in world.pods if pod.revision == stable}
    world.run(lambda w: w.status.warm is not None)
    assert {pod.name for pod in world.pods if pod.revision == stable} == pods
    assert world.failed == 0


@pytest.mark.parametrize("index", [0, 1, 2, 3])
@pytest.mark.parametrize("paused", [False, True])
def test_r16_rollback_works_in_every_step_and_wins_over_a_pause(index: int, paused: bool) -> None:
    world = in_step(index)
    if paused:
        world.say("pause/1")
        world.run(seconds=4)
        assert world.status.phase == "Paused"
    world.say("rollback/2")
    world.round()
    assert world.status.canary_revision is None
    assert not world.status.paused
    at_rest(world)


@pytest.mark.parametrize("stage", ["Growing", "Shifting", "Switching", "Clearing"])
def test_r16_rollback_works_in_every_stage_of_a_promotion(stage: str) -> None:
    world = rolling()
    world.run(lambda w: w.status.promotion is not None and w.status.promotion.stage == stage)
    world.say("rollback/2")
    made = world.round()
    assert made.traffic is not None
    assert made.traffic.default == world.name("A")
    at_rest(world)
    assert world.status.stable_revision == world.name("A")
    assert world.failed == 0


def test_r17_stable_keeps_its_size_until_the_rollback_window_ends() -> None:
    world = rolling()
    stable = world.status.stable_revision or ""
    while world.status.warm is None or world.now < world.status.warm.until:
        made = world.round()
        for effect in made.effects:
            if isinstance(effect, ApplyWorkers) and effect.revision == stable:
                assert effect.replicas == 4
            assert not (isinstance(effect, DeleteWorkers) and effect.revision == stable)
        world.advance(max(0.1, made.wake_after or 5.0))


def test_r18_nothing_of_a_dead_revision_is_left() -> None:
    world = in_step(1)
    for model in ("three", "four", "five"):
        world.edit(make_spec(model, steps=SHORT_STEPS))
        world.run(
            lambda w: (
                w.status.canary_revision is not None
                and w.status.canary_revision == max(w.records.values(), key=lambda r: r.number).name
            )
        )
    world.say("rollback")
    at_rest(world)
    assert set(world.workers) == {world.name("A")} == world.config_maps
    assert world.actual is not None
    assert [told.revision for told in world.actual.revisions] == [world.name("A")]


def test_r19_the_measured_share_stands_beside_the_share_asked_for() -> None:
    world = in_step(2)
    canary = world.status.canary_revision or ""
    seen = observe(world)
    measured = replace(seen.traffic, recent_live={canary: 0.0493}, recent_mirrored={canary: 0.181})
    later = world.now + timedelta(seconds=11)
    made = plan(replace(seen, traffic=measured), SETTINGS, later, world.epoch)
    assert (made.status.share, made.status.measured_share) == ("5%", "4.93%")
    assert made.status.measured_shadow_share == "18.1%"


def test_r27_reverting_to_stable_touches_no_stable_pod() -> None:
    world = in_step(3)
    stable = world.status.stable_revision or ""
    pods = [pod.name for pod in world.pods if pod.revision == stable]
    world.edit(make_spec("one", steps=SHORT_STEPS))
    at_rest(world)
    assert [pod.name for pod in world.pods if pod.revision == stable] == pods
    assert world.records[world.name("B")].rejected is None
    assert world.status.phase == "Serving"


def test_r28_status_says_beforehand_when_going_back_needs_a_cold_start() -> None:
    world = promoted()
    assert condition(world, "InstantRollback")[:2] == ("True", "WarmUntil")
    world.run(lambda w: w.status.warm is None and not w.status.retiring, seconds=2 * 3600)
    assert condition(world, "InstantRollback")[:2] == ("False", "NoWarmRevision")


def test_r29_a_leaving_revision_is_out_of_the_proxies_and_quiet_before_its_workers_go() -> None:
    world = in_step(3)
    canary = world.status.canary_revision or ""
    world.say("rollback")
    world.run(lambda w: canary not in w.workers)
    assert (world.now - world.last_issued[canary]).total_seconds() >= 3.0


def test_r31_a_command_is_seen_by_the_next_round_whatever_else_changed() -> None:
    world = in_step(3)
    world.edit(make_spec("two", steps=SHORT_STEPS, replicas=6))
    world.say("rollback")
    made = world.round()
    assert made.traffic is not None
    assert made.traffic.share_of(world.name("B")) == NONE
