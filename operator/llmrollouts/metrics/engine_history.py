"""One worker's engine second by second: successive readings of its counters become a page.

    reading - the one before it = what ended in that second        -> one cohort of every stream

The counters tell when a request *ended* (TTFT: when its first token came), not when it arrived, and
of its latency only the two bounds between which it lies. So

    cohorts    are the seconds in which requests ended, told at once; for a stream with lag L they
               are put L seconds back, so that a stage takes in only what ended L seconds after it
               began
    rounding   a canary's latency is taken as its lower bound, stable's as its upper one. What the
               gate then counts beyond a threshold is never more than the truth of the canary and
               never less of stable, request by request, so its promise holds wherever the bounds
               lie; it only finds less
    probes     of the launcher are in the histograms. One for each that was answered is taken out of
               stable's lowest buckets, or an idle stable worker would look faster than it is to
               users. The canary keeps them: that too is against finding anything
    errors     5xx and ends by an error of the engine may be the same request: of the canary the
               larger number is believed, of stable the sum

Counters that fall, other bounds or another start of the process are a new life. A gap of more than
three seconds is not spread over anything: what ended in it is left out. A page on which nothing
moves while the launcher's probes are answered is stale, an error. It reads no clock. Used by
``engine_reader``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmrollouts.analysis.counts import Counts, Metric, Outcomes, Stream
from llmrollouts.analysis.rounding import place_bounds
from llmrollouts.metrics.engine_metrics import Buckets, EngineMetrics, HttpEnds, NoEngineMetrics
from llmrollouts.metrics.page import Page
from llmrollouts.metrics.port import Query, Rounding

LONGEST_GAP: Final = 3.0
REMEMBERED: Final = 120.0
# Probes that were answered while nothing on the page moved.
_STALE_AFTER: Final = 3
# Probes that are not found in a histogram are not looked for in ever later ones.
_MOST_OWED: Final = 5


@dataclass(frozen=True, slots=True)
class _Second:
    """What ended between two readings. whole, users: observations by bucket, with and without
    the probes."""

    cohort: int
    at: float
    bounds: dict[Metric, tuple[float, ...]]
    whole: dict[Metric, tuple[int, ...]]
    users: dict[Metric, tuple[int, ...]]
    total: int
    failed: int
    broken: int
    refused: int


class EngineHistory:
    """``worker``: its name, for messages."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._last: tuple[EngineMetrics, float] | None = None
        self._since = 0.0
        self._cohort = 0
        self._resets = 0
        self._unmoved = 0
        self._owed: dict[Metric | str, int] = {}
        self._seconds: deque[_Second] = deque()

    @property
    def read_at(self) -> float:
        return self._last[1] if self._last is not None else -math.inf

    def take(self, now: EngineMetrics, at: float) -> None:
        """A reading of ``at``. Raises NoEngineMetrics when the page is stale."""
        last = self._last
        if last is None:
            self._begin(now, at)
            return
        before, was_at = last
        if at <= was_at:
            return  # an answer that was overtaken by a later one
        if not _follows(before, now):
            self._resets += before.started == now.started
            self._begin(now, at)
            return
        self._last = (now, at)
        self._cohort = max(self._cohort + 1, math.floor(at) - 1)
        probes = now.probes - before.probes
        self._look_for_life(before, now, probes)
        if at - was_at > LONGEST_GAP:
            self._since = at
            self._seconds.clear()
            return
        self._seconds.append(self._subtract(before, now, at, probes))
        while self._seconds[0].at < at - REMEMBERED:
            self._since = max(self._since, self._seconds.popleft().at)

    def page(self, query: Query) -> Page:
        """What is known now, as a tap would tell it. Raises LookupError before any reading."""
        if self._last is None:
            raise LookupError(f"{self._worker} was not read yet")
        now, at = self._last
        boot = self._boot(now)
        closed: list[tuple[Stream, int, Counts]] = []
        ends: list[tuple[float, int, Outcomes]] = []
        wanted = query.measurement
        if wanted is not None and query.since is not None and query.boot in (None, boot):
            streams = [Stream(m, lag) for m, lags in wanted.lags.items() for lag in lags]
            for second in self._seconds:
                if second.at <= query.since:
                    continue
                for stream in streams:
                    if counts := _latencies(second, stream.metric, query.rounding):
                        closed.append((stream, second.cohort - math.ceil(stream.lag), counts))
                outcomes = _outcomes(second, query.rounding)
                if outcomes.total:
                    ends += [(lag, second.cohort - math.ceil(lag), outcomes)
                             for lag in wanted.outcome_lags]  # fmt: skip
        return Page(
            boot=boot,
            now=at,
            since=self._since,
            closed=tuple(closed),
            ends=tuple(ends),
            live=max(0, _total(now) - now.probes) + now.in_flight,
            other=now.http.other if now.http is not None else 0,
            in_flight=now.in_flight,
            tap=False,
        )

    def _begin(self, now: EngineMetrics, at: float) -> None:
        self._last = (now, at)
        self._since = at
        self._cohort = max(self._cohort + 1, math.floor(at) - 1)
        self._unmoved = 0
        self._owed.clear()
        self._seconds.clear()

    def _boot(self, now: EngineMetrics) -> str:
        """The same for the next leader, as long as the process tells when it started."""
        life = f"engine-{now.started or 'unknown'}"
        return f"{life}-{self._resets}" if self._resets else life

    def _look_for_life(self, before: EngineMetrics, now: EngineMetrics, probes: int) -> None:
        moved = before.histograms != now.histograms
        self._unmoved = 0 if moved else self._unmoved + probes
        if self._unmoved >= _STALE_AFTER:
            raise NoEngineMetrics(
                f"{self._worker} has no tap, and its engine's page of metrics is stale: nothing on "
                f"it has moved while {self._unmoved} probes were answered"
            )

    def _subtract(
        self, before: EngineMetrics, now: EngineMetrics, at: float, probes: int
    ) -> _Second:
        whole = {
            metric: _minus(buckets, before.histograms.get(metric))
            for metric, buckets in now.histograms.items()
        }
        users = {
            metric: _without_lowest(counts, self._pay(metric, probes, sum(counts)))
            for metric, counts in whole.items()
        }
        ended = _total(now) - _total(before)
        http, had = now.http or HttpEnds(), before.http or HttpEnds()
        return _Second(
            cohort=self._cohort,
            at=at,
            bounds={metric: buckets.bounds for metric, buckets in now.histograms.items()},
            whole=whole,
            users=users,
            total=ended - self._pay("ends", probes, ended),
            failed=http.failed - had.failed,
            broken=now.broken - before.broken,
            refused=http.refused - had.refused,
        )

    def _pay(self, where: Metric | str, probes: int, present: int) -> int:
        """How many probes to take out here: those of before that were not found yet included."""
        owed = self._owed.get(where, 0) + probes
        paid = min(owed, present)
        self._owed[where] = min(_MOST_OWED, owed - paid)
        return paid


