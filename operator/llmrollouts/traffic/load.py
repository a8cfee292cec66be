"""What the gateways' load reports add up to: pure counting, one report at a time.

A report says for each cluster, whose workers (priority 0: its own, 1: those of stable) got how
many requests since the last report. Three things it does not say, and what is made of them:
a refused connection is an error that was never issued, so issued and errors are put together to
the number of requests; a request that stable answered for the canary is issued at priority 1; a
stream cut after its headers is a success here, and is counted at the worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from llmrollouts.rollout.intent import RequestCounts
from llmrollouts.traffic.names import ClusterName

WINDOW: Final = 10.0


@dataclass(frozen=True, slots=True)
class LocalityLoad:
    """The requests of one cluster at one priority in one reporting interval."""

    cluster: ClusterName
    priority: int
    issued: int
    succeeded: int
    failed: int
    in_progress: int


@dataclass(slots=True)
class _Tally:
    """Sums of one revision since the process started."""

    issued: int = 0
    succeeded: int = 0
    failed: int = 0
    fallback_issued: int = 0
    fallback_failed: int = 0
    mirrored: int = 0
    in_progress: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    last_request_at: float | None = None

    def count(self) -> int:
        """User requests sent to this revision, those that stable answered included."""
        unfinished = sum(self.in_progress.values())
        answered_or_lost = max(0, self.issued - self.succeeded - unfinished)
        refused = max(0, self.failed - answered_or_lost)
        went_round = max(0, self.fallback_issued - self.failed)
        self.requests = max(self.requests, self.issued + refused + went_round)
        return self.requests

    def counts(self) -> RequestCounts:
        return RequestCounts(
            issued=self.count(),
            saved=max(0, self.fallback_issued - self.fallback_failed),
            errors=max(self.failed, self.fallback_issued),
            mirrored=self.mirrored,
        )


@dataclass(frozen=True, slots=True)
class Recent:
    """The last ten seconds of one deployment: shares of its user requests by revision, and their
    rate per second."""

    live: dict[str, float]
    mirrored: dict[str, float]
    rate: float


class LoadBook:
    """All reports of all gateways. Times are seconds of one monotonic clock."""

    def __init__(self, started_at: float) -> None:
        self._started_at = started_at
        self._tallies: dict[str, dict[str, _Tally]] = {}
        # By deployment: (time, revision -> (user requests, copies)) of each report.
        self._windows: dict[str, deque[tuple[float, dict[str, tuple[int, int]]]]] = {}
        self._reported_at: dict[str, float] = {}

    def record(self, gateway: str, loads: Iterable[LocalityLoad], now: float) -> None:
        """One report of one gateway."""
        self._reported_at[gateway] = now
        by_uid: dict[str, dict[str, tuple[int, int]]] = {}
        grouped: dict[tuple[str, str], list[LocalityLoad]] = {}
        for load in loads:
            grouped.setdefault((load.cluster.uid, load.cluster.revision), []).append(load)
        for (uid, revision), parts in grouped.items():
            tally = self._tallies.setdefault(uid, {}).setdefault(revision, _Tally())
            before, mirrored_before = tally.count(), tally.mirrored
            self._add(tally, gateway, parts)
            new = tally.count() - before
            if new:
                tally.last_request_at = now
            by_uid.setdefault(uid, {})[revision] = (new, tally.mirrored - mirrored_before)
        for uid, entry in by_uid.items():
            window = self._windows.setdefault(uid, deque())
            window.append((now, entry))
            while window and window[0][0] <= now - WINDOW:
                window.popleft()

    def end(self, gateway: str) -> None:
        """The gateway's report stream ended: what it had in flight is unknown from now on."""
        self._reported_at.pop(gateway, None)
        for revisions in self._tallies.values():
            for tally in revisions.values():
                tally.in_progress.pop(gateway, None)

    def forget(self, uid: str) -> None:
        self._tallies.pop(uid, None)
        self._windows.pop(uid, None)

    def counts(self, uid: str) -> dict[str, RequestCounts]:
        return {rev: tally.counts() for rev, tally in self._tallies.get(uid, {}).items()}

    def quiet_seconds(self, uid: str, now: float) -> dict[str, float | None]:
        return {
            revision: None if tally.last_request_at is None else now - tally.last_request_at
            for revision, tally in self._tallies.get(uid, {}).items()
        }

    def report_age(self, gateways: Iterable[str], now: float) -> float | None:
        """Seconds since the report of the gateway that has been silent the longest; None when one
        has never reported, or when there is none."""
        ages = []
        for gateway in gateways:
            if gateway not in self._reported_at:
                return None
            ages.append(now - self._reported_at[gateway])
        return max(ages, default=None)

    def recent(self, uid: str, now: float) -> Recent:
        live: dict[str, int] = {}
        copies: dict[str, int] = {}
        for at, entry in self._windows.get(uid, ()):
            if at <= now - WINDOW:
                continue
            for revision, (requests, mirrored) in entry.items():
                live[revision] = live.get(revision, 0) + requests
                copies[revision] = copies.get(revision, 0) + mirrored
        total = sum(live.values())
        if total == 0:
            return Recent({}, {}, 0.0)
        span = max(1.0, min(WINDOW, now - self._started_at))
        return Recent(
            {revision: n / total for revision, n in live.items()},
            {revision: n / total for revision, n in copies.items()},
            total / span,
        )

    @staticmethod
    def _add(tally: _Tally, gateway: str, parts: list[LocalityLoad]) -> None:
        in_progress = 0
        for load in parts:
            if load.cluster.kind == "mirror":
                tally.mirrored += load.issued
            elif load.priority == 0:
                tally.issued += load.issued
                tally.succeeded += load.succeeded
                tally.failed += load.failed
                in_progress += load.in_progress
            else:
                tally.fallback_issued += load.issued
                tally.fallback_failed += load.failed
        tally.in_progress[gateway] = in_progress
