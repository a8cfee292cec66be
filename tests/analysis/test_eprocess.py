"""Evidence over time: golden values, restarts of the operator, false alarms, delays."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from llmrollouts.analysis.eprocess import (
    LATENCY_BETS,
    QUANTILES,
    Bet,
    EProcess,
    EvidenceState,
)
from llmrollouts.analysis.evalue import Cell

MEDIAN, SIGMA = 0.095, 0.5  # seconds; the lognormal time to first token of the specification
THRESHOLDS = MEDIAN * np.exp(SIGMA * np.array([NormalDist().inv_cdf(q) for q in QUANTILES]))
LEVEL = 0.01 / 12


def test_three_ticks_match_the_golden_vector() -> None:
    rule = EProcess((Bet(0, 1.15), Bet(0, 2.2), Bet(1, 4.0)), stage_ticks=1800, cap=1.5)
    state = rule.start()
    seen = []
    for _ in range(3):
        state = rule.tick(state, (Cell(4, 4, 423, 846), Cell(2, 4, 8, 846)))
        seen.append(rule.evidence(state))
    assert seen == pytest.approx([2.057676, 6.240026, 23.366240], abs=1e-6)


def _second(
    rng: np.random.Generator, rate: float, slower: float, rho: float, tail: bool = False
) -> list[Cell]:
    """One second of arrivals: a canary at ``rate``, the rest of 850 requests/s on stable."""
    canary = slower * MEDIAN * np.exp(SIGMA * rng.standard_normal(rng.poisson(rate)))
    if tail:
        canary = np.where(rng.random(canary.size) < 0.05, canary * 5, canary)
    stable = MEDIAN * np.exp(SIGMA * rng.standard_normal(rng.poisson(850 - rate)))
    return [
        Cell(int((canary > rho * x).sum()), canary.size, int((stable > x).sum()), stable.size)
        for x in THRESHOLDS
    ]


def _first_alarm(
    seed: int,
    rate: float,
    slower: float,
    seconds: int,
    level: float,
    *,
    rho: float = 1.05,
    onset: int = 0,
    tail: bool = False,
) -> int | None:
    rng = np.random.default_rng(seed)
    rule = EProcess(LATENCY_BETS, stage_ticks=1800)
    state = rule.start()
    for second in range(1, seconds + 1):
        bad = second > onset
        cells = _second(rng, rate, slower if bad else 1.0, rho, tail and bad)
        state = rule.tick(state, cells)
        if rule.evidence(state) >= 1 / level:
            return second
    return None


def test_stored_evidence_continues_bit_for_bit() -> None:
    rng = np.random.default_rng(7)
    rule = EProcess(LATENCY_BETS, stage_ticks=600)
    straight = stored = rule.start()
    for _ in range(120):
        cells = _second(rng, 17.0, 1.2, 1.05)
        straight = rule.tick(straight, cells)
        stored = EvidenceState.from_json(rule.tick(stored, cells).to_json())
    assert stored == straight


@pytest.mark.parametrize("text", ["", "{}", '{"wealth": [-1], "ticks": 3}', '{"wealth": "x"}'])
def test_what_is_no_stored_evidence_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="evidence"):
        EvidenceState.from_json(text)


def test_equal_arms_looked_at_every_second_alarm_no_more_often_than_allowed() -> None:
    """The short form of the specification's test 2; the long one is a benchmark."""
    alarms = sum(
        _first_alarm(seed, 4.25, 1.0, 300, 0.05, rho=1.0) is not None for seed in range(60)
    )
    assert alarms <= 8  # 3 expected at most; more than 8 of 60 has a chance below 0.5 %


def test_a_faster_canary_never_alarms() -> None:
    assert all(_first_alarm(seed, 42.5, 0.5, 200, LEVEL) is None for seed in range(5))


@pytest.mark.parametrize(
    ("rate", "slower", "tail", "limit"),
    [
        (4.25, 4.0, False, 8),
        (4.25, 2.0, False, 16),
        (42.5, 1.5, False, 9),
        (42.5, 1.25, False, 20),
        (42.5, 1.0, True, 22),
    ],
)
def test_regressions_are_found_within_the_specified_delay(
    rate: float, slower: float, tail: bool, limit: int
) -> None:
    """p95 over 20 seeds: at most one may take longer."""
    delays = [_first_alarm(seed, rate, slower, 120, LEVEL, tail=tail) for seed in range(20)]
    late = [delay for delay in delays if delay is None or delay > limit]
    assert len(late) <= 1, delays


def test_a_regression_that_begins_late_is_found_as_quickly() -> None:
    delays = [_first_alarm(seed, 42.5, 2.0, 340, LEVEL, onset=300) for seed in range(8)]
    assert all(delay is not None and 300 < delay <= 314 for delay in delays), delays


def test_a_black_hole_is_found_although_nothing_completes() -> None:
    rule = EProcess(LATENCY_BETS, stage_ticks=1800)
    state = rule.start()
    rng = np.random.default_rng(3)
    for _ in range(7):
        good = _second(rng, 42.5, 1.0, 1.05)
        hung = [Cell(c.canary_total, c.canary_total, c.stable_over, c.stable_total) for c in good]
        state = rule.tick(state, hung)
    assert rule.evidence(state) >= 1 / LEVEL