def _follows(before: EngineMetrics, now: EngineMetrics) -> bool:
    """Whether ``now`` is a later reading of the same counters."""
    if before.started != now.started or (before.http is None) != (now.http is None):
        return False
    pairs = [(before.ended, now.ended), (before.broken, now.broken), (before.probes, now.probes)]
    if before.http is not None and now.http is not None:
        a, b = before.http, now.http
        pairs += [(a.total, b.total), (a.failed, b.failed), (a.refused, b.refused)]
    for metric, had in before.histograms.items():
        has = now.histograms.get(metric)
        if has is None or has.bounds != had.bounds:
            return False
        pairs += zip(had.counts, has.counts, strict=True)
    return all(was <= is_ for was, is_ in pairs)


def _total(metrics: EngineMetrics) -> int:
    return metrics.http.total if metrics.http is not None else metrics.ended


def _minus(now: Buckets, before: Buckets | None) -> tuple[int, ...]:
    if before is None:
        return now.counts
    return tuple(a - b for a, b in zip(now.counts, before.counts, strict=True))


def _without_lowest(counts: Sequence[int], number: int) -> tuple[int, ...]:
    left = []
    for count in counts:
        taken = min(count, number)
        number -= taken
        left.append(count - taken)
    return tuple(left)


def _latencies(second: _Second, metric: Metric, rounding: Rounding) -> Counts | None:
    """None without a request."""
    counts = (second.users if rounding == "up" else second.whole).get(metric)
    if counts is None or not any(counts):
        return None
    done: dict[int, int] = {}
    for bucket, count in zip(place_bounds(second.bounds[metric], rounding), counts, strict=True):
        if count:
            done[bucket] = done.get(bucket, 0) + count
    return Counts(done)


def _outcomes(second: _Second, rounding: Rounding) -> Outcomes:
    if rounding == "up":
        failed = second.failed + second.broken
        return Outcomes(max(second.total, failed + second.refused), failed, second.refused)
    refused = min(second.total, second.refused)
    failed = min(second.total - refused, max(second.failed, second.broken))
    return Outcomes(second.total, failed, refused)
