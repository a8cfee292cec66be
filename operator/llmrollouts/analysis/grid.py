"""The latency grid: log-spaced bucket bounds that both arms share, so that counts are exact.

Growth 1.05: a margin of 1.05 is one bucket, 1.1025 two. A decision never interpolates inside a
bucket: it counts requests beyond a bound. Values that are no bound (an objective's limit, a
promotion threshold) are counted exactly by the worker beside the buckets. The launcher carries a
twin of this grid (worker_image/launcher/grid.py), because it has no dependencies; a test compares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

GROWTH: Final = 1.05
SMALLEST: Final = 1e-4  # seconds: a tenth of a millisecond, well below a token on any GPU
BUCKETS: Final = 372  # the last bound lies above two hours
OVERFLOW: Final = BUCKETS  # number of the bucket without an upper bound

BOUNDS: Final[tuple[float, ...]] = tuple(SMALLEST * GROWTH**i for i in range(BUCKETS))


def bucket_of(seconds: float) -> int:
    """The number of the smallest bound that is not below ``seconds``; OVERFLOW above the last.

    Raises ValueError for what is no time: NaN, infinity, a negative number.
    """
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"no latency: {seconds}")
    if seconds <= SMALLEST:
        return 0
    guess = min(OVERFLOW, max(0, math.ceil(math.log(seconds / SMALLEST) / math.log(GROWTH))))
    # The logarithm is off by a rounding at a bound itself; the bounds decide.
    while guess > 0 and seconds <= BOUNDS[guess - 1]:
        guess -= 1
    while guess < OVERFLOW and seconds > BOUNDS[guess]:
        guess += 1
    return guess


def buckets_in(ratio: float) -> int:
    """How many buckets a margin of ``ratio`` spans, rounded up; 0 for 1. Raises ValueError below 1.

    1.05 is one bucket and 1.10 two; a hair of rounding never costs a bucket.
    """
    if not math.isfinite(ratio) or ratio < 1:
        raise ValueError(f"a margin is 1 or more, not {ratio}")
    return math.ceil(math.log(ratio) / math.log(GROWTH) - 1e-9)


def quantile_bucket(counts: Sequence[int], quantile: float) -> int:
    """The bucket in which the quantile of a histogram lies; ``counts``: BUCKETS + 1 numbers.

    Raises ValueError when the histogram is empty or ``quantile`` is not in (0, 1).
    """
    total = sum(counts)
    if total <= 0 or not 0 < quantile < 1:
        raise ValueError(f"no quantile {quantile} of {total} requests")
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= quantile * total:
            return bucket
    return OVERFLOW
