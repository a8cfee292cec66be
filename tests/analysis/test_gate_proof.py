"""Promotion needs a proof; silence, missing metrics and missing requests are none."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from llmrollouts.analysis.counts import Counts, LatencySecond, Metric, OutcomeSecond
from llmrollouts.analysis.gate import Gate, start_state
from llmrollouts.analysis.judgement import Judgement, Outcome
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.stage import Stage, freeze_stage
from tests.analysis.arms import Arms, make_stage, run, slower, take


def _judge(stage: Stage, parts: Iterator[LatencySecond | OutcomeSecond]) -> Judgement:
    gate, state = Gate(stage), start_state(stage)
    for part in parts:
        state = take(gate, state, part)
    return gate.judge(state)


def _without(
    arms: Arms, seconds: int, *, canary: Metric | None = None, both: Metric | None = None
) -> Iterator[LatencySecond | OutcomeSecond]:
    """Seconds in which one metric has no request: in the canary, or in either arm."""
    for second in range(seconds):
        for part in arms.second(second):
            if isinstance(part, LatencySecond) and part.stream.metric in (canary, both):
                control = Counts() if part.stream.metric is both else part.control
                yield LatencySecond(part.stream, part.second, Counts(), control)
            else:
                yield part


def test_an_equal_canary_is_proven_within_ninety_seconds() -> None:
    stage = make_stage((Metric.TTFT,))
    proven = 0
    for seed in range(20):
        gate, state, _ = run(Arms(stage, 42.5, 170.0, seed=seed), 90, stop=False)
        judgement = gate.judge(state)
        proven += judgement.proven
        assert judgement.outcome is Outcome.GOOD
    assert proven >= 18  # 95 % at least; fewer than 18 have a chance of 8 % at exactly that


@pytest.mark.parametrize("metric", [Metric.TTFT, Metric.E2E])
def test_a_canary_exactly_at_the_promotion_margin_is_not_proven(metric: Metric) -> None:
    """The short form; at most 1 % of 300 runs is a benchmark."""
    stage = make_stage((metric,))
    for seed in range(8):
        arms = Arms(stage, 42.5, 170.0, slower(1.25), seed=seed)
        gate, state, _ = run(arms, 120, stop=False)
        assert not gate.judge(state).proven


def test_the_proof_follows_stable_when_it_becomes_faster_than_its_baseline() -> None:
    stage = make_stage((Metric.TTFT,))
    faster = Arms(stage, 42.5, 170.0, slower(0.4), slower(0.4), seed=3)
    gate, state, _ = run(faster, 300, stop=False)
    assert gate.judge(state).proven

    worse = Arms(stage, 42.5, 170.0, slower(0.4 * 1.25), slower(0.4), seed=4)
    gate, state, _ = run(worse, 300, stop=False)
    assert not gate.judge(state).proven


@pytest.mark.thorough
def test_a_canary_exactly_at_the_promotion_margin_is_hardly_ever_proven() -> None:
    stage = make_stage((Metric.E2E,))
    proven = 0
    for seed in range(60):
        arms = Arms(stage, 42.5, 170.0, slower(1.25), seed=100 + seed)
        gate, state, _ = run(arms, 150, stop=False)
        proven += gate.judge(state).proven
    assert proven <= 2  # 0.6 expected at most


def test_what_is_missing_is_said_with_about_how_many_requests() -> None:
    stage = make_stage((Metric.TTFT,))
    gate, state, _ = run(Arms(stage, 4.25, 17.0), 60, stop=False)
    judgement = gate.judge(state)
    assert not judgement.proven
    assert "not yet shown to be no worse" in judgement.message
    assert re.search(
        r"about [\d,]+ more canary requests, \d+ (s|min) at this rate", judgement.message
    )
    missing = [line for line in judgement.proof if not line.accepted]
    assert any(line.more for line in missing)


def test_no_request_at_all_is_never_a_pass_and_never_a_rollback() -> None:
    stage = make_stage()
    judgement = _judge(
        stage, (part for second in range(300) for part in Arms(stage, 0.0, 0.0).second(second))
    )
    assert judgement.outcome is Outcome.GOOD
    assert not judgement.proven
    assert judgement.canary_requests == 0
    assert "nothing can be said" in judgement.message


@pytest.mark.parametrize(("canary", "control"), [(0.0, 50.0), (50.0, 0.0)])
def test_one_silent_arm_proves_nothing(canary: float, control: float) -> None:
    stage = make_stage((Metric.TTFT,))
    gate, state, decided = run(Arms(stage, canary, control), 120)
    judgement = gate.judge(state)
    assert decided is None
    assert not judgement.proven


def test_a_metric_that_nobody_uses_does_not_block_for_ever_and_is_named() -> None:
    stage = make_stage((Metric.TTFT, Metric.E2E))
    arms = Arms(stage, 42.5, 170.0)
    judgement = _judge(stage, _without(arms, 90, both=Metric.TTFT))
    assert judgement.left_out == ("tpot", "ttft")
    assert judgement.proven
    assert "time to first token" in judgement.message


def test_a_metric_is_left_out_only_after_many_other_requests() -> None:
    stage = make_stage((Metric.TTFT, Metric.E2E))
    judgement = _judge(stage, _without(Arms(stage, 4.0, 40.0), 30, both=Metric.TTFT))
    assert "ttft" not in judgement.left_out
    assert not judgement.proven


def test_a_canary_that_stopped_streaming_is_not_proven() -> None:
    """Stable streams, the canary does not: nothing may be left out."""
    stage = make_stage((Metric.TTFT, Metric.E2E))
    judgement = _judge(stage, _without(Arms(stage, 42.5, 170.0), 90, canary=Metric.TTFT))
    assert "ttft" not in judgement.left_out
    assert not judgement.proven


def test_without_a_baseline_nothing_is_proven() -> None:
    stage = freeze_stage("s", Policy(), None, 0.001, 600, 1)
    gate, state, _ = run(Arms(stage, 42.5, 170.0), 30)
    judgement = gate.judge(state)
    assert not judgement.proven
    assert judgement.left_out == ("ttft", "tpot", "e2e")


def test_a_proof_grows_over_the_stages_of_an_attempt() -> None:
    """Steps of which hardly one proves it alone prove it together."""
    stage = make_stage((Metric.TTFT,))
    proof, alone = None, 0
    for seed in range(12):
        gate, state, _ = run(Arms(stage, 4.25, 17.0, seed=seed), 60, stop=False, proof=proof)
        proof = state.proof
        gate, single, _ = run(Arms(stage, 4.25, 17.0, seed=seed), 60, stop=False)
        alone += gate.judge(single).proven
        if gate.judge(state).proven:
            break
    assert gate.judge(state).proven
    assert alone == 0
