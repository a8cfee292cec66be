"""The evidence of one second at one threshold: Fisher-conditional likelihood-ratio bets.

Decides what a bet pays; never how pay-offs accumulate (``eprocess``). Conditioning on the pooled
counts removes the baseline, the load, the hour of the day and every shock that hits both arms.
Source of the closed form: W. Hoeffding, Probability inequalities for sums of bounded random
variables (1963), theorem 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]

# Above this many possible values the sum costs more than its extra power is worth, and the closed
# form (never larger, so as valid) is used, provided that the canary is a small part of the pool.
LARGEST_EXACT_SUPPORT: Final = 4096
# Sums over so few values come out the same to the last bit however many cells share the arrays.
_NARROW: Final = 7
_KEPT_ROWS: Final = 8192  # of narrow cells, about 4 MiB


@dataclass(frozen=True, slots=True)
class Cell:
    """Counts of one arrival second at one threshold; requests, not tokens.

    canary_over of canary_total requests exceeded the threshold (times the margin); stable_over of
    stable_total exceeded it. Raises ValueError for counts that cannot be.
    """

    canary_over: int
    canary_total: int
    stable_over: int
    stable_total: int

    def __post_init__(self) -> None:
        if not (
            0 <= self.canary_over <= self.canary_total
            and 0 <= self.stable_over <= self.stable_total
        ):
            raise ValueError(f"no counts of requests: {self}")

    def __add__(self, other: Cell) -> Cell:
        """The counts of two seconds; for reports, never for evidence."""
        return Cell(
            self.canary_over + other.canary_over,
            self.canary_total + other.canary_total,
            self.stable_over + other.stable_over,
            self.stable_total + other.stable_total,
        )

    def to_plain(self) -> list[int]:
        """For JSON: the counts in their order."""
        return [self.canary_over, self.canary_total, self.stable_over, self.stable_total]


_log_factorials: FloatArray = np.zeros(1)


def log_factorials(largest: int) -> FloatArray:
    """ln n! for n = 0 … largest; grown by doubling, as seconds repeat sizes.

    From the standard library: scipy.special for this alone would be 15 MiB of every operator.
    """
    global _log_factorials  # noqa: PLW0603  # a table of constants, grown once
    known = len(_log_factorials)
    if largest >= known:
        more = [math.lgamma(n + 1.0) for n in range(known, max(largest + 1, 2 * known, 4096))]
        _log_factorials = np.concatenate([_log_factorials, more])
    return _log_factorials


def log_e_exact(cell: Cell, log_bets: FloatArray) -> FloatArray:
    """ln e of each bet; ``log_bets`` holds ln omega, shape (bets,); the result has that shape.

    e(omega) = omega**k / M(omega) with M the hypergeometric moment: expectation exactly 1 under
    equal arms, at most 1 when the canary exceeds less often.
    """
    drawn, pool = cell.canary_total, cell.canary_total + cell.stable_total
    marked = cell.canary_over + cell.stable_over
    if drawn == 0 or marked == 0:
        return np.zeros_like(log_bets)
    ln = log_factorials(pool)
    x = np.arange(max(0, drawn + marked - pool), min(drawn, marked) + 1)
    log_pmf = (
        ln[marked] - ln[x] - ln[marked - x]
        + ln[pool - marked] - ln[drawn - x] - ln[pool - marked - drawn + x]
        - ln[pool] + ln[drawn] + ln[pool - drawn]
    )  # fmt: skip
    terms = log_pmf[None, :] + log_bets[:, None] * x[None, :]
    top = terms.max(axis=1)
    log_moment = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
    return np.asarray(cell.canary_over * log_bets - log_moment)


def log_e_closed(cell: Cell, log_bets: FloatArray) -> FloatArray:
    """A lower bound of ``log_e_exact`` in closed form, same shapes; tight for a small canary."""
    pool = cell.canary_total + cell.stable_total
    marked = cell.canary_over + cell.stable_over
    if cell.canary_total == 0 or marked == 0:
        return np.zeros_like(log_bets)
    return np.asarray(
        cell.canary_over * log_bets
        - cell.canary_total * np.log1p(np.expm1(log_bets) * (marked / pool))
    )


def log_e(cell: Cell, log_bets: FloatArray, cap: float = np.inf) -> FloatArray:
    """ln e of each bet, at most ``cap`` nats: capping only lowers e, so it stays valid.

    The cap makes a short stall of one worker, whose requests are not independent, affordable.
    """
    if _needs_closed_form(cell):
        return np.minimum(log_e_closed(cell, log_bets), cap)
    return np.minimum(log_e_exact(cell, log_bets), cap)


def log_e_rows(
    cells: Sequence[Cell], log_bets: Sequence[tuple[float, ...]]
) -> list[Sequence[float]]:
    """``log_e`` without a cap of several cells at once: row i holds ln e of cell i's own bets.

    Most of a second's cost is the number of array operations, not their size, so the cells of a
    second share them: supports and bets are padded to the widest. Seconds of few requests repeat
    each other, and are looked up.
    """
    rows: list[Sequence[float]] = [(0.0,) * len(bets) for bets in log_bets]
    live = [i for i, cell in enumerate(cells) if _speaks(cell)]
    if all(_is_narrow(cells[i]) for i in live):
        for i in live:
            c = cells[i]
            rows[i] = _narrow_row(
                c.canary_over, c.canary_total, c.stable_over, c.stable_total, log_bets[i]
            )
        return rows
    for i in [i for i in live if _needs_closed_form(cells[i])]:
        rows[i] = log_e(cells[i], np.array(log_bets[i])).tolist()
        live.remove(i)
    if not live:
        return rows
    counts = np.array(
        [
            (c.canary_total, c.canary_over + c.stable_over, c.canary_total + c.stable_total)
            for c in (cells[i] for i in live)
        ]
    )
    drawn, marked, pool = counts[:, 0, None], counts[:, 1, None], counts[:, 2, None]
    low = np.maximum(0, drawn + marked - pool)
    high = np.minimum(drawn, marked)
    x = low + np.arange(int((high - low).max()) + 1)
    inside = x <= high
    x = np.minimum(x, high)
    ln = log_factorials(int(pool.max()))
    log_pmf = (
        ln[marked] - ln[x] - ln[marked - x]
        + ln[pool - marked] - ln[drawn - x] - ln[pool - marked - drawn + x]
        - ln[pool] + ln[drawn] + ln[pool - drawn]
    )  # fmt: skip
    log_pmf = np.where(inside, log_pmf, -np.inf)
    widest = max(len(log_bets[i]) for i in live)
    bets = np.array([log_bets[i] + (0.0,) * (widest - len(log_bets[i])) for i in live])
    terms = log_pmf[:, None, :] + bets[:, :, None] * x[:, None, :]
    top = terms.max(axis=2)
    log_moment = top + np.log(np.exp(terms - top[:, :, None]).sum(axis=2))
    over = np.array([cells[i].canary_over for i in live])
    gains = (over[:, None] * bets - log_moment).tolist()
    for i, row in zip(live, gains, strict=True):
        rows[i] = row[: len(log_bets[i])]
    return rows


def _is_narrow(cell: Cell) -> bool:
    return cell.canary_total < _NARROW or cell.canary_over + cell.stable_over < _NARROW


@lru_cache(maxsize=_KEPT_ROWS)
def _narrow_row(
    canary_over: int,
    canary_total: int,
    stable_over: int,
    stable_total: int,
    log_bets: tuple[float, ...],
) -> tuple[float, ...]:
    cell = Cell(canary_over, canary_total, stable_over, stable_total)
    return tuple(log_e_exact(cell, np.array(log_bets)).tolist())


def _speaks(cell: Cell) -> bool:
    return cell.canary_total > 0 and cell.canary_over + cell.stable_over > 0


def _needs_closed_form(cell: Cell) -> bool:
    support = min(cell.canary_total, cell.canary_over + cell.stable_over)
    small_canary = 10 * cell.canary_total <= cell.canary_total + cell.stable_total
    return support > LARGEST_EXACT_SUPPORT and small_canary
