"""Collects what stable does before a stage, from what its workers remember.

Each worker is asked for its past, so that a busy service has its baseline within seconds; then for
what is new, until there is enough. It decides only how much is enough; thresholds are made from it
in analysis/stage. Called by controller/measure.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from llmrollouts.analysis.baseline import (
    MIN_BASELINE,
    MIN_OF_METRIC,
    Baseline,
    baseline_measurement,
    choose_reference,
)
from llmrollouts.analysis.counts import Counts, Measurement, Metric, Stream
from llmrollouts.analysis.grid import bucket_of, quantile_bucket
from llmrollouts.metrics.cursor import Cursor, keys_of
from llmrollouts.metrics.page import Page

# With so many requests the p99.9 is one of several; more would not move the thresholds by much.
PLENTY: Final = 2000
# A baseline that is enough is still filled up for this long, seconds.
PATIENCE: Final = 3.0
_RATE_WINDOW: Final = 30.0
# Seconds that a request is followed; longer only where stable's own tail does not fit.
USUAL: Final = 30.0
LONGEST: Final = 120.0


class BaselineCollector:
    """``began``: when it was asked for, on the reader's clock."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._follows = USUAL
        self._baseline: Baseline | None = None
        self._measurement: Measurement | None = None
        self._cursors: dict[str, Cursor] = {}
        # By worker and life: finished answers by length, since the life began.
        self._tokens: dict[tuple[str, str], tuple[int, ...]] = {}
        self._seen: deque[tuple[float, int]] = deque()

    @property
    def baseline(self) -> Baseline:
        """What there is so far."""
        found = self._baseline if self._baseline is not None else Baseline()
        tokens = self._all_tokens()
        return found.add_tokens(dict(enumerate(tokens))) if tokens else found

    def usable(self) -> Baseline | None:
        """The same, once thresholds could be fixed by it."""
        return self.baseline if self._requests >= MIN_BASELINE else None

    def ask(self, uid: str) -> tuple[Measurement | None, float | None, str | None]:
        """What to ask this worker for: measurement, since, boot."""
        cursor = self._cursors.get(uid)
        if cursor is None:
            return None, None, None
        return self._measurement, cursor.since, cursor.boot

    def take(self, uid: str, page: Page, at: float) -> None:
        """Take in one page of a stable worker."""
        if page.tokens:
            self._tokens[uid, page.boot] = page.tokens
        cursor = self._cursors.get(uid)
        if cursor is None or cursor.boot != page.boot:
            self._begin(uid, page)
            return
        baseline = self._baseline if self._baseline is not None else Baseline()
        for stream, counts in _by_stream(cursor.take(page).counts).items():
            baseline = baseline.add(stream, counts)
        self._baseline = baseline
        if self._follows < LONGEST and _is_cut(baseline, self._follows):
            self._start_over(LONGEST)
            return
        self._seen.append((at, baseline.requests))
        while self._seen and self._seen[0][0] < at - _RATE_WINDOW:
            self._seen.popleft()

    def is_complete(self, now: float) -> bool:
        """Whether thresholds may be fixed now."""
        requests = self._requests
        if requests >= PLENTY:
            return True
        return requests >= MIN_BASELINE and self.was_patient(now)

    def was_patient(self, now: float) -> bool:
        """Whether it was waited long enough for what workers remember."""
        return now - self._began >= PATIENCE

    @property
    def _requests(self) -> int:
        return self._baseline.requests if self._baseline is not None else 0

    def describe_need(self) -> str:
        """How much is missing and how long that takes at the present rate (R09)."""
        need = max(0, MIN_BASELINE - self._requests)
        told = f"needs {need} more requests on stable before thresholds can be set"
        rate = self._rate()
        if rate <= 0:
            return f"{told}, and none has ended lately"
        return f"{told}, about {math.ceil(need / rate)}s at this rate ({rate:.1f}/s)"

    def _rate(self) -> float:
        if len(self._seen) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0

    def _begin(self, uid: str, page: Page) -> None:
        if self._measurement is None:
            # Fixed with the first answer: E2E of two reference lengths cannot be added.
            reference = choose_reference(self._all_tokens())
            self._measurement = baseline_measurement(reference, self._follows)
            self._baseline = Baseline(reference_tokens=reference)
        self._cursors[uid] = Cursor.at(keys_of(self._measurement), page.boot, 0.0)

    def _start_over(self, follows: float) -> None:
        """Stable's requests take longer than they were followed: ask for the past again."""
        self._follows = follows
        self._baseline, self._measurement = None, None
        self._cursors.clear()
        self._seen.clear()

    def _all_tokens(self) -> tuple[int, ...]:
        longest = max((len(each) for each in self._tokens.values()), default=0)
        return tuple(
            sum(each[power] for each in self._tokens.values() if power < len(each))
            for power in range(longest)
        )


def _by_stream(taken: tuple[tuple[Stream, int, Counts], ...]) -> dict[Stream, Counts]:
    sums: dict[Stream, Counts] = {}
    for stream, _, counts in taken:
        sums[stream] = sums[stream] + counts if stream in sums else counts
    return sums


def _is_cut(baseline: Baseline, follows: float) -> bool:
    """Whether the p99 of whole answers lies beyond what was followed."""
    counts = baseline.latency.get(Metric.E2E, ())
    if sum(counts) < MIN_OF_METRIC:
        return False
    return quantile_bucket(counts, 0.99) > bucket_of(follows)
