"""The buckets of an engine's own histogram on the gate's grid, where a worker has no tap.

Of such a latency only the two bounds are known between which it lies. Stable's is rounded up and
the canary's down, so that nobody is called slower than he was. Used by metrics/engine_history for
what was measured and by rounded_sizing for what can be found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Literal

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.grid import OVERFLOW, bucket_of

# Seconds, as vLLM sets them by itself.
VLLM_BOUNDS: Final[Mapping[Metric, tuple[float, ...]]] = {
    Metric.TTFT: (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
        *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0, math.inf),
    ),
    Metric.TPOT: (
        *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
        *(10.0, 20.0, 40.0, 80.0, math.inf),
    ),
}


@lru_cache(maxsize=256)
def place_bounds(bounds: tuple[float, ...], rounding: Literal["up", "down"]) -> tuple[int, ...]:
    """The bucket of the gate's grid for each bucket of the engine's histogram. ``bounds``: upper
    bounds in seconds, rising, the last one infinite."""
    if rounding == "up":
        return tuple(OVERFLOW if math.isinf(bound) else bucket_of(bound) for bound in bounds)
    return tuple(bucket_of(bound) for bound in (0.0, *bounds[:-1]))
