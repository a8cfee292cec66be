"""Stalls of single workers do not add up to a rollback; regressions are not taken back."""

from __future__ import annotations

import pytest

from llmrollouts.analysis.burst import (
    LEAST_CAPS,
    NONE,
    QUIET,
    Burst,
    follow_burst,
    longest_burst,
)
from llmrollouts.analysis.eprocess import LATENCY_BETS, QUANTILES, EProcess, EvidenceState
from llmrollouts.analysis.evalue import Cell

CAP = 1.5
LONGEST = longest_burst(1, 0.5)


def lengths(workers: int) -> tuple[int, ...]:
    return tuple(longest_burst(workers, 1 - at) for at in QUANTILES)


RULE = EProcess(LATENCY_BETS, 1800, forgives=lengths(1))
STALLED = [Cell(4, 4, over, 17) for over in (8, 4, 1, 0, 0)]
WELL = [Cell(over, 4, control, 17) for over, control in ((1, 8), (0, 4), (0, 1), (0, 0), (0, 0))]
# Three canary workers, one of them stalled, against two of stable: most such seconds stay below
# the cap, because a request of the larger arm says less.
ONE_OF_THREE = [
    [Cell(over, 13, control, 8) for over, control in zip(overs, (4, 2, 0, 0, 0), strict=True)]
    for overs in ((8, 5, 4, 3, 3), (8, 6, 5, 5, 4), (8, 5, 4, 3, 3))
]
THREE_WELL = [
    Cell(over, 13, control, 8)
    for over, control in zip((6, 3, 1, 0, 0), (4, 2, 1, 0, 0), strict=True)
]
# Two canary workers, one of them stalled, against three of stable.
ONE_OF_TWO = [
    Cell(over, 9, control, 13)
    for over, control in zip((6, 5, 4, 3, 3), (6, 3, 1, 0, 0), strict=True)
]
TWO_WELL = [
    Cell(over, 9, control, 13)
    for over, control in zip((4, 2, 0, 0, 0), (6, 3, 1, 0, 0), strict=True)
]
SLOW_CONTROL = [
    Cell(over, 9, control, 13)
    for over, control in zip((4, 2, 0, 0, 0), (7, 4, 2, 1, 1), strict=True)
]
NOBODY = [Cell(0, 0, over, 17) for over in (8, 4, 1, 0, 0)]


def run(seconds: list[list[Cell]], rule: EProcess = RULE) -> EvidenceState:
    state = rule.start()
    for cells in seconds:
        state = rule.tick(state, cells)
    return state


def test_a_stall_that_ends_leaves_no_evidence() -> None:
    after = run([WELL] * 10 + [STALLED] * 4 + [WELL] * QUIET)
    assert RULE.evidence(after) < 2
    plain = EProcess(LATENCY_BETS, 1800)
    assert plain.evidence(run([WELL] * 10 + [STALLED] * 4 + [WELL] * QUIET, plain)) > 30


@pytest.mark.parametrize("apart", [20, 60])
def test_many_stalls_do_not_add_up(apart: int) -> None:
    state = run(([STALLED] * 4 + [WELL] * apart) * 6)
    assert RULE.evidence(state) < 2
    plain = EProcess(LATENCY_BETS, 1800)
    assert plain.evidence(run(([STALLED] * 4 + [WELL] * 5) * 6, plain)) > 1 / 8.33e-4


def test_stalls_that_stay_below_the_cap_do_not_add_up_either() -> None:
    """Half of a service on three canary workers: five stalls of one rolled it back."""
    rule = EProcess(LATENCY_BETS, 600, forgives=lengths(3))
    seconds = (ONE_OF_THREE + [THREE_WELL] * 20) * 8
    assert rule.evidence(run(seconds, rule)) < 2
    plain = EProcess(LATENCY_BETS, 600)
    assert plain.evidence(run(seconds, plain)) > 1 / 8.33e-4


def test_stalls_of_two_workers_that_touch_leave_no_evidence() -> None:
    touching = [ONE_OF_TWO] * 4 + [TWO_WELL] + [ONE_OF_TWO] * 4
    rule = EProcess(LATENCY_BETS, 600, forgives=lengths(2))
    assert rule.evidence(run([SLOW_CONTROL] * 3 + touching, rule)) > 100
    after = run([SLOW_CONTROL] * 3 + touching + [TWO_WELL] * QUIET, rule)
    assert rule.evidence(after) < 2
    # Of a single worker, a burst as long is no stall.
    alone = EProcess(LATENCY_BETS, 600, forgives=lengths(1))
    kept = run([SLOW_CONTROL] * 3 + touching + [TWO_WELL] * QUIET, alone)
    assert alone.evidence(kept) > 100


