"""Workers' clocks on the reader's: where each cuts its seconds, and which tick second is meant.

    moment on the reader's clock = moment on the worker's + ``zero``
    tick second                  = the worker's cohort    + ``offset``      fixed once, never moved

Clocks of different machines cut seconds at different moments. The offsets are such that nobody's
second ends later than that of the canary (of several workers, of the one for which the others wait
least): what a canary did waits for no other worker's clock. The two arms of a tick are then up to a
second apart, control before canary, which is less than what the tests were tried with (1.5 s).
Pure; used by timeline.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

# A clock is known by the middle of so many readings: any single page may have been held up.
_READINGS: Final = 9
# Seconds may end so much later than the canary's: clocks that are one seem to differ by less.
_SLACK: Final = 0.1


@dataclass(slots=True)
class WorkerClock:
    """Of one life of a worker. offset: None until it is fixed."""

    offset: int | None = None
    _zeros: deque[float] = field(default_factory=lambda: deque(maxlen=_READINGS))

    @property
    def is_known(self) -> bool:
        """Whether it was heard."""
        return bool(self._zeros)

    def note(self, now: float, at: float) -> None:
        """It showed ``now`` at the moment ``at`` of the reader's clock."""
        self._zeros.append(at - now)

    @property
    def zero(self) -> float:
        """Once it is known."""
        return sorted(self._zeros)[len(self._zeros) // 2]

    @property
    def behind(self) -> float:
        """Seconds by which its seconds end after those of the reader's clock; without an offset
        the nearest ones are meant."""
        return self.zero - (self.offset if self.offset is not None else round(self.zero))

    def fix(self, edge: float) -> int:
        """The offset, fixed now if it was not: its seconds end at the edge of ticks or before."""
        if self.offset is None:
            self.offset = math.ceil(self.zero - edge - _SLACK)
        return self.offset


def choose_edge(ends: Iterable[float]) -> float:
    """By how much ticks end after the seconds of the reader's clock, so that workers whose seconds
    end so much after them (``behind``) wait least together. Raises ValueError without any."""
    ends = sorted(ends)
    return min(ends, key=lambda edge: sum((edge + _SLACK - end) % 1.0 for end in ends))
