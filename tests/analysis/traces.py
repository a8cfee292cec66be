"""Made traces: a service of known latency, with a canary that may be worse."""

from __future__ import annotations

import math

import numpy as np

from llmrollouts.analysis.trace import Trace


def make_trace(
    rate: float = 100,
    share: float = 0.1,
    seconds: int = 300,
    *,
    slow: float = 1.0,
    onset: float = 0,
    lead: float = 30,
    failing: float = 0.0,
    hangs: bool = False,
    both: float = 1.0,
    workers: int = 1,
    stalls: bool = False,
    seed: int = 1,
) -> Trace:
    """Poisson arrivals; the canary answers from ``lead`` on; it is ``slow`` times slower, fails or
    hangs from ``onset`` on; both arms are ``both`` times slower from then on too. stalls: the
    canary's workers in turn are four times slower for three seconds, one every 20 seconds."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate * seconds)
    arrival = np.sort(rng.uniform(0, seconds, count))
    canary = (rng.random(count) < share) & (arrival >= lead)
    late = arrival >= onset
    factor = np.where(canary & late, slow, 1.0) * np.where(late, both, 1.0)
    worker = np.arange(count) % workers
    if stalls:
        turn = (arrival % 20 < 3) & (arrival // 20 % workers == worker)
        factor = np.where(canary & late & turn, 4.0 * factor, factor)
    ttft = np.exp(rng.normal(math.log(0.095), 0.5, count)) * factor
    tpot = np.exp(rng.normal(math.log(0.012), 0.3, count)) * factor
    tokens = rng.integers(2, 200, count)
    e2e = ttft + tpot * (tokens - 1)
    status = np.where(canary & late & (rng.random(count) < failing), 500, 200)
    if hangs:
        gone = canary & late
        ttft, tpot, e2e = (np.where(gone, np.nan, column) for column in (ttft, tpot, e2e))
        tokens, status = np.where(gone, 0, tokens), np.where(gone, 0, status)
    return Trace(arrival, canary, ttft, tpot, e2e, tokens, status, float(seconds), worker)
