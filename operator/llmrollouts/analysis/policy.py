"""What a user asks of the canary gate, as numbers. Made from spec.objectives and spec.strategy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.grid import SMALLEST

# A single canary worker cannot be told from its revision: the margin covers workers' differences.
MARGIN_OF_ONE: Final = 1.10
MARGIN_OF_MANY: Final = 1.05
LONGEST_LAG: Final = 120.0  # seconds: workers remember their requests for no longer


@dataclass(frozen=True, slots=True)
class Policy:
    """margin: how much slower a canary may be at any quantile before it is rolled back, as a
    ratio; None: 1.10 for one canary worker, 1.05 for more. promotion_margin: how much slower it
    may at most be to be promoted; ``beta``: the accepted chance of promoting a slower one.
    error_budget: the accepted chance of rolling a good revision back, over a whole attempt.
    limits: hard limits of p99, in seconds. error_limit: the fraction of requests that may fail.

    Raises ValueError with a sentence for people when the numbers contradict each other.
    """

    margin: float | None = None
    promotion_margin: float = 1.25
    beta: float = 0.01
    error_budget: float = 0.01
    limits: Mapping[Metric, float] = field(default_factory=dict)
    error_limit: float | None = None

    def __post_init__(self) -> None:
        margin = self.margin
        if margin is not None and not (math.isfinite(margin) and margin >= 1):
            raise ValueError("the margin is 0% or more: a negative one rolls equal revisions back")
        if not math.isfinite(self.promotion_margin) or self.promotion_margin <= (margin or 1.0):
            raise ValueError(
                "promotionMargin lies above margin: what is too slow to keep must not be promoted"
            )
        if not 0 < self.beta < 0.5 or not 0 < self.error_budget < 0.5:
            raise ValueError("an error budget lies above 0% and below 50%")
        for metric, limit in self.limits.items():
            if not math.isfinite(limit) or limit < SMALLEST:
                raise ValueError(
                    f"the limit of {metric} lies below the smallest latency that is measured, "
                    f"{SMALLEST * 1000:g}ms"
                )
            if limit > LONGEST_LAG:
                raise ValueError(
                    f"the limit of {metric} lies above {LONGEST_LAG:g}s: workers follow a request "
                    "no longer than that"
                )
        if Metric.E2E in self.limits:
            raise ValueError("e2eP99 limits the whole duration of a request: use that metric")
        ttft, whole = self.limits.get(Metric.TTFT), self.limits.get(Metric.DURATION)
        if ttft is not None and whole is not None and ttft > whole:
            raise ValueError("ttftP99 lies above e2eP99: no answer ends before it begins")
        if self.error_limit is not None and not 0 < self.error_limit < 0.5:
            raise ValueError("errorRate lies above 0% and below 50%")

    def margin_for(self, canary_workers: int) -> float:
        if self.margin is not None:
            return self.margin
        return MARGIN_OF_ONE if canary_workers <= 1 else MARGIN_OF_MANY

    def to_plain(self) -> dict[str, object]:
        """Numbers and texts only, for JSON."""
        return {
            "margin": self.margin,
            "promotionMargin": self.promotion_margin,
            "beta": self.beta,
            "errorBudget": self.error_budget,
            "limits": {metric.value: limit for metric, limit in self.limits.items()},
            "errorLimit": self.error_limit,
        }

    @classmethod
    def from_plain(cls, raw: Mapping[str, Any]) -> Policy:
        """Raises KeyError, TypeError or ValueError when ``raw`` is no policy."""
        return cls(
            margin=None if raw["margin"] is None else float(raw["margin"]),
            promotion_margin=float(raw["promotionMargin"]),
            beta=float(raw["beta"]),
            error_budget=float(raw["errorBudget"]),
            limits={Metric(name): float(limit) for name, limit in raw["limits"].items()},
            error_limit=None if raw["errorLimit"] is None else float(raw["errorLimit"]),
        )
