"""What each arm carries, and whether the workers and the gateways count the same requests.

An idle canary looks faster than it is, and a busy one slower. So the arrivals per worker of the
last 30 seconds are compared; what chance alone explains at a low rate is no difference. The second
check holds the taps against the gateways' own load reports. Both only report; what follows from it
is decided in controller/measure. Pure; times are seconds of the reader's clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from llmrollouts.metrics.page import Page

WINDOW: Final = 30.0
SHORTEST: Final = 10.0
TOLERANCE: Final = 0.15
# Standard deviations of chance beyond the tolerance.
_CHANCE: Final = 3.0

AGREE_WITHIN: Final = 0.02
_CHECK_SECONDS: Final = 60.0
_CHECK_REQUESTS: Final = 500
_CHECK_WINDOW: Final = 300.0
# Requests of this long may be known to one side only: reports and pages come once a second.
_EDGE_SECONDS: Final = 2.0
_IN_A_ROW: Final = 3
# Above this part of failures the gateways' counts hold requests that no worker ever saw.
_FEW_FAILURES: Final = 0.01

# So many requests sent, in so many seconds, and none has ended.
_SENT: Final = 20
_WITHOUT_AN_END: Final = 10.0


class Match(Enum):
    """UNKNOWN: too short a time to say. BUSIER, IDLER: the canary's workers, by more than 15 %."""

    UNKNOWN = "unknown"
    MATCHED = "matched"
    BUSIER = "busier"
    IDLER = "idler"


@dataclass(frozen=True, slots=True)
class Load:
    """Arrivals per second and worker, and what follows."""

    match: Match
    canary: float = 0.0
    control: float = 0.0

    def describe(self) -> str:
        """One plain sentence."""
        if self.match is Match.UNKNOWN:
            return f"the load of the workers is not known yet (needs {SHORTEST:.0f}s)"
        told = f"a canary worker gets {self.canary:.1f} requests/s, a stable one {self.control:.1f}"
        return told if self.match is Match.MATCHED else f"{told}: more than 15% apart"


class LoadMeter:
    """Arrivals of single workers over the last 30 s."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, str, int]]] = {}

    def note(self, uid: str, page: Page, at: float) -> None:
        seen = self._seen.setdefault(uid, deque())
        if seen and seen[-1][1] != page.boot:
            seen.clear()
        seen.append((at, page.boot, page.live + page.mirrored))
        while seen[0][0] < at - WINDOW:
            seen.popleft()

    def clear(self) -> None:
        """What was carried before says nothing of what is carried from now on."""
        self._seen.clear()

    def compare(self, canary: Iterable[str], control: Iterable[str]) -> Load:
        arrived_c, seconds_c = self._sum(canary)
        arrived_s, seconds_s = self._sum(control)
        if min(seconds_c, seconds_s) < SHORTEST:
            return Load(Match.UNKNOWN)
        rate_c, rate_s = arrived_c / seconds_c, arrived_s / seconds_s
        expected = rate_s * seconds_c
        if expected < 1 and arrived_c < 1:
            return Load(Match.MATCHED, rate_c, rate_s)
        slack = TOLERANCE + _CHANCE * math.sqrt(1 / max(1, expected) + 1 / max(1, arrived_s))
        ratio = arrived_c / max(expected, 1e-9)
        if ratio > 1 + slack:
            match = Match.BUSIER
        elif ratio < 1 - slack:
            match = Match.IDLER
        else:
            match = Match.MATCHED
        return Load(match, rate_c, rate_s)

    def _sum(self, uids: Iterable[str]) -> tuple[int, float]:
        """Arrivals, and the seconds of single workers in which they came."""
        arrived, seconds = 0, 0.0
        for uid in uids:
            seen = self._seen.get(uid)
            if seen:
                arrived += seen[-1][2] - seen[0][2]
                seconds += seen[-1][0] - seen[0][0]
        return arrived, seconds


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Requests of the canary in the same time: as its workers and as the gateways count them."""

    workers: int
    gateways: int
    seconds: float

    def describe(self) -> str:
        """One plain sentence."""
        return (
            f"in the last {self.seconds:.0f}s the canary's workers counted {self.workers} requests "
            f"and the gateways {self.gateways}: more than 2% apart, so neither is believed"
        )


