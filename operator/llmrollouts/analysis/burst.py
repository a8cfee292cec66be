"""Short bursts of evidence that end by themselves are taken back: the stalls of single workers.

The cap bounds what one stall of a worker can claim, and a canary of few workers stalls again
before the quiet seconds in between have worn the claim off: two or three stalls in some minutes
would add up to a rollback. So when a run of gains ends within ``LONGEST`` seconds, having been at
the cap at least ``CAPPED`` times, the bet's wealth falls back to what it was before the run. A real
regression goes on and is never taken back. Throwing wealth away keeps every promise of the
e-process, whatever the rule; this one costs no delay that the simulations could show.
"""

from __future__ import annotations

from typing import Final, NamedTuple

LONGEST: Final = 6  # seconds: a stall of three touches four or five
CAPPED: Final = 2
QUIET: Final = 2  # seconds with requests and without a gain that end a run
# Of more workers than these a stall of one touches too few requests to matter, and their runs of
# gains have quiet seconds by chance.
FEW_WORKERS: Final = 4


class Burst(NamedTuple):
    """One bet's running burst. seconds, capped: of it with a gain, and at the cap; quiet: seconds
    without one since; before: the wealth that it began with."""

    seconds: int = 0
    capped: int = 0
    quiet: int = 0
    before: float = 0.0


NONE: Final = Burst()


def follow_burst(burst: Burst, gain: float, cap: float, before: float) -> tuple[Burst, bool]:
    """The burst after one second with requests, and whether its wealth is taken back.

    gain: ln e of the second, at most ``cap``; before: the wealth without it.
    """
    if gain > 0:
        return (
            Burst(
                burst.seconds + 1,
                burst.capped + (gain >= cap),
                0,
                burst.before if burst.seconds else before,
            ),
            False,
        )
    if not burst.seconds:
        return NONE, False
    if burst.quiet + 1 < QUIET:
        return burst._replace(quiet=burst.quiet + 1), False
    return NONE, burst.capped >= CAPPED and burst.seconds <= LONGEST
