"""Confidence intervals of simulated chances."""

from __future__ import annotations

from scipy.special import betaincinv


def clopper_pearson(hits: int, runs: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a chance of which ``hits`` of ``runs`` were seen."""
    if not 0 <= hits <= runs or runs < 1:
        raise ValueError(f"no counts of runs: {hits} of {runs}")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, runs - hits + 1, tail))
    high = 1.0 if hits == runs else float(betaincinv(hits + 1, runs - hits, 1 - tail))
    return low, high


def report_chance(hits: int, runs: int) -> dict[str, object]:
    """For the raw results."""
    low, high = clopper_pearson(hits, runs)
    return {
        "hits": hits,
        "runs": runs,
        "chance": round(hits / runs, 5),
        "interval95": [round(low, 5), round(high, 5)],
    }
