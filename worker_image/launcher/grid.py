"""The latency grid: a twin of llmrollouts.analysis.grid, because the launcher has no dependencies.

Both must put a value into the same bucket, or the two sides count different things; a test compares
them bound for bound. `bucket_of` is the number of the smallest bound that is not below a value.
"""

from __future__ import annotations

from bisect import bisect_left

GROWTH = 1.05
SMALLEST = 1e-4  # seconds
BUCKETS = 372  # the last bound lies above two hours
OVERFLOW = BUCKETS  # number of the bucket without an upper bound

BOUNDS = tuple(SMALLEST * GROWTH**index for index in range(BUCKETS))


def bucket_of(seconds: float) -> int:
    """The bucket of a value in seconds; OVERFLOW above the last bound."""
    return bisect_left(BOUNDS, seconds)
