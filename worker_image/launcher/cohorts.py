"""The requests that the tap has told of, by the second in which they arrived.

Holds facts and forgets them again; what they mean is in `fates`. Times are seconds of the worker's
monotonic clock, ages are seconds from the request's arrival. Memory is bounded: a request is kept
for KEPT_SECONDS after its arrival, and at most KEPT_REQUESTS are kept; beyond that the oldest
second goes first, is counted, and moves the time from which on anything can be told.
"""

from __future__ import annotations

import math
from itertools import islice

RETENTION_SECONDS = 120.0  # how long after its closing a cohort can still be asked for
LONGEST_LAG = 600.0
KEPT_SECONDS = LONGEST_LAG + RETENTION_SECONDS
KEPT_REQUESTS = 65536  # about 30 MB


class Request:
    """One user's request, or a mirrored copy of one.

    marks: the ages at which it had 1, 2, 4, 8, ... tokens. end: how it ended (wire.ENDS), 0 while
    it is in flight; end_age and last_age (of its last token) count only then. blind: the age from
    which on records of it may have been lost.
    """

    __slots__ = (
        "arrived",
        "blind",
        "end",
        "end_age",
        "key",
        "last_age",
        "marks",
        "mirrored",
        "streamed",
        "tokens",
    )

    def __init__(
        self, key: tuple[int, int], arrived: float, *, streamed: bool, mirrored: bool
    ) -> None:
        self.key = key  # (life of its process, number)
        self.arrived = arrived
        self.streamed = streamed
        self.mirrored = mirrored
        self.marks: list[float] = []
        self.end = 0
        self.end_age = math.inf
        self.last_age = 0.0
        self.tokens = 0
        self.blind = math.inf


class Cohorts:
    """All that is kept of one life of the engine."""

    def __init__(self, *, kept_requests: int = KEPT_REQUESTS) -> None:
        self._kept_requests = kept_requests
        self._seconds: dict[int, list[Request]] = {}
        self._in_flight: dict[tuple[int, int], Request] = {}
        self._kept = 0
        self.gone_before = -math.inf  # seconds before this one have been forgotten
        self.dropped = 0

    def start(self, request: Request) -> None:
        second = math.floor(request.arrived)
        if second < self.gone_before:
            self.dropped += 1  # so late that its second is gone already
            return
        if second not in self._seconds:
            self.forget_old(request.arrived)
            self._seconds[second] = []
        self._seconds[second].append(request)
        self._in_flight[request.key] = request
        self._kept += 1
        while self._kept > self._kept_requests:
            self._drop_second(min(self._seconds))

    def find(self, key: tuple[int, int]) -> Request | None:
        """The request while it is in flight."""
        return self._in_flight.get(key)

    def end(self, request: Request) -> None:
        """Its end has been noted in it: it is in flight no more."""
        self._in_flight.pop(request.key, None)

    def lose_sight(self, life: int, since: float) -> None:
        """Records of a process may be missing from `since` on: of its requests in flight nothing
        later than that may be told."""
        for request in [one for one in self._in_flight.values() if one.key[0] == life]:
            request.blind = max(0.0, since - request.arrived)
            self.end(request)

    def forget_old(self, now: float) -> None:
        oldest = math.floor(now - KEPT_SECONDS)
        for second in [second for second in self._seconds if second < oldest]:
            self._drop_second(second)
        self.gone_before = max(self.gone_before, oldest)

    def _drop_second(self, second: int) -> None:
        requests = self._seconds.pop(second)
        self._kept -= len(requests)
        self.gone_before = max(self.gone_before, second + 1)
        self.dropped += len(requests)
        for request in requests:
            self.end(request)

    def between(self, first: int, last: int) -> list[tuple[int, list[Request]]]:
        """The seconds `first` to `last`, both included, in order, empty ones left out."""
        found = sorted(second for second in self._seconds if first <= second <= last)
        return [(second, self._seconds[second]) for second in found]

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def oldest(self, now: float) -> float:
        """The age of the oldest request in flight; 0 without one."""
        # Several processes report side by side, so the first ones may be a little out of order.
        ages = [now - request.arrived for request in islice(self._in_flight.values(), 64)]
        return max(ages, default=0.0)
