"""What follows from the verdicts of gates, step by step: never a promotion for want of evidence."""

from __future__ import annotations

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


def test_the_proof_is_told_once_in_an_attempt() -> None:
    world = in_step(1, latency="Enforce")
    for _ in range(3):
        world.latency.say("Passed", "NoHarm", "no harm seen", "Collecting")
        world.run(seconds=4)
        world.latency.say("Passed", "Proven", "shown on 1400 requests", "Proven")
        world.run(seconds=4)
    assert sum(1 for n in world.notices if n.reason == "Proven") == 1


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


def test_nobody_meets_a_canary_before_the_gate_compares_it() -> None:
    world = serving()
    world.latency.silent = True
    steps: list[dict[str, object]] = [{"canary": {"share": "5%", "duration": "1m"}}]
    world.edit(make_spec("two", steps=steps, latency="Enforce"))
    world.run(seconds=300)
    assert world.status.canary_revision is not None
    assert not world.share
    assert "GateSilent" in (world.status.message or "")
    # It compares, and says that it cannot decide yet: its requests are those of these users.
    world.latency.silent = False
    world.latency.say("Inconclusive", "TooFewSamples", "needs 20 more", "Collecting")
    world.run(lambda w: w.share == Share.parse("5%"), seconds=30)
    world.latency.silent = True
    world.run(seconds=20)
    assert world.share == Share.parse("5%"), "users who are on it stay"


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
