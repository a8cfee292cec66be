"""What one arm did with the requests of one second, as far as it was known when it was asked.

The unit is the request. A *cohort* is the requests that arrived in one second of one worker's
clock. A cohort is read once for each *stream*: a metric with a lag, the age in seconds at which
the cohort's fate is taken down. At that age every request is one of

    done   its value is known: it exceeds every bound below the value
    left   its client went away at this age without an answer: it exceeds the bounds below the age
           and says nothing of the others (dropped there, in both arms alike)
    over   still unanswered, or failed by the server: it exceeds every bound up to the lag

Read at that age, a hang is evidence: "no answer yet" counts, and nothing is biased towards the
fast. Counts of workers and of strata of one arm are added.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from llmrollouts.analysis.evalue import Cell


class Metric(StrEnum):
    """What is compared, always one value a request.

    TTFT      seconds to the first token; streaming requests
    TPOT      mean seconds per output token after the first, up to the lag; two tokens or more
    E2E       seconds to output token R, where R is the stage's reference length: an answer that
              is shorter is extrapolated at its own rate, so that a longer answer is not "slower"
    DURATION  seconds from arrival to the end, as it was; for the hard limit e2eP99 alone
    """

    # Streams are keys of most tables: an enumeration's own hash is a call of Python each time.
    __hash__ = str.__hash__

    TTFT = "ttft"
    TPOT = "tpot"
    E2E = "e2e"
    DURATION = "duration"


class Stream(NamedTuple):
    """One metric read at one age. lag: seconds from the end of the arrival second."""

    metric: Metric
    lag: float


@dataclass(frozen=True, slots=True)
class Counts:
    """One arm, one cohort, one stream.

    done, left: requests by bucket (grid.py). over: requests beyond every bound. beyond: for each
    exact value that was asked for (Measurement.exact, same order) how many exceeded it, of how
    many that say something about it.
    """

    done: Mapping[int, int] = field(default_factory=dict)
    left: Mapping[int, int] = field(default_factory=dict)
    over: int = 0
    beyond: tuple[tuple[int, int], ...] = ()

    def exceeding(self, bound: int) -> tuple[int, int]:
        """(how many exceed bound number ``bound``, of how many that say something about it)."""
        beyond = sum(n for bucket, n in self.done.items() if bucket > bound)
        beyond += sum(n for bucket, n in self.left.items() if bucket > bound) + self.over
        within = sum(n for bucket, n in self.done.items() if bucket <= bound)
        return beyond, beyond + within

    def tally(self, bounds: Sequence[int]) -> list[tuple[int, int]]:
        """``exceeding`` of several rising bounds in one pass."""
        beyond = [0] * (len(bounds) + 1)
        gone = [0] * (len(bounds) + 1)
        whole = self.over
        for bucket, count in self.done.items():
            beyond[bisect_left(bounds, bucket)] += count
            whole += count
        for bucket, count in self.left.items():
            place = bisect_left(bounds, bucket)
            beyond[place] += count
            gone[place] += count
            whole += count
        # A request in slot i exceeds the first i bounds; one that left is dropped at the others.
        over, dropped, results = whole, 0, []
        for place in range(len(bounds)):
            over -= beyond[place]
            dropped += gone[place]
            results.append((over, whole - dropped))
        return results

    @property
    def total(self) -> int:
        """Requests with a known fate, those that left included."""
        return sum(self.done.values()) + sum(self.left.values()) + self.over

    def __add__(self, other: Counts) -> Counts:
        """The counts of two workers. Raises ValueError when they were asked for other values."""
        if self.beyond and other.beyond and len(self.beyond) != len(other.beyond):
            raise ValueError("counts of different measurements cannot be added")
        if self.beyond and other.beyond:
            beyond = tuple(
                (a + c, b + d) for (a, b), (c, d) in zip(self.beyond, other.beyond, strict=True)
            )
        else:
            beyond = self.beyond or other.beyond
        return Counts(
            _added(self.done, other.done),
            _added(self.left, other.left),
            self.over + other.over,
            beyond,
        )


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Ends of the requests of one arm and one cohort, known at the lag of the stream of errors.

    total: requests that arrived, without those whose client left unanswered. failed: of these,
    server errors, time-outs, cut or truncated answers, answers without any token, errors inside a
    200 stream. refused: of these, answers 4xx.
    """

    total: int = 0
    failed: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.failed + self.refused <= self.total):
            raise ValueError(f"no counts of requests: {self}")

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(
            self.total + other.total, self.failed + other.failed, self.refused + other.refused
        )


class LatencySecond(NamedTuple):
    """One tick of one latency stream: the same arrival second of both arms. cells: both arms at
    every threshold of the stage, by who knows them already; workers: the canary's counts by
    worker, by who knows them."""

    stream: Stream
    second: int
    canary: Counts
    control: Counts
    cells: Sequence[Cell] | None = None
    workers: Mapping[str, Counts] = MappingProxyType({})

    def compare(self, canary_bounds: Sequence[int], bounds: Sequence[int]) -> Sequence[Cell]:
        """Both arms at every threshold, each at its own bound."""
        if self.cells is not None:
            return self.cells
        canary, control = self.canary.tally(canary_bounds), self.control.tally(bounds)
        return [Cell(*ours, *theirs) for ours, theirs in zip(canary, control, strict=True)]


class OutcomeSecond(NamedTuple):
    """One tick of one stream of errors. lag: seconds; the gateway's own counts have lag 0."""

    lag: float
    second: int
    canary: Outcomes
    control: Outcomes


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the workers are asked to count; follows from a stage, frozen with it.

    lags: for each metric the ages at which its cohorts are read, rising. exact: for each metric
    values in seconds that are counted exactly beside the buckets. reference_tokens: R of E2E, a
    power of two. outcome_lags: the ages at which ends are counted.
    """

    lags: Mapping[Metric, tuple[float, ...]]
    exact: Mapping[Metric, tuple[float, ...]]
    reference_tokens: int
    outcome_lags: tuple[float, ...]

    def __post_init__(self) -> None:
        tokens = self.reference_tokens
        if tokens < 1 or tokens & (tokens - 1):
            raise ValueError(f"the reference length is a power of two, not {tokens}")
        for lags in (*self.lags.values(), self.outcome_lags):
            if list(lags) != sorted(set(lags)) or any(lag <= 0 for lag in lags):
                raise ValueError(f"lags rise and lie above 0, not {lags}")


def make_cell(canary: Counts, control: Counts, canary_bound: int, control_bound: int) -> Cell:
    """The two arms at one threshold, each at its own bound."""
    over, total = canary.exceeding(canary_bound)
    control_over, control_total = control.exceeding(control_bound)
    return Cell(over, total, control_over, control_total)


def add_counts(parts: Iterable[Counts]) -> Counts:
    whole = Counts()
    for part in parts:
        whole = whole + part
    return whole


def _added(a: Mapping[int, int], b: Mapping[int, int]) -> dict[int, int]:
    whole = dict(a)
    for bucket, count in b.items():
        whole[bucket] = whole.get(bucket, 0) + count
    return whole
