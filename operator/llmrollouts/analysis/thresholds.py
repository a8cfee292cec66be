"""Where a stage compares: from stable's histogram to bounds, exact values and ages.

Any choice that is fixed before the stage keeps the gate's promise; a poor one costs power only.
Decides nothing about a canary; called when a stage is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmrollouts.analysis.ages import LAGS, WHOLE, age_for
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.eprocess import QUANTILES
from llmrollouts.analysis.grid import BOUNDS, OVERFLOW, bucket_of, buckets_in, quantile_bucket
from llmrollouts.analysis.histogram import estimate_quantile
from llmrollouts.analysis.noninferiority import PROMOTION_QUANTILES
from llmrollouts.analysis.policy import LONGEST_LAG, Policy

COMPARED: Final = (Metric.TTFT, Metric.TPOT, Metric.E2E)
_PATIENCE: Final = 10.0  # seconds that a verdict on a first token may wait for its tail
# A mean over fewer tokens is mostly noise, so TPOT waits for about this many.
_TOKENS_OF_A_MEAN: Final = 16


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where one metric is compared. Bounds are bucket numbers of the grid, in the order of
    ``eprocess.QUANTILES``; control is read at its bound, canary at its own, a margin higher.

    lags: seconds, for each bound the age at which it is read. promotion: seconds, x at
    ``PROMOTION_QUANTILES`` (control; the canary at promotion_margin times x); proof_lags: the age
    at which each of these is read.
    """

    control_bounds: tuple[int, ...]
    canary_bounds: tuple[int, ...]
    lags: tuple[float, ...]
    promotion: tuple[float, ...] = ()
    proof_lags: tuple[float, ...] = ()

    @classmethod
    def from_plain(cls, raw: Mapping[str, list[float]]) -> Thresholds:
        """From what ``dataclasses.asdict`` wrote. Raises ValueError when it does not fit."""
        control, canary = (tuple(map(int, raw[k])) for k in ("control_bounds", "canary_bounds"))
        lags, promotion, proof_lags = (
            tuple(map(float, raw[k])) for k in ("lags", "promotion", "proof_lags")
        )
        if not (
            len(control) == len(canary) == len(lags) == len(QUANTILES)
            and len(promotion) == len(proof_lags)
            and list(control) == sorted(control)
            and all(0 <= a <= b < OVERFLOW for a, b in zip(control, canary, strict=True))
        ):
            raise ValueError("thresholds that cross, or too few of them")
        return cls(control, canary, lags, promotion, proof_lags)


def place_thresholds(
    metric: Metric,
    histogram: tuple[int, ...],
    policy: Policy,
    margin: float,
    proves: bool,
    placed: Mapping[Metric, Thresholds],
    part: float = WHOLE,
) -> Thresholds:
    """Thresholds of one metric, clipped so that each is known at the longest age; ``part``: of a
    second, at which ages lie."""
    shortest, longest = LAGS[metric]
    shift, factor = buckets_in(margin), policy.promotion_margin
    if metric is not Metric.E2E:
        # One age for all thresholds: a far tail must not make every verdict wait for it.
        usual = 2 * margin * BOUNDS[min(OVERFLOW - 1, quantile_bucket(histogram, 0.95))]
        longest = min(longest, max(_PATIENCE, math.ceil(usual)))
    longest += part - WHOLE
    highest = max(0, bound_below(longest) - shift)
    control = tuple(min(highest, quantile_bucket(histogram, u)) for u in QUANTILES)
    canary = tuple(bound + shift for bound in control)
    # Counted exactly, so no bound is needed: a bound above the quantile would cost requests.
    sparse = {bucket: count for bucket, count in enumerate(histogram) if count}
    most = longest / factor
    asked = PROMOTION_QUANTILES if proves else ()
    promotion = tuple(min(most, estimate_quantile(sparse, u, most) or most) for u in asked)
    own = [age_for(BOUNDS[bound], shortest, longest, part) for bound in canary]
    if metric is Metric.E2E:
        known = sorted(set(own))
        proof_lags = []
        for x in promotion:
            needed = age_for(factor * x, shortest, longest, part)
            proof_lags.append(next((lag for lag in known if lag >= needed), needed))
        return Thresholds(control, canary, tuple(own), promotion, tuple(proof_lags))
    lag = max(own + [age_for(factor * x, shortest, longest, part) for x in promotion])
    if metric is Metric.TPOT:
        # The first token must have come before a mean over the others can be taken.
        first = placed[Metric.TTFT].canary_bounds[3] if Metric.TTFT in placed else 0
        some_tokens = BOUNDS[first] + _TOKENS_OF_A_MEAN * BOUNDS[canary[0]]
        lag = max(lag, age_for(some_tokens, shortest, longest, part))
    return Thresholds(control, canary, (lag,) * len(control), promotion, (lag,) * len(promotion))


def limit_lag(metric: Metric, limit: float, thresholds: Mapping[Metric, Thresholds]) -> float:
    """The age at which a hard limit is read: one that is read anyway, if one is high enough, else a
    whole second."""
    read = sorted(set(thresholds[metric].lags)) if metric in thresholds else []
    shortest, _ = LAGS[metric]
    return next((lag for lag in read if lag >= limit), age_for(limit, shortest, LONGEST_LAG))


def bound_below(seconds: float) -> int:
    """The number of the largest bound that is not above ``seconds``; -1 below the first."""
    bucket = bucket_of(seconds)
    if bucket == OVERFLOW:
        return OVERFLOW - 1
    return bucket if BOUNDS[bucket] <= seconds else bucket - 1
