"""Short bursts of evidence that end by themselves are taken back: the stalls of single workers.

The cap bounds what one stall of a worker can claim, and workers stall again before the quiet
seconds in between have worn the claim off: some stalls in as many minutes would add up to a
rollback. So when a run of gains ends within as many seconds as stalls can touch, having won much
and quickly, the bet's wealth falls back to what it was before the run. How often it was at the cap
does not matter: where the canary is the larger arm, a stall of one of its workers stays below.

A real regression goes on and is never taken back while it does. Throwing wealth away keeps every
promise of the e-process, whatever the rule; what this one costs in delay is in the benchmarks.
"""

from __future__ import annotations

from typing import Final, NamedTuple

LEAST_CAPS: Final = 2.0  # caps that a burst has won at least: less does not add up to a rollback
DENSITY: Final = 0.5  # caps a second: a mild regression wins more slowly, if as much in the end
QUIET: Final = 3  # seconds with requests and without a gain that end a run
STALL: Final = 3  # seconds that a tolerated stall lasts
# Of so many canary workers two stalls touch now and then, of more than that three.
FEW_WORKERS: Final = 4
_ROUNDING: Final = 1e-9


class Burst(NamedTuple):
    """One bet's running burst. seconds: of it with a gain; won: their ln e together; quiet:
    seconds without a gain since; before: the wealth that it began with."""

    seconds: int = 0
    won: float = 0.0
    quiet: int = 0
    before: float = 0.0


NONE: Final = Burst()


def longest_burst(canary_workers: int, chance: float) -> int:
    """Seconds with gains that stalls can make at a threshold; 0: nothing is taken back there.

    chance: of a request of stable to exceed the threshold. A stalled worker holds one request in
    ``canary_workers``; where as many exceed anyway, its stall shows little and runs of gains have
    quiet seconds by chance. As many stalls touch as can be expected to: each lasts STALL seconds,
    they begin within a second and leave gaps, so one STALL more.
    """
    if chance * canary_workers > 1 + _ROUNDING:
        return 0
    touching = 1 if canary_workers == 1 else 2 if canary_workers <= FEW_WORKERS else 3
    return STALL * (touching + 1)


def follow_burst(
    burst: Burst, gain: float, cap: float, before: float, longest: int
) -> tuple[Burst, bool]:
    """The burst after one second with requests, and whether its wealth is taken back.

    gain: ln e of the second, at most ``cap``; before: the wealth without it; longest: seconds.
    """
    if gain > 0:
        began = burst.before if burst.seconds else before
        return Burst(burst.seconds + 1, burst.won + gain, 0, began), False
    if not burst.seconds:
        return NONE, False
    if burst.quiet + 1 < QUIET:
        return burst._replace(quiet=burst.quiet + 1), False
    return NONE, burst.seconds <= longest and burst.won >= least_won(burst.seconds, cap)


def least_won(seconds: int, cap: float) -> float:
    """What a burst of so many seconds has won if it was a stall, in nats."""
    return cap * max(LEAST_CAPS, DENSITY * seconds)
