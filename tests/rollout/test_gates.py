"""What follows from the verdicts of gates, step by step: never a promotion for want of evidence."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import pytest

from llmrollouts.api.share import Share
from llmrollouts.api.status import LLMDeploymentStatus, Verdict
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.observation import Gate
from tests.rollout.scenarios import DEADLINES, at_rest, in_step, promoted, rolling, serving
from tests.rollout.sight import observe
from tests.rollout.specs import SETTINGS, SHORT_STEPS, START, make_spec
from tests.rollout.world import World

PATIENT: list[dict[str, object]] = [
    {"shadow": {"share": "5%", "duration": "1m", "deadline": "720h"}},
    {"canary": {"share": "5%", "duration": "1m", "deadline": "720h"}},
    {"canary": {"share": "50%", "duration": "1m", "deadline": "720h"}},
]


def index(world: World) -> int | None:
    return world.status.step.index if world.status.step is not None else None


def condition(world: World, kind: str) -> str:
    found = next((c for c in world.status.conditions if c.type == kind), None)
    return f"{found.status} {found.reason}" if found is not None else "absent"


@pytest.mark.parametrize("verdict", ["Inconclusive", "Error", "Frozen"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_r05_r08_what_does_not_decide_never_passes_a_step(verdict: Verdict, step: int) -> None:
    world = in_step(step, latency="Enforce", steps=PATIENT)
    world.latency.say(verdict, "NoAnswer", "needs 90 more requests", "Proven")
    world.run(seconds=600)
    assert index(world) == step
    assert world.status.promotion is None
    assert world.status.last_rollback is None
    assert "needs 90 more requests" in (world.status.message or "")


def test_a_deadline_that_is_not_given_is_four_times_the_duration_and_at_least_an_hour() -> None:
    steps: list[dict[str, object]] = [
        {"shadow": {"share": "5%", "duration": "24h"}},
        {"canary": {"share": "5%", "duration": "1m"}},
        {"canary": {"share": "6%", "duration": "1m", "deadline": "90s"}},
    ]
    facts = Facts(observe(World(make_spec(steps=steps))), SETTINGS, START, 1)
    assert [step.deadline for step in facts.steps] == [96 * 3600.0, 3600.0, 90.0]


def test_r05_inconclusive_to_the_deadline_is_held_and_never_promoted() -> None:
    world = in_step(1, latency="Enforce", steps=DEADLINES)
    world.latency.say("Inconclusive", "TooFewSamples", "needs 90 more requests, about 40m")
    world.run(seconds=240)
    assert world.status.hold is None
    assert condition(world, "Progressing") == "True TooFewSamples"
    assert "without it the rollout is held at 2026-01-05 12:0" in (world.status.message or "")
    world.run(lambda w: w.status.hold is not None, seconds=100)
    assert world.status.phase == "Held"
    world.run(seconds=900)
    assert index(world) == 1
    assert world.share == Share.parse("5%"), "a hold moves nobody"
    assert sum(1 for n in world.notices if n.reason == "DeadlineReached") == 1


def test_r05_inconclusive_to_the_deadline_rolls_back_and_is_not_tried_again() -> None:
    world = in_step(1, latency="Enforce", steps=DEADLINES, on_inconclusive="Rollback")
    world.latency.say("Error", "NoAnswer", "no worker answers")
    at_rest(world)
    last = world.status.last_rollback
    assert last is not None
    assert (last.reason, last.rejects) == ("DeadlineReached", True)
    world.run(seconds=600)
    assert world.status.canary_revision is None
    assert world.records[world.name("B")].rejected is not None


def test_the_deadline_stands_still_in_a_pause_a_hold_and_a_lapse() -> None:
    world = in_step(1, latency="Enforce", steps=DEADLINES)
    world.latency.say("Inconclusive", "TooFewSamples", "needs 90 more")
    world.say("pause")
    world.run(seconds=600)
    assert world.status.hold is None
    world.say("resume")
    world.run(seconds=5)
    world.cut_off = True
    world.run(seconds=200)
    world.cut_off = False
    world.run(seconds=100)
    assert world.status.hold is None
    world.run(lambda w: w.status.hold is not None, seconds=250)


def test_a_restart_of_the_operator_neither_ends_nor_forgets_the_deadline() -> None:
    world = in_step(1, latency="Enforce", steps=DEADLINES)
    world.latency.say("Inconclusive", "TooFewSamples", "needs 90 more")
    world.run(seconds=200)
    world.restart(away=1200)
    world.run(seconds=3)
    assert world.status.hold is None, "nobody watched while it was away"
    # The lapse of the absence takes a minute of health; a minute of waiting may be repeated.
    world.run(lambda w: w.status.hold is not None, seconds=260)


def test_r06_a_hold_of_the_deadline_is_promoted_by_hand() -> None:
    world = in_step(1, latency="Enforce", steps=DEADLINES)
    world.latency.say("Inconclusive", "TooFewSamples", "needs 90 more")
    world.run(lambda w: w.status.hold is not None, seconds=400)
    world.say("promote:{canary}/1")
    world.run(lambda w: index(w) == 2 and w.share == Share.parse("50%"), seconds=90)


def test_r06_a_frozen_step_is_promoted_by_hand_and_not_rolled_back() -> None:
    world = in_step(1, latency="Enforce")
    world.latency.say("Frozen", "ObjectiveMissed", "both are above 350ms")
    world.run(seconds=300)
    assert world.status.phase == "Held"
    assert [n.kind for n in world.notices if n.reason == "GateFrozen"] == ["Warning"]
    world.say("promote:{canary}/1")
    world.run(lambda w: index(w) == 2, seconds=20)
    assert world.status.last_rollback is None


@pytest.mark.parametrize("verdict", ["Inconclusive", "Error", "Frozen"])
def test_r06_promote_full_gets_the_fix_out_whatever_the_gate_cannot_say(verdict: Verdict) -> None:
    world = in_step(1, latency="Enforce")
    world.latency.say(verdict, "LoadNotMatched", "stable answers nothing")
    world.run(seconds=30)
    world.say("promote-full:{canary}")
    world.run(lambda w: w.status.stable_revision == w.name("B"), seconds=300)


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_failed_gate_takes_every_user_back_in_one_round(step: int) -> None:
    world = in_step(step, latency="Enforce")
    world.latency.say("Failed", "Slower", "TTFT p95 is twice stable's")
    made = world.round()
    assert made.traffic is not None
    assert not any(told.share or told.mirror for told in made.traffic.revisions)
    at_rest(world)
    assert world.status.stable_revision == world.name("A")
    assert world.records[world.name("B")].rejected is not None


@pytest.mark.parametrize("stage", ["Growing", "Shifting"])
def test_a_gate_that_fails_while_users_move_takes_them_back(stage: str) -> None:
    world = rolling(latency="Enforce")
    world.ack_seconds = 2.0
    world.run(
        lambda w: w.status.promotion is not None and w.status.promotion.stage == stage,
        seconds=7200,
    )
    world.latency.say("Failed", "MoreErrors", "20% of requests fail")
    at_rest(world)
    assert world.status.stable_revision == world.name("A")
    assert world.failed == 0


def test_r08_r11_a_gate_that_says_nothing_holds_the_step_and_a_condition_says_it() -> None:
    world = serving()
    world.latency.silent = True
    world.edit(make_spec("two", steps=PATIENT, latency="Enforce"))
    world.run(lambda w: w.status.step is not None and w.status.step.running_since is not None)
    assert condition(world, "Measured") == "Unknown GateSilent"
    world.run(seconds=600)
    assert index(world) == 0
    assert world.status.last_rollback is None
    assert condition(world, "Progressing") == "True GateSilent"
    world.latency.silent = False
    world.run(lambda w: index(w) == 1, seconds=30)
    assert condition(world, "Measured") == "True Measured"


def test_r11_a_source_that_fails_from_the_start_is_told_at_once_and_blames_nobody() -> None:
    world = serving()
    world.latency.say("Error", "NoWorkerFound", "no worker answers at /samples")
    world.edit(make_spec("two", steps=PATIENT, latency="Enforce"))
    world.run(lambda w: w.status.canary_revision is not None)
    world.run(seconds=10)
    assert condition(world, "Measured") == "False NoWorkerFound"
    world.run(seconds=600)
    assert index(world) == 0
    assert world.status.last_rollback is None
    assert "no worker answers at /samples" in (world.status.message or "")


def test_r09_a_step_without_enough_requests_is_held_at_its_deadline() -> None:
    world = rolling(
        World(rate=0.5),
        steps=[
            {"shadow": {"share": "5%", "duration": "1m", "minRequests": 1}},
            {
                "canary": {
                    "share": "0.5%",
                    "duration": "1m",
                    "minRequests": 50_000,
                    "deadline": "10m",
                }
            },
        ],
    )
    world.run(lambda w: index(w) == 1)
    world.run(seconds=300)
    assert "more requests, about" in (world.status.message or "")
    assert world.status.hold is None
    world.run(lambda w: w.status.hold is not None, seconds=400)


def test_a_verdict_on_another_stage_is_not_heard() -> None:
    world = in_step(1, latency="Enforce")
    attempt = world.status.attempt
    assert attempt is not None
    stale = Gate("latency", "Failed", "Slower", "old", stage=f"{attempt.revision}/0/0-Shadow-1")
    world.latency.silent = True
    world.gates = (stale,)
    world.run(seconds=600)
    assert world.status.last_rollback is None
    assert index(world) == 1


def test_a_failed_verdict_of_an_earlier_attempt_does_not_end_the_retry() -> None:
    world = in_step(1, latency="Enforce")
    world.latency.say("Failed", "Slower", "TTFT p95 is twice stable's")
    world.round()
    stale = Gate("latency", "Failed", "Slower", "old", stage=world.status.attempt.stage)  # type: ignore[union-attr]  # a rollout was running
    at_rest(world)
    world.latency.say("Passed", "NoHarm", "no harm seen", "Proven")
    world.gates = (stale,)
    world.say("retry:<B>")
    world.run(lambda w: index(w) == 1, seconds=400)


def test_observe_reports_and_never_decides() -> None:
    world = in_step(1, latency="Observe")
    world.latency.say("Failed", "Slower", "TTFT p95 is twice stable's")
    world.run(lambda w: w.status.stable_revision == w.name("B"), seconds=3600)
    told = world.status.gates[0]
    assert (told.verdict, told.message) == ("Failed", "TTFT p95 is twice stable's")
    assert world.status.last_rollback is None


def test_off_measures_nothing_and_asks_for_nothing() -> None:
    world = promoted()
    world.run(seconds=30)
    assert world.status.gates == []
    assert condition(world, "Measured") == "absent"
    assert world.actual is not None
    assert not any(told.share for told in world.actual.revisions)


def test_larger_shares_wait_until_the_revision_is_shown_no_worse() -> None:
    world = rolling(latency="Enforce")
    world.latency.say("Passed", "NoHarm", "no harm seen in 900 requests", "Collecting")
    world.run(lambda w: index(w) == 2)
    world.run(seconds=300)
    assert index(world) == 2, "0.5% and 5% need no proof, 50% does"
    told = world.status.message or ""
    assert "gate latency: not yet shown to be at most 25% slower" in told
    assert "no harm seen in 900 requests" in told
    assert condition(world, "Progressing") == "True NotProven"
    world.latency.say("Passed", "NoHarm", "shown on 1400 requests", "Proven")
    world.run(lambda w: index(w) == 3, seconds=20)
    world.latency.say("Passed", "NoHarm", "taken back", "Collecting")
    world.run(seconds=600)
    assert world.status.promotion is None, "the promotion needs it as well"


def test_a_rollout_that_begins_above_five_percent_begins_with_five() -> None:
    world = serving()
    world.latency.say("Passed", "NoHarm", "no harm seen in 9 requests", "Collecting")
    steps: list[dict[str, object]] = [{"canary": {"share": "50%", "duration": "1m"}}]
    world.edit(make_spec("two", steps=steps, latency="Enforce"))
    world.run(lambda w: w.share == Share.parse("5%"), seconds=200)
    world.run(seconds=300)
    assert world.share == Share.parse("5%")
    assert "begins with 5%" in (world.status.message or "")
    world.latency.say("Passed", "NoHarm", "shown on 1400 requests", "Proven")
    world.run(lambda w: w.share == Share.parse("50%"), seconds=60)
    world.latency.silent = True
    world.run(seconds=20)
    assert world.share == Share.parse("50%"), "what was shown is not taken back by silence"


def test_a_rollout_that_begins_large_is_let_through_by_hand() -> None:
    world = serving()
    world.latency.say("Inconclusive", "TooFewSamples", "needs 9000 more", "Collecting")
    steps: list[dict[str, object]] = [
        {"canary": {"share": "25%", "duration": "1m"}},
        {"canary": {"share": "50%", "duration": "1m"}},
    ]
    world.edit(make_spec("two", steps=steps, latency="Enforce"))
    world.run(lambda w: w.share == Share.parse("5%"), seconds=200)
    world.say("promote:{canary}")
    world.run(lambda w: w.share == Share.parse("50%"), seconds=200)


def test_numbers_are_written_every_ten_seconds_and_verdicts_at_once() -> None:
    world = in_step(2, latency="Enforce", steps=[*SHORT_STEPS[:2], PATIENT[1], PATIENT[2]])
    world.latency.say("Passed", "NoHarm", "no harm seen", "Collecting")
    world.run(seconds=100)
    world.writes = 0
    world.run(seconds=120)
    assert 10 <= world.writes <= 13
    world.latency.say("Inconclusive", "LoadNotMatched", "canary workers get 40% of the load")
    world.round()
    told = world.status.gates[0]
    assert (told.verdict, told.reason) == ("Inconclusive", "LoadNotMatched")
    assert told.since == world.now
    assert condition(world, "Measured") == "False LoadNotMatched"


def test_a_step_that_waits_without_a_clock_writes_no_more_often() -> None:
    """The first step above 5 % has no clock yet, and its gate's message changes in each round."""
    world = serving()
    world.latency.say("Passed", "NoHarm", "no harm seen", "Collecting")
    steps: list[dict[str, object]] = [{"canary": {"share": "50%", "duration": "1m"}}]
    world.edit(make_spec("two", steps=steps, latency="Enforce"))
    world.run(lambda w: w.share == Share.parse("5%"), seconds=200)
    world.run(seconds=20)
    world.writes = 0
    for number in range(60):
        world.latency.message = f"no harm seen in {number} requests"
        world.run(seconds=2)
    assert world.writes <= 16


