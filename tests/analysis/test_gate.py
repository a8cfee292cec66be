"""The whole gate on simulated arms: what it must find, what it must never hold against a canary.

The full series are a benchmark; each here has a short form and, marked thorough, a longer one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.gate import Gate, start_state
from llmrollouts.analysis.judgement import Outcome
from llmrollouts.analysis.policy import Policy
from tests.analysis.arms import (
    Arms,
    Change,
    Times,
    black_hole,
    make_stage,
    run,
    slower,
    tail,
    take,
    unchanged,
)

FIRST_TOKEN = (Metric.TTFT,)


def _drift(seed: int, phi: float = 0.98, sd: float = 0.1) -> Change:
    """A common AR(1) wobble of 10 %: load, neighbours, the network."""
    rng = np.random.default_rng(seed)
    level, last = 0.0, -1

    def drift(second: int, times: Times) -> Times:
        nonlocal level, last
        if second != last:
            last = second
            level = phi * level + sd * float(np.sqrt(1 - phi**2)) * float(rng.standard_normal())
        return times * float(np.exp(level))

    return drift


def _delays(make: Callable[[int], Arms], runs: int, seconds: int) -> list[int | None]:
    """For each seed the arrival second after which the gate rolled back, or None."""
    return [run(make(seed), seconds)[2] for seed in range(runs)]


def _rollbacks(make: Callable[[int], Arms], runs: int, seconds: int) -> int:
    return sum(delay is not None for delay in _delays(make, runs, seconds))


# ------------------------------------------------------------------- what it must not do


def test_equal_arms_are_rolled_back_no_more_often_than_the_level_allows() -> None:
    """Every metric and every look of the whole gate together, at a level of 5 %."""
    stage = make_stage(level=0.05, policy=Policy(margin=1.0), ticks=120)
    made = _rollbacks(lambda seed: Arms(stage, 4.25, 17.0, seed=seed), 16, 120)
    assert made <= 3  # more have a chance below 1 % at exactly 5 %


def test_a_canary_exactly_the_margin_slower_is_not_rolled_back_too_often() -> None:
    stage = make_stage(FIRST_TOKEN, Policy(margin=1.05), level=0.05, ticks=150)
    made = _rollbacks(lambda seed: Arms(stage, 42.5, 170.0, slower(1.05), seed=seed), 20, 150)
    assert made <= 4


def test_drift_common_to_both_arms_is_no_evidence() -> None:
    stage = make_stage(FIRST_TOKEN, level=0.05, ticks=250)
    for seed in range(16):
        arms = Arms(stage, 42.5, 170.0, seed=seed, common=_drift(seed))
        assert run(arms, 250)[2] is None


@pytest.mark.thorough
@pytest.mark.parametrize("rate", [4.25, 42.5])
def test_false_rollbacks_of_long_stages_stay_within_the_level(rate: float) -> None:
    stage = make_stage(FIRST_TOKEN, Policy(margin=1.0), level=0.05, ticks=600)
    assert _rollbacks(lambda seed: Arms(stage, rate, 4 * rate, seed=seed), 40, 600) <= 6


def test_a_faster_canary_is_never_rolled_back() -> None:
    stage = make_stage(level=0.05, ticks=120)
    made = _rollbacks(lambda seed: Arms(stage, 42.5, 170.0, slower(0.5), seed=seed), 4, 120)
    assert made == 0


@pytest.mark.parametrize("rate", [4.25, 42.5])
def test_a_stall_of_the_only_canary_worker_is_tolerated(rate: float) -> None:
    """Four times slower for three seconds, at the very start and once more."""

    def stall(second: int, times: Times) -> Times:
        return times * 4 if second % 100 in (0, 1, 2) else times

    stage = make_stage(FIRST_TOKEN, canary_workers=1)
    made = _rollbacks(lambda seed: Arms(stage, rate, 4 * rate, stall, seed=seed), 8, 200)
    assert made == 0


def test_a_stall_under_heavy_traffic_does_not_move_the_band_either() -> None:
    """Over a thousand requests of one stall are one event, not a thousand."""
    stage = make_stage(FIRST_TOKEN, canary_workers=1)
    arms = Arms(stage, 425.0, 1700.0, lambda second, times: times * (4 if second < 3 else 1))
    _, state, decided = run(arms, 60)
    assert decided is None, state.decided


def test_a_lasting_slowness_of_the_same_size_is_not_tolerated() -> None:
    """So the test above does not pass for want of power."""
    stage = make_stage(FIRST_TOKEN, canary_workers=1)
    delays = _delays(lambda seed: Arms(stage, 42.5, 170.0, slower(4), seed=seed), 5, 30)
    assert all(delay is not None and delay <= 8 for delay in delays), delays


def test_both_slowed_together_are_frozen_by_the_limit_and_never_rolled_back() -> None:
    stage = make_stage(FIRST_TOKEN, Policy(limits={Metric.TTFT: 0.35}))
    for seed in range(6):
        arms = Arms(stage, 42.5, 170.0, common=slower(2.5, onset=20), seed=seed)
        gate, state, decided = run(arms, 90)
        judgement = gate.judge(state)
        assert decided is None
        assert judgement.outcome is Outcome.FREEZE
        assert judgement.finding is not None
        assert judgement.finding.metric == "ttftP99"
        assert "going back would not help" in judgement.message


def test_both_slowed_together_without_a_limit_are_left_alone() -> None:
    stage = make_stage(FIRST_TOKEN)
    gate, state, _ = run(Arms(stage, 42.5, 170.0, common=slower(2.5, onset=20)), 90)
    assert gate.judge(state).outcome is Outcome.GOOD


# ------------------------------------------------------------------- what it must find


@pytest.mark.parametrize(
    ("rate", "canary", "limit"),
    [
        (4.25, slower(4), 8),
        (4.25, slower(2), 18),
        (42.5, slower(1.5), 9),
        (42.5, slower(1.25), 20),
        (42.5, tail(0.05, 5), 22),
    ],
    ids=["4x at 4/s", "2x at 4/s", "+50% at 42/s", "+25% at 42/s", "tail at 42/s"],
)
def test_a_slower_first_token_is_found_within_the_specified_delay(
    rate: float, canary: Change, limit: int
) -> None:
    """p95 over 20 seeds, with a control group of only four times the canary's requests."""
    stage = make_stage(FIRST_TOKEN, Policy(margin=1.05))
    delays = _delays(lambda seed: Arms(stage, rate, 4 * rate, canary, seed=seed), 20, 60)
    late = [delay for delay in delays if delay is None or delay > limit]
    assert len(late) <= 1, delays


