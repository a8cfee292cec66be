"""Promotion needs a proof that the canary is no worse; absence of alarm is none."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from llmrollouts.analysis.evalue import Cell
from llmrollouts.analysis.noninferiority import (
    PROMOTION_QUANTILES,
    ProofState,
    start_proof,
    tick_proof,
)

MEDIAN, SIGMA, MARGIN, BETA = 0.095, 0.5, 1.25, 0.01
THRESHOLDS = MEDIAN * np.exp(
    SIGMA * np.array([NormalDist().inv_cdf(q) for q in PROMOTION_QUANTILES])
)


def _prove(seed: int, slower: float, seconds: int, rate: float = 42.5) -> int | None:
    rng = np.random.default_rng(seed)
    state = start_proof()
    for second in range(1, seconds + 1):
        canary = slower * MEDIAN * np.exp(SIGMA * rng.standard_normal(rng.poisson(rate)))
        stable = MEDIAN * np.exp(SIGMA * rng.standard_normal(rng.poisson(4 * rate)))
        cells = [
            Cell(
                int((canary > MARGIN * x).sum()), canary.size, int((stable > x).sum()), stable.size
            )
            for x in THRESHOLDS
        ]
        state = tick_proof(state, cells, BETA)
        if state.proven:
            return second
    return None


def test_an_equal_canary_is_proven_within_ninety_seconds() -> None:
    delays = [_prove(seed, 1.0, 120) for seed in range(20)]
    assert sum(delay is None or delay > 90 for delay in delays) <= 1, delays


def test_a_canary_exactly_at_the_margin_is_not_proven() -> None:
    """The short form; 300 runs with at most 1 % are a benchmark."""
    assert all(_prove(seed, MARGIN, 150) is None for seed in range(20))


def test_no_requests_prove_nothing() -> None:
    state = start_proof()
    for _ in range(1000):
        state = tick_proof(state, [Cell(0, 0, 1, 10)] * 3, BETA)
    assert not state.proven


def test_a_proven_quantile_stays_proven() -> None:
    state = ProofState(((50.0,) * 5, (0.0,) * 5, (0.0,) * 5), (True, False, False))
    after = tick_proof(state, [Cell(9, 9, 0, 9)] * 3, BETA)
    assert after.accepted[0]


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5])
def test_a_level_outside_its_bounds_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="level"):
        tick_proof(start_proof(), [Cell(0, 1, 0, 1)] * 3, beta)
