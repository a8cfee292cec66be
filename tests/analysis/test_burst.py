"""Stalls of single workers do not add up to a rollback; regressions are not taken back."""

from __future__ import annotations

import pytest

from llmrollouts.analysis.burst import LEAST_CAPS, LONGEST, NONE, QUIET, Burst, follow_burst
from llmrollouts.analysis.eprocess import LATENCY_BETS, EProcess, EvidenceState
from llmrollouts.analysis.evalue import Cell

CAP = 1.5
RULE = EProcess(LATENCY_BETS, 1800, forgives=True)
STALLED = [Cell(4, 4, over, 17) for over in (8, 4, 1, 0, 0)]
WELL = [Cell(over, 4, control, 17) for over, control in ((1, 8), (0, 4), (0, 1), (0, 0), (0, 0))]
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
        burst, ended = follow_burst(burst, CAP, CAP, 0.5 + number)
        assert not ended
    assert burst == Burst(2, 2 * CAP, 0, 0.5)
    for _ in range(QUIET - 1):
        burst, ended = follow_burst(burst, -0.1, CAP, 9.0)
        assert not ended
    assert follow_burst(burst, 0.0, CAP, 9.0) == (NONE, True)


def test_what_won_little_what_won_slowly_and_what_lasted_is_no_stall() -> None:
    enough = LEAST_CAPS * CAP

    def taken(seconds: int, won: float) -> bool:
        burst = Burst(seconds, won, QUIET - 1, 0.5)
        after, ended = follow_burst(burst, -0.1, CAP, 9.0)
        assert after == NONE
        return ended

    assert taken(3, enough)
    assert not taken(3, enough - 0.01)
    assert not taken(LONGEST, enough)
    assert taken(LONGEST, LONGEST * CAP)
    assert not taken(LONGEST + 1, (LONGEST + 1) * CAP)
