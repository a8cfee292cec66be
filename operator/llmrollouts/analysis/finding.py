"""What one comparison found, in numbers and in one plain sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """metric: ttft, tpot, e2e, errors, refusals, connections, ttftP99, tpotP99, e2eP99, errorRate,
    or ks:<latency metric> when the slow band was what decided.

    evidence: E now (weights within the metric included); needed: where it decides. The counts are
    of the stage so far at the threshold that speaks loudest; canary_bound and control_bound are
    that threshold in seconds (None: no latency). ratios: canary by control at p50, p95, p99; None
    without a latency, or before both arms have requests. ks: the largest share of requests by
    which the canary exceeds; ks_lower: the part of it that chance cannot explain (at most 0:
    none). p_value: always valid, however often one looks. first_seen: the arrival second at which
    the evidence began to rise; decided: the second at whose end it was complete.
    """

    metric: str
    evidence: float
    needed: float
    over_canary: int
    total_canary: int
    over_control: int
    total_control: int
    canary_bound: float | None
    control_bound: float | None
    ratios: Mapping[str, float] | None
    ks: float
    ks_lower: float
    p_value: float
    first_seen: int | None
    decided: int | None
    message: str