def test_the_last_word_of_a_gate_stays_as_evidence_until_the_next_attempt() -> None:
    world = in_step(1, latency="Enforce")
    world.latency.say("Failed", "Slower", "TTFT p95 is twice stable's")
    at_rest(world)
    told = world.status.gates[0]
    assert (told.verdict, told.metrics[0].name) == ("Failed", "ttft")
    assert told.canary_requests is not None
    world.latency.say("Passed", "NoHarm", "no harm seen", "Proven")
    world.say("retry:<B>")
    world.run(lambda w: w.status.canary_revision is not None)
    assert [g.verdict for g in world.status.gates] != ["Failed"]


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


# The error budget.


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


# The watch after the promotion.


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


# Faults of the cluster.


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


def test_every_verdict_is_weighed() -> None:
    """A new verdict must be given a meaning in rollout/gates.py before it is used."""
    for verdict in get_args(Verdict):
        world = in_step(1, latency="Enforce")
        world.latency.say(verdict, "Reason", "numbers", "Proven")
        world.run(seconds=90)
        passed = index(world) == 2
        assert passed == (verdict == "Passed")


def test_the_status_of_a_gate_reads_back_as_written() -> None:
    world = in_step(1, latency="Enforce")
    world.run(seconds=20)
    status = world.status
    assert LLMDeploymentStatus.model_validate_json(status.model_dump_json()) == status
