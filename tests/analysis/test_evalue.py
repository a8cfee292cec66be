"""The bets of one second: fair under equal arms, never better than fair for a good canary."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.analysis.evalue import Cell, log_e, log_e_closed, log_e_exact

# canary_total, canary_over, stable_total, stable_over, omega, closed, exact: the golden vectors
# of the specification, section 11.
GOLDEN = [
    (4, 4, 846, 423, 2.2, 1.266762, 1.267753),
    (21, 16, 4229, 2115, 1.4, 1.544923, 1.546295),
    (21, 3, 4229, 42, 4.0, 3.502200, 3.506542),
    (212, 130, 4038, 2019, 1.4, 4.690537, 4.836400),
    (425, 30, 425, 21, 2.5, -9.136799, -0.772928),
    (4, 0, 846, 8, 15.0, -0.495112, -0.485180),
    (21, 5, 4229, 211, 0.5, -2.925191, -2.924563),
]


@pytest.mark.parametrize(("nc", "kc", "ns", "ks", "omega", "closed", "exact"), GOLDEN)
def test_both_forms_match_the_golden_vectors(
    nc: int, kc: int, ns: int, ks: int, omega: float, closed: float, exact: float
) -> None:
    cell, bets = Cell(kc, nc, ks, ns), np.log(np.array([omega]))
    assert log_e_closed(cell, bets)[0] == pytest.approx(closed, abs=1e-6)
    assert log_e_exact(cell, bets)[0] == pytest.approx(exact, abs=1e-6)


@given(
    pool=st.integers(2, 80),
    data=st.data(),
    omega=st.floats(1.05, 50.0),
)
def test_a_bet_on_equal_arms_is_fair_and_the_closed_form_never_pays_more(
    pool: int, data: st.DataObject, omega: float
) -> None:
    drawn = data.draw(st.integers(1, pool))
    marked = data.draw(st.integers(0, pool))
    bets = np.log(np.array([omega]))
    low, high = max(0, drawn + marked - pool), min(drawn, marked)
    expected, before = 0.0, -np.inf
    for x in range(low, high + 1):
        cell = Cell(x, drawn, marked - x, pool - drawn)
        exact = float(log_e_exact(cell, bets)[0])
        assert float(log_e_closed(cell, bets)[0]) <= exact + 1e-9
        assert exact >= before, "more exceedances must never pay less"
        before = exact
        ways = comb(marked, x) * comb(pool - marked, drawn - x)
        expected += ways / comb(pool, drawn) * float(np.exp(exact))
    assert expected == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("canary", "stable"), [(0.1, 0.1), (0.05, 0.1), (0.3, 0.5)])
def test_a_canary_that_exceeds_no_more_often_never_gains_on_average(
    canary: float, stable: float
) -> None:
    bets = np.log(np.array([3.0]))
    total = sum(
        _chance(kc, 8, canary)
        * _chance(ks, 30, stable)
        * float(np.exp(log_e_exact(Cell(kc, 8, ks, 30), bets)[0]))
        for kc in range(9)
        for ks in range(31)
    )
    assert total <= 1 + 1e-9


def _chance(hits: int, draws: int, of_each: float) -> float:
    """That so many of the draws hit (binomial)."""
    return comb(draws, hits) * of_each**hits * (1 - of_each) ** (draws - hits)


def test_no_requests_and_no_exceedances_are_no_evidence() -> None:
    bets = np.log(np.array([1.4, 40.0]))
    assert log_e(Cell(0, 0, 5, 10), bets).tolist() == [0.0, 0.0]
    assert log_e(Cell(0, 4, 0, 10), bets).tolist() == [0.0, 0.0]


def test_the_cap_bounds_one_second_from_above_only() -> None:
    bets = np.log(np.array([40.0]))
    assert log_e(Cell(20, 20, 0, 80), bets, cap=1.5)[0] == 1.5
    assert log_e(Cell(0, 20, 80, 80), bets, cap=1.5)[0] < 0


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="no counts"):
        Cell(5, 4, 0, 10)
