"""At which age requests are read: as soon as what is asked of them can be known.

The operator looks once a second, so the ages of a stage lie whole seconds apart: all of them are
complete at the same part of a second, and one look meets them all. Which part is chosen so that
what shows a hard fault first, the latency of the first token and failures, is read soonest. An
age that is fixed before the stage keeps its promise, whatever it is. Called when a stage is frozen.
"""

from __future__ import annotations

import math
from typing import Final

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.grid import BOUNDS, OVERFLOW, quantile_bucket
from llmrollouts.analysis.policy import LONGEST_LAG

# The shortest and the longest age at which a metric is read, seconds.
LAGS: Final = {
    Metric.TTFT: (0.5, 30.0),
    Metric.TPOT: (1.5, 30.0),
    Metric.E2E: (0.5, LONGEST_LAG),
    Metric.DURATION: (1.0, LONGEST_LAG),
}
WHOLE: Final = 1.0
# Parts of a second at which a stage's ages may lie; of equal ones the first.
PARTS: Final = (WHOLE, 0.75, 0.5)
LATE_LAG: Final = 30.0  # seconds: time-outs and streams cut on the way
# By then most failures show, also where stable's answers take longer.
_QUICK_LAG: Final = 2.0
# What fails shows no later than most of stable's answers are there.
_ANSWERED: Final = 0.95


def age_for(seconds: float, shortest: float, longest: float, part: float = WHOLE) -> float:
    """The age at which "longer than ``seconds``" is known, within its bounds; ``part``: of a
    second, at which ages lie."""
    return min(longest, math.ceil(max(seconds, shortest) - part - 1e-9) + part)


def quick_age(answers: tuple[int, ...], part: float) -> float:
    """The age at which failures are read first. ``answers``: stable's whole answers, a histogram;
    empty: nothing is known of them."""
    longest = _QUICK_LAG - WHOLE + part
    if not answers:
        return longest
    usual = BOUNDS[min(OVERFLOW - 1, quantile_bucket(answers, _ANSWERED))]
    return age_for(usual, part, longest, part)
