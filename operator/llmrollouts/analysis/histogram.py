"""Both arms of one metric over a stage, for reports and plots; no verdict reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from llmrollouts.analysis.counts import Counts
from llmrollouts.analysis.grid import BOUNDS, GROWTH, OVERFLOW

REPORTED: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class Ranks:
    """The requests of one arm in order of their buckets. ``counts``: rising by bucket."""

    def __init__(self, counts: Mapping[int, int]) -> None:
        self._buckets = list(counts)
        self._within = list(accumulate(counts.values()))
        self.requests = self._within[-1] if self._within else 0

    def bucket_at(self, quantile: float) -> int:
        """The lowest bucket within which at least that part of the requests lies."""
        return self._buckets[bisect_left(self._within, quantile * self.requests)]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Requests by bucket, rising; what was unanswered at the lag is in the overflow bucket."""

    canary: Mapping[int, int] = field(default_factory=dict)
    control: Mapping[int, int] = field(default_factory=dict)

    def add(self, canary: Counts, control: Counts) -> Histogram:
        return Histogram(_merged(self.canary, canary), _merged(self.control, control))

    def rank_control(self) -> Ranks:
        return Ranks(self.control)


NOTHING_DRAWN: Final = Histogram()


def estimate_quantile(counts: Mapping[int, int], quantile: float, lag: float) -> float | None:
    """Seconds, interpolated inside its bucket; ``lag`` when it was unanswered; None without
    requests."""
    total = sum(counts.values())
    if not total:
        return None
    wanted, seen = quantile * total, 0
    for bucket in sorted(counts):
        count = counts[bucket]
        if seen + count >= wanted:
            if bucket >= OVERFLOW:
                return lag
            part = (wanted - seen) / count
            return float(BOUNDS[bucket] * GROWTH ** (part - 1))
        seen += count
    return lag


def compare_quantiles(both: Histogram, lag: float) -> dict[str, float] | None:
    """Canary by control at p50, p95, p99; None before both arms have requests. A quantile that
    was still unanswered counts as the lag, so its ratio is a lower bound."""
    ratios = {}
    for name, quantile in REPORTED.items():
        canary = estimate_quantile(both.canary, quantile, lag)
        control = estimate_quantile(both.control, quantile, lag)
        if canary is None or control is None:
            return None
        ratios[name] = canary / control
    return ratios


def find_unanswered(both: Histogram) -> frozenset[str]:
    """The quantiles at which the canary had not answered yet: their ratios are lower bounds."""
    total, open_ = sum(both.canary.values()), both.canary.get(OVERFLOW, 0)
    return frozenset(name for name, quantile in REPORTED.items() if open_ > (1 - quantile) * total)


def _merged(sums: Mapping[int, int], counts: Counts) -> dict[int, int]:
    merged = dict(sums)
    for bucket, count in counts.done.items():
        merged[bucket] = merged.get(bucket, 0) + count
    if counts.over:
        merged[OVERFLOW] = merged.get(OVERFLOW, 0) + counts.over
    # Kept in order, which new buckets alone disturb, so that nobody who looks has to sort.
    return merged if len(merged) == len(sums) else dict(sorted(merged.items()))
