"""The anytime-valid, one-sided Kolmogorov-Smirnov band: reported, and a slow second trigger.

Bounds of S. R. Howard and A. Ramdas, Sequential estimation of quantiles with applications to A/B
testing and best-arm identification (Bernoulli 28(3), 2022), theorem 2. Valid for independent
requests; unlike the e-process it is not protected against drift common to both arms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from llmrollouts.analysis.evalue import Cell

_A: Final = 0.85
_FIRST: Final = 20  # the band starts at this many requests
# Where C is looked for, and how exactly.
_LOWEST: Final = 2.0
_HIGHEST: Final = 200.0
_CLOSE: Final = 1e-11


def _excess(c: float, etas: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """The smallest bound of the crossing probability over the free parameter eta."""
    room = _A - np.sqrt(2 * (etas - 1) / c)
    g = 2 / etas * room**2
    usable = (room > 0) & (g > 1)
    if not usable.any():
        return math.inf
    g, etas = g[usable], etas[usable]
    return float((4 * np.exp(-g * c) * (1 + 1 / ((g - 1) * np.log(etas)))).min())


@lru_cache(maxsize=256)
def band_constant(alpha: float) -> float:
    """C(alpha): the smallest C whose crossing probability is at most alpha, in (0, 0.5)."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"a level lies between 0 and 0.5, not at {alpha}")
    etas = 1 + np.logspace(-4, math.log10(2 * _A * _A - 1), 600)

    # By halving: the probability only falls. scipy.optimize would be 18 MiB of every operator.
    low, high = _LOWEST, _HIGHEST
    while high - low > _CLOSE:
        middle = (low + high) / 2
        if _excess(middle, etas) > alpha:
            low = middle
        else:
            high = middle
    return high


def band_width(requests: int, alpha: float) -> float:
    """Half-width of the band around a distribution function after so many requests."""
    if requests < _FIRST:
        return math.inf
    spread = math.log1p(math.log(requests / _FIRST)) + band_constant(alpha)
    return _A * math.sqrt(spread / requests)


def ks_distance(
    stable_over: Sequence[int], stable_total: int, canary_over: Sequence[int], canary_total: int
) -> float:
    """D+: the most by which the canary exceeds a threshold more often than stable does."""
    if not stable_total or not canary_total:
        return 0.0
    gaps = (
        canary / canary_total - stable / stable_total
        for canary, stable in zip(canary_over, stable_over, strict=True)
    )
    return max(0.0, *gaps)


def ks_lower_bound(distance: float, canary_total: int, stable_total: int, alpha: float) -> float:
    """The part of ``distance`` that chance cannot explain at this level; at most 0: nothing."""
    return distance - band_width(canary_total, 0.9 * alpha) - band_width(stable_total, 0.1 * alpha)


def ks_excess(cells: Sequence[Cell], alpha: float) -> float:
    """The most, over the thresholds, by which the canary's band lies beyond stable's; above 0:
    worse, at this level. ``cells`` hold all requests so far and may differ in their number: the
    bands hold for every number of requests at once."""
    return max(
        (
            ks_lower_bound(
                cell.canary_over / cell.canary_total - cell.stable_over / cell.stable_total,
                cell.canary_total,
                cell.stable_total,
                alpha,
            )
            for cell in cells
            if cell.canary_total >= _FIRST and cell.stable_total >= _FIRST
        ),
        default=-math.inf,
    )


def ks_gap(cells: Sequence[Cell]) -> float:
    """D+ of ``cells`` that may differ in their numbers of requests."""
    return max(
        0.0,
        *(
            cell.canary_over / cell.canary_total - cell.stable_over / cell.stable_total
            for cell in cells
            if cell.canary_total and cell.stable_total
        ),
        0.0,
    )