class CrossCheck:
    """Arrivals at the canary's workers against the gateways' counts, over sliding windows."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int, int, int]] = deque()
        self._lives: frozenset[tuple[str, str]] = frozenset()
        self._source = ""
        self._apart = 0

    def note(
        self,
        pages: Collection[tuple[str, Page]],
        issued: int,
        failed: int,
        source: str,
        at: float,
    ) -> Disagreement | None:
        """One second: the pages of *all* ready canary workers, the gateways' cumulative counts
        (user requests and copies), which count from zero with each ``source``."""
        lives = frozenset((uid, page.boot) for uid, page in pages)
        if lives != self._lives or source != self._source:
            self._points.clear()
            self._lives, self._source, self._apart = lives, source, 0
        arrived = sum(page.live + page.mirrored + page.other for _, page in pages)
        self._points.append((at, arrived, issued, failed))
        while self._points[0][0] < at - _CHECK_WINDOW:
            self._points.popleft()
        found = self._compare()
        self._apart = self._apart + 1 if found is not None else 0
        return found if self._apart >= _IN_A_ROW else None

    def _compare(self) -> Disagreement | None:
        began, arrived_0, issued_0, failed_0 = self._points[0]
        ended, arrived_1, issued_1, failed_1 = self._points[-1]
        seconds = ended - began
        arrived, issued, failed = arrived_1 - arrived_0, issued_1 - issued_0, failed_1 - failed_0
        most = max(arrived, issued)
        if seconds < _CHECK_SECONDS or most < _CHECK_REQUESTS or failed > _FEW_FAILURES * most:
            return None
        edge = _EDGE_SECONDS * self._fastest()
        if abs(arrived - issued) <= AGREE_WITHIN * most + edge:
            return None
        return Disagreement(arrived, issued, seconds)

    def _fastest(self) -> float:
        """The highest rate of either side at either end of the window, requests a second."""
        points = list(self._points)
        rates = [0.0]
        for pair in ((points[0], points[min(5, len(points) - 1)]), (points[-6:][0], points[-1])):
            (t0, a0, i0, _), (t1, a1, i1, _) = pair
            if t1 > t0:
                rates.append(max(a1 - a0, i1 - i0) / (t1 - t0))
        return max(rates)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Requests that the gateways sent to the canary since one of it last ended."""

    sent: int
    seconds: float

    def describe(self) -> str:
        """One plain sentence."""
        return (
            f"the gateways sent {self.sent} requests to the canary in the last {self.seconds:.0f}s "
            "and its engines ended none: requests that hang are in no histogram"
        )


class EndWatch:
    """Whether what is sent to the canary still ends, where only ends are counted."""

    def __init__(self) -> None:
        self._moved: tuple[float, int] | None = None
        self._lives: frozenset[tuple[str, str]] = frozenset()
        self._ended = 0
        self._source = ""

    def note(
        self, pages: Collection[tuple[str, Page]], sent: int, source: str, at: float
    ) -> Unanswered | None:
        """One second: the canary's pages, and the gateways' cumulative count of requests to it,
        which begins anew with each ``source``."""
        lives = frozenset((uid, page.boot) for uid, page in pages)
        # A probe that was answered but is not counted yet looks like a user's request for a
        # second: only more than ever before is news.
        ended = sum(page.live - page.in_flight for _, page in pages)
        moved = self._moved
        if moved is None or lives != self._lives or source != self._source or sent < moved[1]:
            self._moved, self._lives, self._source, self._ended = (at, sent), lives, source, ended
            return None
        if ended > self._ended:
            self._moved, self._ended = (at, sent), ended
            return None
        found = Unanswered(sent - moved[1], at - moved[0])
        return found if found.sent >= _SENT and found.seconds >= _WITHOUT_AN_END else None
