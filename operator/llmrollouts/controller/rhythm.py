"""When a measurement looks next: once a second, shortly after its workers close theirs.

The workers count arrivals by the seconds of clocks of their own, and a second counts when all of
them have told of it. Who looks just before that moment learns of it a whole second later, so the
looks follow the moment, wherever it lies and however it wanders. Pure; called by
controller/measure.
"""

from __future__ import annotations

import math
from typing import Final

PERIOD: Final = 1.0
# Between two looks, however the moment moves: half a period to one and a half.
SHORTEST: Final = 0.5
LONGEST: Final = 1.5
# After the moment: it is known to some hundredths of a second, and too early costs a second.
ALLOWANCE: Final = 0.05


def next_look(looked: float, now: float, closes: float | None) -> float:
    """The moment at which the next look is due. All times are seconds of one clock.

    looked: when the last look began; now: when it was over. closes: a moment, past or to come, at
    which seconds of the workers are complete; None: that is not known, and the looks keep the beat
    they have.
    """
    if closes is None or not math.isfinite(closes):
        return max(now, looked + PERIOD)
    phase = closes + ALLOWANCE
    earliest = max(now, looked + SHORTEST)
    due = phase + math.ceil((earliest - phase) / PERIOD) * PERIOD
    return max(now, min(due, looked + LONGEST))
