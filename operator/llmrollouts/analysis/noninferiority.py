"""The promotion test: prove that the canary is at most ``margin`` times slower.

"Not rolled back" is not "proven good". Here the bets are turned round (omega < 1): evidence grows
when the canary exceeds margin times a quantile of stable no more often than stable exceeds the
quantile itself. Every quantile must be accepted; each at level beta, without a penalty for their
number, because all are required (intersection-union test). It accumulates over steps, so it has
no restarts, and no cap, because a stall only lowers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from llmrollouts.analysis.evalue import Cell, log_e

PROMOTION_QUANTILES: Final = (0.50, 0.95, 0.99)
_LOG_BETS: Final = np.log(np.array([0.15, 0.3, 0.5, 0.7, 0.85]))


@dataclass(frozen=True, slots=True)
class ProofState:
    """log_wealth: for each quantile one value a bet; accepted: quantiles once proven stay so."""

    log_wealth: tuple[tuple[float, ...], ...]
    accepted: tuple[bool, ...]

    @property
    def proven(self) -> bool:
        return all(self.accepted)


def start_proof(quantiles: int = len(PROMOTION_QUANTILES)) -> ProofState:
    return ProofState(((0.0,) * len(_LOG_BETS),) * quantiles, (False,) * quantiles)


def proof_evidence(log_wealth: Sequence[float]) -> float:
    """E of one quantile: the mean over the bets."""
    values = np.array(log_wealth)
    top = float(values.max())
    return float(np.exp(min(top, 700.0)) * np.mean(np.exp(values - top)))


def tick_proof(state: ProofState, cells: Sequence[Cell], beta: float) -> ProofState:
    """Take in one arrival second; ``cells`` in the order of the quantiles.

    Raises ValueError when beta is no level in (0, 1) or a cell is missing.
    """
    if not 0 < beta < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {beta}")
    wealth, accepted = [], []
    for logs, done, cell in zip(state.log_wealth, state.accepted, cells, strict=True):
        grown = logs if done else tuple((np.array(logs) + log_e(cell, _LOG_BETS)).tolist())
        wealth.append(grown)
        accepted.append(done or proof_evidence(grown) >= 1 / beta)
    return ProofState(tuple(wealth), tuple(accepted))