def test_the_more_workers_a_canary_has_the_longer_its_stalls_can_touch() -> None:
    found = [longest_burst(workers, 0.001) for workers in range(1, 50)]
    assert found == sorted(found)
    assert found[0] < found[1] < found[-1] < 15


def test_where_stable_exceeds_as_often_as_one_worker_answers_nothing_is_taken_back() -> None:
    assert all(lengths(2))
    assert [length > 0 for length in lengths(3)] == [False, True, True, True, True]
    assert [length > 0 for length in lengths(20)] == [False, False, True, True, True]
    assert [length > 0 for length in lengths(21)] == [False, False, False, True, True]


def test_a_regression_that_lasts_decides_as_soon_as_without() -> None:
    plain = EProcess(LATENCY_BETS, 1800)
    for seconds in range(1, LONGEST + 3):
        forgiving, unforgiving = run([STALLED] * seconds), run([STALLED] * seconds, plain)
        assert RULE.evidence(forgiving) == plain.evidence(unforgiving)
    # And what lasted longer than a stall is never taken back.
    lasted = run([STALLED] * (LONGEST + 1) + [WELL] * QUIET)
    assert RULE.evidence(lasted) > 1_000


def test_taking_back_never_adds_evidence() -> None:
    plain = EProcess(LATENCY_BETS, 1800)
    seconds = ([STALLED] * 3 + [WELL] * 3 + [NOBODY] + [STALLED] + [WELL]) * 8
    for number in range(1, len(seconds)):
        ours, theirs = run(seconds[:number]), run(seconds[:number], plain)
        assert all(a <= b for a, b in zip(ours.wealth, theirs.wealth, strict=True))


def test_seconds_without_requests_neither_end_nor_lengthen_a_burst() -> None:
    with_gaps, without = run([STALLED, NOBODY, NOBODY, NOBODY, STALLED]), run([STALLED, STALLED])
    assert [b[:3] for b in with_gaps.bursts] == [b[:3] for b in without.bursts]


def test_a_state_in_the_middle_of_a_burst_survives_json() -> None:
    state = run([WELL] * 3 + [STALLED] * 2 + [WELL])
    assert any(burst != NONE for burst in state.bursts)
    again = EvidenceState.from_json(state.to_json())
    assert again == state
    assert RULE.tick(again, WELL) == RULE.tick(state, WELL)


@pytest.mark.parametrize("bursts", ["[[1, 1, 0, 0.5]]", '"none"', "[[1]]", '[["a", 1, 0, 0.5]]'])
def test_nonsense_is_no_stored_burst(bursts: str) -> None:
    with pytest.raises(ValueError, match="no stored evidence"):
        EvidenceState.from_json(f'{{"wealth": [0.5, 0.5], "ticks": 3, "bursts": {bursts}}}')


def test_evidence_stored_before_bursts_were_is_read() -> None:
    assert EvidenceState.from_json('{"wealth": [0.5], "ticks": 3}').bursts == ()


def test_a_burst_ends_after_quiet_seconds_and_only_a_stalls_is_taken_back() -> None:
    burst = NONE
    for number in range(2):
        burst, ended = follow_burst(burst, CAP, CAP, 0.5 + number, LONGEST)
        assert not ended
    assert burst == Burst(2, 2 * CAP, 0, 0.5)
    for _ in range(QUIET - 1):
        burst, ended = follow_burst(burst, -0.1, CAP, 9.0, LONGEST)
        assert not ended
    assert follow_burst(burst, 0.0, CAP, 9.0, LONGEST) == (NONE, True)


def test_what_won_little_what_won_slowly_and_what_lasted_is_no_stall() -> None:
    enough = LEAST_CAPS * CAP

    def taken(seconds: int, won: float) -> bool:
        burst = Burst(seconds, won, QUIET - 1, 0.5)
        after, ended = follow_burst(burst, -0.1, CAP, 9.0, LONGEST)
        assert after == NONE
        return ended

    assert taken(3, enough)
    assert not taken(3, enough - 0.01)
    assert not taken(LONGEST, enough)
    assert taken(LONGEST, LONGEST * CAP)
    assert not taken(LONGEST + 1, (LONGEST + 1) * CAP)