@pytest.mark.thorough
def test_ten_per_cent_are_found_when_all_traffic_is_mirrored() -> None:
    stage = make_stage(FIRST_TOKEN, Policy(margin=1.05))
    delays = _delays(lambda seed: Arms(stage, 850.0, 850.0, slower(1.10), seed=seed), 20, 60)
    late = [delay for delay in delays if delay is None or delay > 28]
    assert len(late) <= 1, delays


def test_a_hundredfold_slowdown_of_a_few_requests_is_found() -> None:
    """kayenta#780, spinnaker#6278: it hid in the tail."""
    stage = make_stage(FIRST_TOKEN)
    delays = _delays(lambda seed: Arms(stage, 42.5, 170.0, tail(0.02, 100), seed=seed), 6, 120)
    assert all(delay is not None and delay <= 60 for delay in delays), delays


@pytest.mark.parametrize("metric", [Metric.TPOT, Metric.E2E])
def test_every_latency_has_its_own_evidence(metric: Metric) -> None:
    stage = make_stage(ticks=900)
    gate, state, decided = run(Arms(stage, 42.5, 170.0, slower(1.6), only=metric), 60)
    assert decided is not None
    found = gate.judge(state).finding
    assert found is not None
    assert found.metric.removeprefix("ks:") == metric.value


