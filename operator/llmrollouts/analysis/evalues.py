"""The evidence of many cells at once: ``evalue.log_e`` over arrays, the same numbers.

For whoever looks at thousands of seconds together: the expected growth of a step (``sizing``) and
the simulations of the benchmarks. It decides nothing; a test compares it with ``log_e``.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from llmrollouts.analysis.evalue import LARGEST_EXACT_SUPPORT, FloatArray, log_factorials

IntArray: TypeAlias = npt.NDArray[np.int64]

_WORK: Final = 2_000_000  # numbers in memory at once, a bet


def log_e_many(cells: IntArray, log_bets: FloatArray, cap: float = np.inf) -> FloatArray:
    """ln e of each cell and bet, at most ``cap`` nats.

    cells: shape (n, 4), rows as in ``evalue.Cell``: canary over, canary total, stable over, stable
    total. log_bets: ln omega, shape (bets,). Returns shape (n, bets).
    """
    drawn, marked = cells[:, 1], cells[:, 0] + cells[:, 2]
    pool = drawn + cells[:, 3]
    gains = np.zeros((len(cells), len(log_bets)))
    lowest = np.maximum(0, drawn + marked - pool)
    support = np.minimum(drawn, marked) - lowest + 1
    silent = (drawn == 0) | (marked == 0)
    closed = (np.minimum(drawn, marked) > LARGEST_EXACT_SUPPORT) & (10 * drawn <= pool) & ~silent
    if closed.any():
        rate = (marked[closed] / pool[closed])[:, None]
        paid = cells[closed, 0, None] * log_bets
        gains[closed] = paid - drawn[closed, None] * np.log1p(np.expm1(log_bets) * rate)
    exact = np.flatnonzero(~silent & ~closed)
    ln = log_factorials(int(pool.max(initial=0)) + 1)
    # By width, so that little of each rectangle is padding.
    exact = exact[np.argsort(support[exact], kind="stable")]
    begin = 0
    while begin < len(exact):
        end = begin + max(1, _WORK // int(support[exact[min(len(exact), begin + 4096) - 1]]))
        rows = exact[begin : min(end, begin + 4096)]
        gains[rows] = _exact(cells[rows], lowest[rows], int(support[rows].max()), ln, log_bets)
        begin += len(rows)
    return np.minimum(gains, cap)


def _exact(
    cells: IntArray, lowest: IntArray, width: int, ln: FloatArray, log_bets: FloatArray
) -> FloatArray:
    drawn, marked = cells[:, 1:2], cells[:, 0:1] + cells[:, 2:3]
    pool = drawn + cells[:, 3:4]
    x = lowest[:, None] + np.arange(width)
    inside = x <= np.minimum(drawn, marked)
    x = np.minimum(x, np.minimum(drawn, marked))
    log_pmf = (
        ln[marked] - ln[x] - ln[marked - x]
        + ln[pool - marked] - ln[drawn - x] - ln[pool - marked - drawn + x]
        - ln[pool] + ln[drawn] + ln[pool - drawn]
    )  # fmt: skip
    log_pmf = np.where(inside, log_pmf, -np.inf)
    gains = np.empty((len(cells), len(log_bets)))
    for place, log_bet in enumerate(log_bets.tolist()):
        terms = log_pmf + log_bet * x
        top = terms.max(axis=1)
        moment = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
        gains[:, place] = cells[:, 0] * log_bet - moment
    return gains
