"""The hard limit, the reported band, and the budget that all of them share."""

from __future__ import annotations

import math

import pytest

from llmrollouts.analysis.budget import Budget, split_over_metrics
from llmrollouts.analysis.ksband import band_constant, band_width, ks_distance, ks_lower_bound
from llmrollouts.analysis.limit import AbsoluteLimit, LimitVerdict, judge_limit


@pytest.mark.parametrize(("alpha", "constant"), [(0.05, 8.1227), (0.01, 9.2835), (0.001, 10.9431)])
def test_band_constants_match_the_golden_vectors(alpha: float, constant: float) -> None:
    assert band_constant(alpha) == pytest.approx(constant, abs=2e-4)


@pytest.mark.parametrize(
    ("requests", "width"), [(20, 0.57911), (100, 0.27204), (1000, 0.08864), (10000, 0.02852)]
)
def test_band_widths_match_the_golden_vectors(requests: int, width: float) -> None:
    assert band_width(requests, 0.01) == pytest.approx(width, abs=2e-5)


def test_too_few_requests_have_no_band() -> None:
    assert band_width(19, 0.01) == math.inf
    assert ks_lower_bound(0.9, 10, 1000, 0.01) == -math.inf


def test_the_distance_is_one_sided() -> None:
    assert ks_distance([50, 10], 100, [20, 2], 100) == 0.0
    assert ks_distance([50, 10], 100, [70, 10], 100) == pytest.approx(0.2)
    assert ks_distance([], 0, [], 0) == 0.0


def test_a_canary_over_the_limit_alone_is_rolled_back_and_with_stable_only_frozen() -> None:
    rule = AbsoluteLimit(allowed=0.01, stage_ticks=1800)
    state = rule.start()
    for _ in range(20):
        state = rule.tick(state, over=5, total=40)
    absolute, level = rule.evidence(state), 0.001
    assert judge_limit(absolute, relative=1e6, alpha=level) is LimitVerdict.ROLL_BACK
    assert judge_limit(absolute, relative=1.0, alpha=level) is LimitVerdict.FREEZE


def test_a_canary_within_the_limit_gathers_no_evidence() -> None:
    rule = AbsoluteLimit(allowed=0.01, stage_ticks=1800)
    state = rule.start()
    for second in range(1800):
        state = rule.tick(state, over=int(second % 10 == 0), total=20)  # 0.5 % exceed it
    assert judge_limit(rule.evidence(state), 1e9, 0.001) is LimitVerdict.WITHIN


@pytest.mark.parametrize("allowed", [0.0, 0.5, -0.1])
def test_a_limit_that_allows_nonsense_is_refused(allowed: float) -> None:
    with pytest.raises(ValueError, match="limit"):
        AbsoluteLimit(allowed, 60)


def test_the_budget_is_never_exceeded_whatever_is_edited() -> None:
    budget, levels = Budget(0.01), []
    for left in (6, 5, 9, 8, 1):  # a step was added in mid-rollout, then all but one removed
        level, budget = budget.allot(left)
        levels.append(level)
    assert sum(levels) == pytest.approx(0.01)
    assert budget.allot(3)[0] == pytest.approx(0.0)


def test_metrics_share_a_stage_by_weight() -> None:
    shared = split_over_metrics(0.001, {"ttft": 2, "tpot": 1, "errors": 1})
    assert shared == pytest.approx({"ttft": 0.0005, "tpot": 0.00025, "errors": 0.00025})
    with pytest.raises(ValueError, match="weight"):
        split_over_metrics(0.001, {"ttft": 0})
