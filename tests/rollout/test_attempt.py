"""One attempt: its budget over its stages, the watch after the promotion, whose fault it is."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmrollouts.api.prometheus_gate import PrometheusGate
from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.api.status import Verdict
from llmrollouts.rollout.observation import Gate
from tests.rollout.scenarios import at_rest, in_step, promoted, serving
from tests.rollout.specs import SHORT_STEPS, make_spec
from tests.rollout.world import World


def condition(world: World, kind: str) -> str:
    found = next((c for c in world.status.conditions if c.type == kind), None)
    return f"{found.status} {found.reason}" if found is not None else "absent"


def levels(world: World, until: str) -> dict[str, float]:
    """The level of each stage up to the one whose name ends with ``until``."""
    found: dict[str, float] = {}

    def ends(w: World) -> bool:
        attempt = w.status.attempt
        if attempt is not None and attempt.stage:
            found[attempt.stage] = attempt.level
            return attempt.stage.endswith(until)
        return False

    world.run(ends, seconds=3 * 3600)
    return found


def test_one_budget_is_split_over_all_steps_and_the_watch() -> None:
    world = serving()
    world.edit(make_spec("two", steps=SHORT_STEPS, latency="Enforce", error_budget="2%"))
    split = levels(world, "/watch")
    canary = world.name("B")
    assert list(split) == [
        f"{canary}/1/0-Shadow-50000",
        f"{canary}/1/1-Canary-5000",
        f"{canary}/1/2-Canary-50000",
        f"{canary}/1/3-Canary-500000",
        f"{canary}/1/watch",
    ]
    assert list(split.values()) == pytest.approx([0.004] * 5)


def test_a_restart_does_not_refill_the_budget_and_a_retry_has_its_own() -> None:
    world = in_step(2, latency="Enforce")
    before = world.status.attempt
    world.restart(5.0)
    world.run(seconds=20)
    after = world.status.attempt
    assert before is not None
    assert after is not None
    assert (after.number, after.stage, after.level, after.spent) == (
        before.number,
        before.stage,
        before.level,
        before.spent,
    )
    world.say("rollback")
    at_rest(world)
    world.say("retry:<B>")
    world.run(lambda w: w.status.canary_revision is not None)
    again = world.status.attempt
    assert again is not None
    assert again.number == before.number + 1
    assert again.spent == pytest.approx(0.002)


def test_edits_split_only_what_remains() -> None:
    world = in_step(2, latency="Enforce")
    more: list[dict[str, object]] = [
        {"canary": {"share": f"{number}%", "duration": "1m"}} for number in (6, 7)
    ]
    steps = [*SHORT_STEPS[:3], *more]
    world.edit(make_spec("two", steps=steps, latency="Enforce", error_budget="10%"))
    split = levels(world, "/watch")
    spent = world.status.attempt.spent if world.status.attempt is not None else 1.0
    assert spent <= 0.01 * (1 + 1e-9), "the budget is the one of the attempt's beginning"
    assert min(split.values()) > 0


def test_a_nonsense_budget_in_the_status_begins_another_attempt() -> None:
    world = in_step(2, latency="Enforce")
    attempt = world.status.attempt
    assert attempt is not None
    broken = attempt.model_copy(update={"spent": 7.0})
    world.status = world.status.model_copy(update={"attempt": broken})
    world.run(seconds=4)
    assert world.status.attempt is not None
    assert world.status.attempt.spent <= 0.01


def control(world: World) -> tuple[str, str]:
    assert world.actual is not None
    told = next(r for r in world.actual.revisions if r.revision == world.name("A"))
    return str(told.share), str(told.mirror)


def test_after_the_promotion_one_percent_stays_with_the_warm_revision() -> None:
    world = promoted(latency="Enforce")
    world.run(seconds=10)
    assert control(world) == ("1%", "98%")
    assert "answers 1% for the comparison" in (world.status.message or "")
    world.run(seconds=200)
    assert control(world) == ("1%", "98%"), "its leases are renewed all the time"


def test_the_control_has_no_copies_without_load_matching() -> None:
    world = promoted(latency="Enforce", match_load=False)
    world.run(seconds=10)
    assert control(world) == ("1%", "0%")


def test_the_control_ends_when_the_gateways_fall_silent_and_when_the_gate_is_off() -> None:
    world = promoted(latency="Enforce")
    world.run(seconds=10)
    world.reports = False
    world.silent_since = world.now
    world.run(seconds=40)
    assert control(world) == ("0%", "0%")
    assert world.status.stable_revision == world.name("B")
    world.reports = True
    world.run(seconds=10)
    assert control(world) == ("1%", "98%")
    world.edit(make_spec("two", steps=SHORT_STEPS))
    world.run(seconds=10)
    assert control(world) == ("0%", "0%")


def with_ratio(spec: LLMDeploymentSpec) -> LLMDeploymentSpec:
    """With a gate from Prometheus that compares."""
    gate = PrometheusGate.model_validate(
        {
            "name": "ratio",
            "address": "https://prom.example",
            "query": 'cost{r="{{revision}}"}',
            "compare": {"maxRatio": "1.2"},
        }
    )
    gates = spec.gates.model_copy(update={"prometheus": [gate]})
    return spec.model_copy(update={"gates": gates})


def test_a_comparison_from_prometheus_alone_keeps_a_control_where_load_is_matched() -> None:
    world = promoted()
    world.edit(with_ratio(make_spec("two", steps=SHORT_STEPS)))
    world.run(seconds=10)
    assert control(world) == ("1%", "98%")
    world.edit(with_ratio(make_spec("two", steps=SHORT_STEPS, match_load=False)))
    world.run(seconds=10)
    assert control(world) == ("0%", "0%")


def test_r15_a_comparison_from_prometheus_that_fails_in_the_watch_goes_back() -> None:
    world = promoted()
    world.edit(with_ratio(make_spec("two", steps=SHORT_STEPS)))
    world.run(seconds=60)
    told = {gate.name: gate.reason for gate in world.status.gates}
    assert told == {"prometheus/ratio": "GateSilent"}, "it never vanishes from the status"
    stage = world.status.attempt.stage if world.status.attempt is not None else ""
    world.gates = (Gate("prometheus/ratio", "Failed", "LimitBroken", "1.55", stage=stage),)
    at_rest(world)
    assert world.status.stable_revision == world.name("A")
    last = world.status.last_rollback
    assert last is not None
    assert (last.reason, last.rejects) == ("WatchFailed", True)
    assert "prometheus/ratio" in last.message
    assert world.failed == 0


def test_r15_a_gate_that_fails_in_the_watch_goes_back_to_the_warm_revision() -> None:
    world = promoted(latency="Enforce")
    world.run(seconds=60)
    world.latency.say("Failed", "Slower", "TPOT p50 is 1.4 times stable's")
    at_rest(world)
    assert world.status.stable_revision == world.name("A")
    last = world.status.last_rollback
    assert last is not None
    assert (last.reason, last.rejects) == ("WatchFailed", True)
    assert world.failed == 0


@pytest.mark.parametrize("verdict", ["Inconclusive", "Error", "Frozen"])
def test_in_the_watch_only_a_failed_gate_moves_users(verdict: Verdict) -> None:
    world = promoted(latency="Enforce", rollback_window="5m")
    world.latency.say(verdict, "TooFewSamples", "needs 90 more")
    world.run(lambda w: w.status.warm is None, seconds=600)
    assert world.status.stable_revision == world.name("B")
    assert world.status.last_rollback is None


def test_a_status_with_a_greedy_control_is_not_believed() -> None:
    world = promoted(latency="Enforce")
    world.run(seconds=10)
    warm = world.status.warm
    assert warm is not None
    greedy = warm.model_copy(update={"share": "90%", "shadow_share": "100%"})
    world.status = world.status.model_copy(update={"warm": greedy})
    world.run(seconds=4)
    assert control(world) == ("1%", "98%")


def test_a_fault_that_kills_both_sides_is_not_blamed_on_the_canary() -> None:
    world = in_step(3)
    stable, canary = world.name("A"), world.name("B")
    world.kill_container(canary)
    world.run(seconds=20)
    assert world.status.deaths is not None
    assert len(world.status.deaths.seen) == 1
    world.kill_container(stable)
    world.run(seconds=4)
    assert world.status.deaths.seen == [], "a death already counted is taken back"
    world.kill_container(canary)
    world.run(seconds=4)
    assert world.status.last_rollback is None
    assert condition(world, "Lapsed") == "True CommonFault"
    world.run(seconds=120)
    world.kill_container(canary)
    world.run(seconds=4)
    world.kill_container(canary)
    at_rest(world)
    last = world.status.last_rollback
    assert last is not None
    assert last.reason == "WorkerDied"
    assert last.first_seen_at is not None


def test_a_rollback_records_its_five_times_and_what_users_lost() -> None:
    world = in_step(2, latency="Enforce")
    world.failing[world.name("B")] = 0.2
    world.run(seconds=20)
    world.latency.say("Failed", "MoreErrors", "20% of requests fail")
    at_rest(world)
    world.run(seconds=10)
    last = world.status.last_rollback
    assert last is not None
    assert last.first_seen_at is not None
    assert last.detected_at is not None
    assert last.programmed_at is not None
    assert last.last_canary_request_at is not None
    assert last.first_seen_at < last.detected_at <= last.decided_at <= last.programmed_at
    assert last.last_canary_request_at - last.decided_at < timedelta(seconds=1)
    # 5 % of 100 requests a second for some 22 s, and 0.5 % for a minute before: 20 % fail, half
    # of these are saved.
    assert last.lost_requests is not None
    assert 10 <= last.lost_requests <= 22
    assert last.saved_requests is not None
    assert abs(last.saved_requests - last.lost_requests) <= 2
    assert last.cut_streams == 2


def test_losses_survive_a_restart_of_the_operator() -> None:
    world = in_step(2, latency="Enforce")
    world.failing[world.name("B")] = 0.2
    world.run(seconds=40)
    world.restart(1.0)
    world.run(seconds=20)
    world.latency.say("Failed", "MoreErrors", "20% of requests fail")
    at_rest(world)
    last = world.status.last_rollback
    assert last is not None
    assert last.lost_requests is not None
    assert last.lost_requests >= 20


def test_a_command_tells_when_it_was_given() -> None:
    world = in_step(2)
    world.say("rollback")
    given = world.now
    world.advance(1.0)
    at_rest(world)
    last = world.status.last_rollback
    assert last is not None
    assert last.requested_at == given
    assert last.first_seen_at is None
