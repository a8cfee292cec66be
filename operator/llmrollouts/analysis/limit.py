"""A hard limit such as "p99 of the first token at most 350 ms", by exact counts.

An estimated p99 of a small canary is noise. Counted are the requests over the limit, exactly. The
canary is rolled back only when it breaks the limit *and* exceeds it more often than stable does: if
only the absolute test fires, stable breaks the limit as well, and going back would help nobody:
freeze and page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from llmrollouts.analysis.eprocess import TICK_CAP, EvidenceState, StartTimes, accumulate, weigh

# Multiples of the allowed fraction that the alternative bets on.
_MULTIPLES: Final = (2.0, 3.0, 5.0, 10.0, 30.0, 80.0)


class LimitVerdict(Enum):
    WITHIN = "Within"
    FREEZE = "Freeze"
    ROLL_BACK = "RollBack"


@dataclass(frozen=True)
class AbsoluteLimit:
    """``allowed``: the fraction of requests that may exceed the limit (0.01 for a p99)."""

    allowed: float
    stage_ticks: int
    start_weight: float = 0.5
    cap: float = TICK_CAP  # a stall of one worker must not freeze a rollout either
    late_weight: float = 0.0
    _starts: StartTimes = field(init=False, repr=False)
    # For each alternative: ln e of a request over the limit, and of one within it.
    _logs: tuple[tuple[float, float], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.allowed < 0.5 or self.stage_ticks < 1:
            raise ValueError("a limit allows a fraction in (0, 0.5), over a stage of 1 s or more")

        chances = (min(multiple * self.allowed, 0.99) for multiple in _MULTIPLES)
        logs = tuple(
            (math.log(q / self.allowed), math.log((1 - q) / (1 - self.allowed))) for q in chances
        )
        object.__setattr__(self, "_logs", logs)
        starts = StartTimes(self.stage_ticks, self.start_weight, self.late_weight)
        object.__setattr__(self, "_starts", starts)

    def start(self) -> EvidenceState:
        return EvidenceState((self.start_weight,) * len(_MULTIPLES))

    def tick(self, state: EvidenceState, over: int, total: int) -> EvidenceState:
        """``over`` of ``total`` canary requests of one arrival second exceeded the limit."""
        if not 0 <= over <= total:
            raise ValueError(f"no counts of requests: {over} of {total}")
        gains = (
            min(self.cap, over * beyond + (total - over) * within) for beyond, within in self._logs
        )
        return accumulate(state, gains, self._starts)

    def evidence(self, state: EvidenceState) -> float:
        return weigh(state, self._starts)


def judge_limit(absolute: float, relative: float, alpha: float) -> LimitVerdict:
    """From the two evidences (``AbsoluteLimit``, and an ``EProcess`` with ``LIMIT_BETS``)."""
    if absolute < 1 / alpha:
        return LimitVerdict.WITHIN
    return LimitVerdict.ROLL_BACK if relative >= 1 / alpha else LimitVerdict.FREEZE
