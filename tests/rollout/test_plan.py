"""Single decisions, in tables: what the world is, and what the plan says."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from llmrollouts.api.share import Share
from llmrollouts.api.status import (
    LLMDeploymentStatus,
)
from llmrollouts.rollout.effects import Plan, StoreRevision
from llmrollouts.rollout.observation import SourceProblem
from llmrollouts.rollout.plan import plan
from tests.rollout.scenarios import at_rest, in_step, promoted, rolling, serving
from tests.rollout.sight import observe
from tests.rollout.specs import SETTINGS, SHORT_STEPS, make_spec
from tests.rollout.world import World


def look(world: World, **traffic: Any) -> Plan:
    seen = observe(world)
    seen = replace(seen, traffic=replace(seen.traffic, **traffic))
    return plan(seen, SETTINGS, world.now, world.epoch)


def test_an_idle_deployment_causes_no_write_and_no_hurry() -> None:
    world = at_rest(serving())
    made = look(world)
    assert made.status is world.status
    assert made.effects == ()
    assert made.notices == ()
    assert made.wake_after is None


@pytest.mark.parametrize(
    ("reason", "wake"),
    [("ConfigMapMissing", 15.0), ("ConfigMapKeyMissing", 15.0), ("InvalidSpec", None)],
)
def test_a_configmap_that_is_missing_is_looked_for_again(reason: str, wake: float | None) -> None:
    world = at_rest(serving())
    world.problem = SourceProblem(reason, "told to the user")
    world.edit(make_spec("three", steps=SHORT_STEPS))
    for _ in range(3):
        world.round()
    assert look(world).wake_after == wake


def test_a_running_step_commits_its_clock_every_ten_seconds_only() -> None:
    world = in_step(2)
    writes = world.writes
    world.run(seconds=40)
    assert world.writes - writes <= 5


def test_a_deployment_that_is_being_deleted_is_left_alone() -> None:
    world = in_step(2)
    world.deleting = True
    made = look(world)
    assert made.traffic is None
    assert made.effects == ()


@pytest.mark.parametrize(
    ("age", "renews", "lapses"),
    [(0.0, True, False), (5.0, True, False), (5.1, False, False), (15.0, False, False),
     (15.1, False, True), (3600.0, False, True)],
)  # fmt: skip
def test_evidence_renews_leases_while_young_and_lapses_when_old(
    age: float, renews: bool, lapses: bool
) -> None:
    made = look(in_step(2), report_age=age)
    assert made.renew is renews
    assert (made.status.lapse is not None) is lapses


def test_a_new_leader_carries_the_share_on_for_fifteen_seconds_without_a_report() -> None:
    world = in_step(2)
    world.restart()
    world.reports = False
    made = world.round()
    assert made.renew
    assert made.traffic is not None
    assert made.traffic.share_of(world.name("B")) == Share.parse("5%")
    world.now += timedelta(seconds=14)
    assert look(world, report_age=None).renew
    world.now += timedelta(seconds=2)
    made = look(world, report_age=None)
    assert not made.renew
    assert made.status.lapse is not None
    assert made.status.lapse.cause == "StaleEvidence"


def test_a_gateway_that_joins_has_fifteen_seconds_for_its_first_report() -> None:
    world = in_step(2)
    made = look(world, report_age=None)
    assert made.renew
    assert made.status.lapse is None
    world.status = made.status
    world.now += timedelta(seconds=14)
    assert look(world, report_age=None).status.lapse is None
    reported = look(world, report_age=0.5).status
    assert reported.step is not None
    assert reported.step.silent_since is None
    world.now += timedelta(seconds=2)
    assert look(world, report_age=None).status.lapse is not None


def test_one_dead_container_is_no_evidence_and_an_excused_one_never_is() -> None:
    world = in_step(3)
    canary = world.name("B")
    world.kill_container(canary)
    for pod in world.pods:
        pod.excused = pod.excused or not pod.deaths
    world.run(seconds=5)
    assert world.status.canary_revision == canary
    for pod in world.pods:
        if pod.revision == canary and pod.excused:
            pod.deaths.extend(world.pods[-2].deaths)
    world.run(seconds=5)
    assert world.status.canary_revision == canary


def test_the_mirror_fills_the_canary_up_to_the_rate_of_a_stable_worker() -> None:
    world = in_step(1)
    made = look(world)
    assert made.traffic is not None
    canary = next(t for t in made.traffic.revisions if t.revision == world.name("B"))
    total = canary.share.fraction + canary.mirror.fraction
    assert total == pytest.approx((1 - canary.share.fraction) / 4, rel=1e-5)


def test_match_load_off_mirrors_nothing_in_a_canary_step() -> None:
    world = in_step(1, match_load=False)
    assert world.status.shadow_share == "0%"
    assert world.status.share == "0.5%"


@pytest.mark.parametrize(
    ("shares", "expected_step", "expected_share", "held"),
    [
        (["0.5%", "5%", "50%"], 2, "50%", False),
        (["1%", "20%", "60%"], 1, "20%", False),
        (["10%"], 0, "10%", False),
        (["60%", "70%"], None, "50%", True),
    ],
)
def test_steps_edited_in_mid_rollout_clamp_and_never_raise(
    shares: list[str], expected_step: int | None, expected_share: str, held: bool
) -> None:
    world = in_step(3)
    steps: list[dict[str, object]] = [
        {"canary": {"share": share, "duration": "1h"}} for share in shares
    ]
    world.edit(make_spec("two", steps=steps))
    made = world.round()
    assert made.traffic is not None
    assert made.traffic.share_of(world.name("B")) == Share.parse(expected_share)
    assert (made.status.hold is not None) is held
    if expected_step is not None:
        assert made.status.step is not None
        assert made.status.step.index == expected_step


def test_replicas_edited_in_a_step_rescale_both_sides_and_the_step_stays() -> None:
    world = in_step(3)
    world.edit(make_spec("two", steps=SHORT_STEPS, replicas=8))
    world.round()
    assert world.workers[world.name("A")].replicas == 8
    assert world.workers[world.name("B")].replicas == 8, "at 50 % as many as stable"
    assert world.status.step is not None
    assert world.status.step.index == 3


def test_a_single_worker_without_room_is_never_given_up() -> None:
    world = serving(World(make_spec(steps=SHORT_STEPS, replicas=1, max_extra_replicas=0)))
    world.edit(make_spec("two", steps=SHORT_STEPS, replicas=1, max_extra_replicas=0))
    world.run(seconds=60)
    assert world.workers[world.name("A")].replicas == 1
    assert "maxExtraReplicas" in (world.status.message or "")
    assert world.status.phase == "Held"


def test_a_lost_record_is_rewritten_with_the_template_that_the_workers_run() -> None:
    world = at_rest(serving())
    name = world.name("A")
    world.workers[name] = replace(world.workers[name], template='{"as":"it runs"}')
    del world.records[name]
    made = look(world)
    lost = next(c for c in made.status.conditions if c.type == "RevisionLost")
    assert lost.status == "True"
    stored = [effect for effect in made.effects if isinstance(effect, StoreRevision)]
    assert [effect.record.name for effect in stored] == [name]
    assert stored[0].record.template == '{"as":"it runs"}'
    world.run(seconds=30)
    assert world.status.stable_revision == name
    assert world.status.canary_revision is None


def test_old_records_beyond_the_limit_are_forgotten_and_living_ones_never() -> None:
    world = serving()
    for number in range(14):
        world.edit(make_spec(f"model-{number}", steps=SHORT_STEPS))
        world.run(lambda w: w.source in {r.source for r in w.records.values()})
        world.run(seconds=40)
    assert len(world.records) <= 12
    assert world.name("A") in world.records


def test_a_rollback_records_the_times_of_its_parts() -> None:
    world = in_step(3)
    world.say("rollback")
    world.round()
    asked = world.now
    at_rest(world)
    last = world.status.last_rollback
    assert last is not None
    assert last.decided_at == asked
    assert last.programmed_at is not None
    assert last.last_canary_request_at is not None
    assert last.decided_at <= last.programmed_at <= asked + timedelta(seconds=1)
    assert last.last_canary_request_at <= last.programmed_at


def test_a_status_wiped_in_mid_rollout_is_rebuilt_with_nothing_promoted() -> None:
    world = in_step(3)
    world.status = LLMDeploymentStatus()
    made = world.round()
    assert made.status.stable_revision == world.name("A")
    assert made.traffic is not None
    assert made.traffic.default == world.name("A")
    assert made.traffic.share_of(world.name("B")) == Share(0)
    rebuilt = next(c for c in made.status.conditions if c.type == "StatusRebuilt")
    assert rebuilt.status == "True"
    world.run(lambda w: w.status.step is not None and w.status.step.index == 1)


@pytest.mark.parametrize("stage", ["Growing", "Shifting", "Switching", "Clearing"])
def test_a_lapse_in_a_promotion_leaves_users_on_a_side_of_full_size(stage: str) -> None:
    world = rolling()
    world.run(lambda w: w.status.promotion is not None and w.status.promotion.stage == stage)
    for pod in world.pods:
        if pod.revision == world.name("B"):
            pod.ready_at = world.now + timedelta(seconds=30)
    world.run(lambda w: w.status.canary_revision is None, seconds=1800)
    assert world.failed == 0


def test_losing_every_new_worker_to_a_lost_node_rejects_nothing() -> None:
    world = promoted()
    for pod in world.pods:
        if pod.revision == world.name("B"):
            pod.broken = True
            pod.excused = True
    world.run(lambda w: w.status.stable_revision == w.name("A"), seconds=30)
    assert world.records[world.name("B")].rejected is None


def test_users_keep_stable_workers_that_a_starved_machine_calls_not_ready() -> None:
    world = in_step(2)
    stable, canary = world.name("A"), world.name("B")

    def told(revision: str) -> list[str]:
        assert world.programmed is not None
        found = next(r for r in world.programmed.revisions if r.revision == revision)
        return [endpoint.pod for endpoint in found.endpoints]

    workers = told(stable)
    for pod in world.pods:
        pod.unready = True
    world.run(seconds=4)
    assert told(stable) == workers
    assert told(canary) == []  # stable answers for it
    ready = next(c for c in world.status.conditions if c.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "WorkersUnavailable")

    for pod in world.pods[1:]:
        pod.unready = False
    world.run(seconds=4)
    assert told(stable) == workers[1:]
