"""Short bursts of evidence that end by themselves are taken back: stalls of a canary of one worker.

The cap bounds what one stall of the worker can claim, and it stalls again before the quiet seconds
in between have worn the claim off: some stalls in as many minutes would add up to a rollback. So
when a run of gains ends within as many seconds as a stall can touch, having won much and quickly,
the bet's wealth falls back to what it was before the run. With several canary workers nothing is
taken back here: one that stalls stands out among them (``standout``).

A real regression goes on and is never taken back while it does. Throwing wealth away keeps every
promise of the e-process, whatever the rule; what this one costs in delay is in the benchmarks.
"""

from __future__ import annotations

from typing import Final, NamedTuple

LEAST_CAPS: Final = 2.0  # caps that a burst has won at least: less does not add up to a rollback
DENSITY: Final = 0.5  # caps a second: a mild regression wins more slowly, if as much in the end
QUIET: Final = 3  # seconds with requests and without a gain that end a run
STALL: Final = 3  # seconds that a tolerated stall lasts
LONGEST: Final = 2 * STALL  # seconds of a burst: a stall begins within one and leaves gaps


class Burst(NamedTuple):
    """One bet's running burst. seconds: of it with a gain; won: their ln e together; quiet:
    seconds without a gain since; before: the wealth that it began with."""

    seconds: int = 0
    won: float = 0.0
    quiet: int = 0
    before: float = 0.0


NONE: Final = Burst()


def follow_burst(burst: Burst, gain: float, cap: float, before: float) -> tuple[Burst, bool]:
    """The burst after one second with requests, and whether its wealth is taken back.

    gain: ln e of the second, at most ``cap``; before: the wealth without it.
    """
    if gain > 0:
        began = burst.before if burst.seconds else before
        return Burst(burst.seconds + 1, burst.won + gain, 0, began), False
    if not burst.seconds:
        return NONE, False
    if burst.quiet + 1 < QUIET:
        return burst._replace(quiet=burst.quiet + 1), False
    return NONE, burst.seconds <= LONGEST and burst.won >= least_won(burst.seconds, cap)


def least_won(seconds: int, cap: float) -> float:
    """What a burst of so many seconds has won if it was a stall, in nats."""
    return cap * max(LEAST_CAPS, DENSITY * seconds)
