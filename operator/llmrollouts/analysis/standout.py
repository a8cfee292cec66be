"""One worker of several that stalls is left out of the seconds in which it stands out.

A regression of a revision is in all of its workers, a stall in one. So where one canary worker
exceeds a threshold far more often than the others of the canary do, the bets of these seconds are
paid as if it had not been there, if that is less. The last seconds are looked at together, because
one second of a worker holds few requests, and what earlier ones of them had paid is taken back.

A bet is never paid more than the whole canary would be. So every promise of the e-process is kept,
whoever is left out, and though that is chosen by what was seen. A worker that stands out for longer
than a stall lasts counts again: one that is slow for good is found.

Called by ``gate`` for each second of a stream; keeps nothing itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from llmrollouts.analysis.evalue import Cell, log_e_rows

WINDOW: Final = 3  # seconds that are looked at together
# A worker stands out when its own rate makes what was seen so many times likelier than one rate of
# all, for each worker that it could have been: the former where few requests of stable exceed the
# threshold, which is where a stall shows most; the latter at the others, whose bets find the mild
# regressions, and where each worker that stands out by chance would delay these.
RARE_ODDS: Final = 20.0
COMMON_ODDS: Final = 1000.0
RARE: Final = 0.06  # of stable's requests
# Seconds on end in which a worker may stand out: two stalls of three seconds that touch, which are
# seen for the window longer.
LONGEST: Final = 8
_ROUNDING: Final = 1e-9

# (how many exceed, of how many), one a threshold.
Shares = Sequence[tuple[int, int]]
# ln e of each bet, one row a threshold.
Gains = tuple[Sequence[float], ...]


class Moment(NamedTuple):
    """One second of one stream, at each threshold that its bets read. cells: both arms; workers:
    each canary worker's part of them; gains: what the bets were paid, at most the cap."""

    second: int
    cells: Sequence[Cell]
    workers: Mapping[str, Shares]
    gains: Gains

    def to_plain(self) -> list[object]:
        """For JSON."""
        return [self.second, [cell.to_plain() for cell in self.cells], self.workers, self.gains]

    @classmethod
    def from_plain(cls, raw: Sequence[Any]) -> Moment:
        """From what JSON makes of one."""
        second, cells, workers, gains = raw
        return cls(
            int(second),
            tuple(Cell(*map(int, cell)) for cell in cells),
            {
                str(name): [(int(over), int(total)) for over, total in shares]
                for name, shares in workers.items()
            },
            tuple([_finite(gain) for gain in row] for row in gains),
        )


class Recent(NamedTuple):
    """moments: the last seconds; streaks: for each threshold the workers that stand out now, and
    for how many seconds on end they do."""

    moments: tuple[Moment, ...] = ()
    streaks: tuple[Mapping[str, int], ...] = ()

    def to_plain(self) -> list[object]:
        """For JSON."""
        return [[moment.to_plain() for moment in self.moments], self.streaks]

    @classmethod
    def from_plain(cls, raw: Sequence[Any]) -> Recent:
        """Raises AttributeError, KeyError, TypeError or ValueError when it is nothing such."""
        moments, streaks = raw
        return cls(
            tuple(map(Moment.from_plain, moments)),
            tuple({str(n): int(seconds) for n, seconds in streak.items()} for streak in streaks),
        )


NOTHING_RECENT: Final = Recent()


def odds_of(quantile: float) -> float:
    """What a worker must reach at the threshold that is this quantile of stable."""
    return RARE_ODDS if 1 - quantile <= RARE else COMMON_ODDS


def find_standing_out(workers: Mapping[str, tuple[int, int]], odds: float) -> list[str]:
    """The workers that exceed a threshold far more often than the others do; none where most do:
    then it is no stall. workers: (how many of its requests exceed, of how many)."""
    over = sum(each[0] for each in workers.values())
    total = sum(each[1] for each in workers.values())
    asked = sum(1 for each in workers.values() if each[1])
    if not over or asked < 2:
        return []
    together = _log_likelihood(over, total)
    needed = math.log(odds * asked) - _ROUNDING
    found = [
        name
        for name, (own, requests) in workers.items()
        if own * total > over * requests
        and _log_likelihood(own, requests) + _log_likelihood(over - own, total - requests)
        >= together + needed
    ]
    return found if 2 * len(found) <= asked else []


def leave_out(
    recent: Recent,
    now: Moment,
    bets: Sequence[tuple[float, ...]],
    odds: Sequence[float],
    cap: float,
) -> tuple[Gains, Recent]:
    """What the bets of this second are paid, less what is taken back of the last ones.

    now: the second with the whole canary; bets: ln omega, one row a threshold; odds: likewise.
    """
    moments = [m for m in recent.moments if now.second - m.second < WINDOW]
    moments.append(now)
    streaks: list[Mapping[str, int]] = []
    asked: list[tuple[int, int, Cell]] = []
    for place, before in enumerate(recent.streaks or ({},) * len(now.cells)):
        alone = find_standing_out(_add_up(moments, place), odds[place])
        streak = {name: before.get(name, 0) + 1 for name in alone}
        streaks.append(streak)
        left = [name for name, seconds in streak.items() if seconds <= LONGEST]
        if left:
            asked += [(i, place, _without(m, place, left)) for i, m in enumerate(moments)]
    paid = [list(row) for row in now.gains]
    if asked:
        gains = [list(m.gains) for m in moments]
        rows = log_e_rows([cell for *_, cell in asked], [bets[place] for _, place, _ in asked])
        for (i, place, _), row in zip(asked, rows, strict=True):
            old = gains[i][place]
            new = [min(gain, other, cap) for gain, other in zip(old, row, strict=True)]
            gains[i][place] = new
            paid[place] = [p + n - o for p, n, o in zip(paid[place], new, old, strict=True)]
        moments = [m._replace(gains=tuple(g)) for m, g in zip(moments, gains, strict=True)]
    kept = tuple(moments[-(WINDOW - 1) :])
    return tuple(paid), Recent(kept, tuple(streaks))


def _add_up(moments: Sequence[Moment], place: int) -> dict[str, tuple[int, int]]:
    sums: dict[str, tuple[int, int]] = {}
    for moment in moments:
        for name, shares in moment.workers.items():
            over, total = sums.get(name, (0, 0))
            more, requests = shares[place]
            sums[name] = (over + more, total + requests)
    return sums


def _without(moment: Moment, place: int, left: Sequence[str]) -> Cell:
    cell = moment.cells[place]
    shares = [moment.workers[name][place] for name in left if name in moment.workers]
    return Cell(
        cell.canary_over - sum(over for over, _ in shares),
        cell.canary_total - sum(total for _, total in shares),
        cell.stable_over,
        cell.stable_total,
    )


def _log_likelihood(over: int, total: int) -> float:
    """Of ``over`` in ``total``, at the rate that makes it likeliest."""
    within = total - over
    likelihood = 0.0
    if over:
        likelihood += over * math.log(over / total)
    if within:
        likelihood += within * math.log(within / total)
    return likelihood


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"no gain: {value}")
    return float(value)
