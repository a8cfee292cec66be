"""How far one worker has been read: each of its cohorts is taken in once, or not at all.

A page covers the cohorts that closed in a span of the worker's clock. Pages may come twice, late
or not at all: the next one covers the gap, because each read asks for what closed since the last
page that was taken. What a worker has forgotten meanwhile (a gap longer than it remembers) is
lost and said. A new boot is a new life with a clock of its own. Pure; used by timeline and
baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from llmrollouts.analysis.counts import Counts, Measurement, Outcomes, Stream
from llmrollouts.metrics.page import Page

# A latency stream, or the lag of a stream of ends.
Key: TypeAlias = Stream | float

# Workers tell of a cohort a little after its lag, when the last records are in; seconds. Only then
# is silence about a cohort the news that it had no request.
SETTLES: Final = 0.2
# Each read asks for this much again: cohorts are told apart by their number, not by the clock.
OVERLAP: Final = 0.01
# What the worker says it covers may differ from what was asked by rounding.
_ROUNDING: Final = 0.002


def keys_of(measurement: Measurement) -> tuple[Key, ...]:
    """Every stream that a measurement reads."""
    streams = (Stream(metric, lag) for metric, lags in measurement.lags.items() for lag in lags)
    return (*sorted(streams), *measurement.outcome_lags)


def lag_of(key: Key) -> float:
    return key.lag if isinstance(key, Stream) else key


@dataclass(frozen=True, slots=True)
class Taken:
    """What one page added. counts, ends: cohorts with requests; covered: for each stream the
    cohorts that are known now, those without requests included. lost: cohorts that the worker had
    forgotten (of the stream that lost most)."""

    counts: tuple[tuple[Stream, int, Counts], ...] = ()
    ends: tuple[tuple[float, int, Outcomes], ...] = ()
    covered: Mapping[Key, range] = field(default_factory=dict)
    lost: int = 0


NOTHING: Final = Taken()


@dataclass(slots=True)
class Cursor:
    """boot: the life that is read; through: seconds on its clock up to which it was; done: the
    last cohort of each stream that was taken in or given up."""

    keys: tuple[Key, ...]
    boot: str
    through: float
    done: dict[Key, int]
    _lags: dict[Key, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._lags = {key: lag_of(key) for key in self.keys}

    @classmethod
    def at(cls, keys: Iterable[Key], boot: str, since: float) -> Cursor:
        """Cohorts that close after ``since`` are still to be read."""
        keys = tuple(keys)
        return cls(keys, boot, since, {key: _missed(since, lag_of(key)) for key in keys})

    @classmethod
    def after(cls, done: Mapping[Key, int], boot: str) -> Cursor:
        """Take up where the last cohort of each stream is known (a restart of the operator)."""
        through = min((cohort + 1 + lag_of(key) for key, cohort in done.items()), default=0.0)
        return cls(tuple(done), boot, through, dict(done))

    @property
    def since(self) -> float:
        """What to ask for next."""
        return max(0.0, self.through - OVERLAP)

    def take(self, page: Page) -> Taken:
        """What ``page`` adds; nothing when it is stale, a copy, or of another life."""
        if page.boot != self.boot or page.now <= self.through:
            return NOTHING
        # Of every worker each second: no call for each stream, and pages' entries as they are.
        done, lags, lost = self.done, self._lags, 0
        if page.since > self.through + _ROUNDING:
            for key, lag in lags.items():
                given_up = _missed(page.since, lag)
                lost = max(lost, given_up - done[key])
                done[key] = max(done[key], given_up)
        before, now = dict(done), page.now
        for key, lag in lags.items():
            # The last cohort of a stream of which a page of that moment has certainly told.
            told = math.floor(now - 1 - lag - SETTLES)
            done[key] = max(done[key], told)
        counts = []
        for latency in page.closed:
            stream, cohort = latency[0], latency[1]
            if cohort > before[stream]:
                counts.append(latency)
                done[stream] = max(done[stream], cohort)
        ends = []
        for outcome in page.ends:
            lag, cohort = outcome[0], outcome[1]
            if cohort > before[lag]:
                ends.append(outcome)
                done[lag] = max(done[lag], cohort)
        self.through = now
        covered = {key: range(first + 1, done[key] + 1) for key, first in before.items()}
        return Taken(tuple(counts), tuple(ends), covered, lost)


def _missed(clock: float, lag: float) -> int:
    """The last cohort of a stream of which a page that covers what came after that moment may not
    tell."""
    return math.floor(clock - 1 - lag)
