"""What a step can find: against the specification's simulated delays, and at the edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmrollouts.analysis import sizing
from llmrollouts.analysis.evalue import LARGEST_EXACT_SUPPORT, Cell, log_e
from llmrollouts.analysis.evalues import log_e_many
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.reach import EFFECTS, Power, describe_reach, format_rate, is_blind
from llmrollouts.analysis.sizing import (
    Setting,
    expect_delay,
    find_power,
    find_reach,
    suppose_stage,
)

LEVEL = 8.33e-4  # 1 % over four stages of three metrics, as in the specification
BY_NAME = {effect.name: effect for effect in EFFECTS}

# Table T9b (capped), margin -> canary requests a second -> effect -> simulated median and p95.
T9B = {
    (1.05, 4.25): {
        "+25%": (55, 112),
        "+50%": (18, 27),
        "2x": (9, 13),
        "4x": (6, 7),
        "5% of requests 5x": (72, 142),
    },
    (1.10, 4.25): {
        "+25%": (112, 217),
        "+50%": (20, 36),
        "2x": (10, 15),
        "5% of requests 5x": (81, 163),
    },
    (1.05, 17): {
        "+10%": (192, 367),
        "+25%": (19, 31),
        "+50%": (8, 10),
        "5% of requests 5x": (20, 37),
    },
    (1.05, 42.5): {
        "+10%": (79, 155),
        "+25%": (10, 16),
        "+50%": (6, 7),
        "5% of requests 5x": (11, 18),
    },
    (1.10, 42.5): {"+25%": (16, 27), "5% of requests 5x": (13, 20)},
    (1.05, 85): {"+10%": (47, 88), "+25%": (8, 10), "5% of requests 5x": (8, 12)},
    (1.05, 212.5): {"+10%": (24, 42), "+25%": (7, 7), "5% of requests 5x": (7, 8)},
    (1.05, 850): {"+10%": (14, 23), "+25%": (6, 7), "5% of requests 5x": (7, 7)},
}
# Table T11: errors where 0.1 % of stable's requests fail.
T11 = {
    4.25: {"1% errors": (181, 406), "5% errors": (26, 54), "20% errors": (8, 13)},
    42.5: {"1% errors": (24, 47), "5% errors": (5, 8), "20% errors": (4, 4)},
}


def setting(
    canary: float, control: float = 850.0, margin: float = 1.05, seconds: int = 600
) -> Setting:
    return Setting(canary, control, margin, LEVEL, LEVEL, seconds)


@pytest.mark.parametrize(("margin", "rate"), T9B)
def test_delays_are_those_of_the_simulations(margin: float, rate: float) -> None:
    for name, (median, p95) in T9B[margin, rate].items():
        power = expect_delay(BY_NAME[name], setting(rate, margin=margin))
        # One second for the whole ticks of short delays, and simulations scatter by themselves.
        assert power.median == pytest.approx(median, rel=0.30, abs=1), name
        assert power.p95 == pytest.approx(p95, rel=0.25, abs=1), name


@pytest.mark.parametrize("rate", T11)
def test_errors_are_found_as_fast_as_in_the_simulations(rate: float) -> None:
    for name, (median, p95) in T11[rate].items():
        power = expect_delay(BY_NAME[name], setting(rate, seconds=1800))
        assert power.median == pytest.approx(median, rel=0.30, abs=1), name
        assert power.p95 == pytest.approx(p95, rel=0.25, abs=1), name


@pytest.mark.parametrize("rate", [0.3, 1, 4.25, 42.5, 425])
def test_a_slowdown_inside_the_margin_is_never_found(rate: float) -> None:
    inside = replace(BY_NAME["+10%"], ratio=1.09)
    assert expect_delay(inside, setting(rate, 4 * rate, 1.10, 86_400)).median is None


def test_more_requests_and_larger_effects_are_found_sooner() -> None:
    delays = [expect_delay(BY_NAME["+50%"], setting(rate)).p95 for rate in (1, 4, 16, 64)]
    assert all(d is not None for d in delays)
    assert delays == sorted(delays, key=lambda d: -(d or 0))
    by_size = [expect_delay(BY_NAME[n], setting(4)).p95 for n in ("+25%", "+50%", "2x", "4x")]
    assert by_size == sorted(by_size, key=lambda d: -(d or 0))


def test_a_wider_spread_of_latencies_needs_more_requests() -> None:
    narrow, wide = (
        expect_delay(BY_NAME["+25%"], replace(setting(42.5), sigma=sigma)).p95
        for sigma in (0.5, 1.0)
    )
    assert narrow is not None
    assert wide is None or wide > 2.5 * narrow


def test_a_tiny_canary_finds_no_slower_revision_and_is_told_so() -> None:
    powers = find_power(setting(0.01, 2, 1.10, 1800))
    assert all(power.p95 is None for power in powers if not power.effect.failing)
    assert is_blind(powers)
    said = describe_reach(powers, 0.01)
    assert said.blind
    assert "but no slower revision, not even one 4x slower" in said.message
    # Four failures in a row are enough, even at this rate.
    assert said.finds.startswith("100% errors within")
    shorter = describe_reach(find_power(setting(0.01, 2, 1.10, 60)), 0.01)
    assert "can find nothing" in shorter.message
    assert (shorter.blind, shorter.finds) == (True, "")


def test_without_requests_nothing_is_found() -> None:
    assert find_power(setting(0, 4)) == tuple(Power(effect, None, None) for effect in EFFECTS)
    assert expect_delay(EFFECTS[3], setting(4, 0)).median is None


def test_latency_never_decides_before_twenty_requests() -> None:
    power = expect_delay(BY_NAME["4x"], setting(0.5, 4, 1.10, 1800))
    assert power.median is not None
    assert power.median >= 40


def test_the_sentence_names_the_smallest_and_the_quick_effect() -> None:
    said = describe_reach(find_power(setting(4.25, 17, 1.10, 1800)), 4.25)
    assert not said.blind
    for text in ("+25% slower within", "2x slower within", "errors within"):
        assert text in said.message
        assert text in said.finds


def test_a_running_step_is_told_of_at_its_own_rate() -> None:
    stage = suppose_stage(Policy(), 0.002, 1800, 1)
    said = find_reach(stage, 4.2345, 17.1)
    assert said.rate == "4.2"
    assert said.message.startswith("With 4.2 compared canary requests a second this step finds")
    assert find_reach(stage, 0.0, 8.0).blind


def test_rates_that_differ_by_little_share_one_calculation() -> None:
    stage = suppose_stage(Policy(), 0.002, 1800, 1)
    first, second = find_reach(stage, 4.18, 16.9), find_reach(stage, 4.22, 17.1)
    assert (first.finds, first.blind) == (second.finds, second.blind)
    misses = sizing._growth.cache_info().misses
    find_reach(stage, 4.2, 17.0)
    assert sizing._growth.cache_info().misses == misses


@pytest.mark.parametrize(
    ("rate", "text"), [(0.0, "0"), (0.01234, "0.012"), (4.25, "4.2"), (42.0, "42"), (423.0, "420")]
)
def test_rates_are_written_with_two_digits(rate: float, text: str) -> None:
    assert format_rate(rate) == text


def test_many_cells_have_the_evidence_of_each() -> None:
    rng = np.random.default_rng(7)
    bets = np.log(np.array([0.15, 0.85, 1.15, 4.0, 100.0]))
    rows = []
    for _ in range(300):
        drawn, others = int(rng.integers(0, 60)), int(rng.integers(0, 900))
        rows.append([rng.integers(0, drawn + 1), drawn, rng.integers(0, others + 1), others])
    large = 2 * LARGEST_EXACT_SUPPORT
    rows.append([large // 2, large, 10 * large, 20 * large])
    cells = np.array(rows)
    single = np.array([log_e(Cell(*(int(n) for n in row)), bets, 1.5) for row in cells.tolist()])
    assert np.allclose(log_e_many(cells, bets, 1.5), single, rtol=0, atol=1e-9)


def test_no_cells_have_no_evidence() -> None:
    assert log_e_many(np.empty((0, 4), dtype=np.int64), np.log(np.array([2.0]))).shape == (0, 1)
