"""The promotion test: prove that the canary is at most ``margin`` times slower.

"Not rolled back" is not "proven good". Here the bets are turned round (omega < 1): evidence grows
when the canary exceeds margin times a quantile of stable no more often than stable exceeds the
quantile itself. Every quantile must be accepted; each at level beta, without a penalty for their
number, because all are required (intersection-union test). It accumulates over steps, so it has
no restarts, and no cap, because a stall only lowers it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmrollouts.analysis.evalue import Cell, log_e_rows

PROMOTION_QUANTILES: Final = (0.50, 0.95, 0.99)
PROOF_LOG_BETS: Final = tuple(math.log(omega) for omega in (0.15, 0.3, 0.5, 0.7, 0.85))


@dataclass(frozen=True, slots=True)
class ProofState:
    """log_wealth: for each quantile one value a bet; accepted: quantiles once proven stay so."""

    log_wealth: tuple[tuple[float, ...], ...]
    accepted: tuple[bool, ...]

    @property
    def proven(self) -> bool:
        return all(self.accepted)


def start_proof(quantiles: int = len(PROMOTION_QUANTILES)) -> ProofState:
    return ProofState(((0.0,) * len(PROOF_LOG_BETS),) * quantiles, (False,) * quantiles)


def proof_evidence(log_wealth: Sequence[float]) -> float:
    """E of one quantile: the mean over the bets."""
    top = max(log_wealth)
    mean = sum(math.exp(value - top) for value in log_wealth) / len(log_wealth)
    return math.exp(min(top, 700.0)) * mean


def tick_proof(state: ProofState, cells: Sequence[Cell], beta: float) -> ProofState:
    """Take in one arrival second; ``cells`` in the order of the quantiles.

    Raises ValueError when beta is no level in (0, 1) or a cell is missing.
    """
    gains = log_e_rows(cells, (PROOF_LOG_BETS,) * len(cells))
    return grow_proof(state, gains, beta)


def grow_proof(state: ProofState, gains: Sequence[Sequence[float]], beta: float) -> ProofState:
    """``tick_proof`` with ln e of each quantile's bets known already."""
    if not 0 < beta < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {beta}")
    wealth, accepted = [], []
    for logs, done, row in zip(state.log_wealth, state.accepted, gains, strict=True):
        grown = logs if done else tuple(a + b for a, b in zip(logs, row, strict=True))
        wealth.append(grown)
        accepted.append(done or proof_evidence(grown) >= 1 / beta)
    return ProofState(tuple(wealth), tuple(accepted))