@pytest.mark.parametrize(("rate", "limit"), [(4.25, 22), (42.5, 14)])
def test_a_regression_that_begins_late_is_found_as_quickly(rate: float, limit: int) -> None:
    """p95: at most one of eight may take longer."""
    stage = make_stage(FIRST_TOKEN, Policy(margin=1.05))
    delays = []
    for seed in range(8):
        arms = Arms(stage, rate, 4 * rate, slower(2, onset=200), seed=seed)
        gate, state, decided = run(arms, 240)
        assert decided is not None
        delays.append(decided - 200)
        judgement = gate.judge(state)
        assert judgement.first_seen is not None
        assert 190 <= judgement.first_seen <= 210
        assert judgement.decided == decided + 1  # the lag of the first token is one second
    assert min(delays) > 0
    assert sum(delay > limit for delay in delays) <= 1, delays


def test_a_regression_long_after_the_planned_end_is_still_found() -> None:
    """A step that a person holds is not blind."""
    stage = make_stage(FIRST_TOKEN, ticks=60)
    _, _, decided = run(Arms(stage, 42.5, 170.0, slower(2, onset=400)), 440)
    assert decided is not None
    assert 400 < decided <= 420


def test_a_canary_that_never_answers_is_found_although_nothing_completes() -> None:
    stage = make_stage(FIRST_TOKEN)
    for rate in (4.25, 42.5):
        gate, state, decided = run(Arms(stage, rate, 4 * rate, black_hole), 30)
        assert decided is not None
        assert decided <= 8
        assert gate.judge(state).outcome is Outcome.ROLL_BACK


def test_failures_are_found_although_stable_has_none() -> None:
    """kayenta#426: sparse errors passed, and a baseline without any broke the judge."""
    stage = make_stage(FIRST_TOKEN)
    for seed in range(10):
        arms = Arms(stage, 4.25, 17.0, failing=(0.2, 0.0), seed=seed)
        gate, state, decided = run(arms, 40)
        assert decided is not None
        assert decided <= 25
        found = gate.judge(state).finding
        assert found is not None
        assert found.metric == "errors"
        assert found.over_control == 0
        assert "failed" in found.message


def test_a_single_failure_where_stable_has_none_is_no_reason_to_roll_back() -> None:
    stage = make_stage(FIRST_TOKEN)
    for seed in range(5):
        _, state, decided = run(Arms(stage, 4.25, 17.0, failing=(0.001, 0.0), seed=seed), 120)
        assert decided is None, state.decided


def test_an_outage_of_both_arms_is_frozen_by_the_error_limit() -> None:
    stage = make_stage(FIRST_TOKEN, Policy(error_limit=0.02))
    gate, state, decided = run(Arms(stage, 42.5, 170.0, failing=(0.3, 0.3)), 60)
    judgement = gate.judge(state)
    assert decided is None
    assert judgement.outcome is Outcome.FREEZE
    assert judgement.finding is not None
    assert judgement.finding.metric == "errorRate"


def test_a_canary_beyond_its_limit_and_worse_than_stable_is_rolled_back() -> None:
    policy = Policy(margin=2.0, promotion_margin=2.5, limits={Metric.TTFT: 0.35})
    stage = make_stage(FIRST_TOKEN, policy)
    gate, state, decided = run(Arms(stage, 42.5, 170.0, slower(1.5)), 120)
    assert decided is not None, "50 % slower lies within the margin, but not within the limit"
    found = gate.judge(state).finding
    assert found is not None
    assert found.metric == "ttftP99"


def test_the_watch_after_promotion_compares_with_a_small_control() -> None:
    stage = make_stage(FIRST_TOKEN, watch=True)
    good = Arms(stage, 150.0, 4.25, unchanged)
    gate, state, decided = run(good, 90)
    assert decided is None
    assert not gate.judge(state).proof, "nothing is left to prove after the promotion"
    bad = Arms(stage, 150.0, 4.25, slower(2, onset=20))
    assert (run(bad, 90)[2] or 999) <= 45


def test_a_handful_of_requests_rolls_nothing_back_for_latency() -> None:
    stage = make_stage(FIRST_TOKEN)
    gate, state = Gate(stage), start_state(stage)
    arms = Arms(stage, 2.0, 60.0, black_hole)
    for second in range(60):
        for part in arms.second(second):
            state = take(gate, state, part)
        if state.decided:
            break
    assert state.decided
    assert gate.judge(state).canary_requests >= 20
