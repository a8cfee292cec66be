"""Recorded requests as columns, and what a worker's tap would have counted of them.

``Trace`` holds one row a request in the order of arrival; ``Tally`` turns them into the counts of
each arrival second at one age, by the same rules as the tap (``counts``): done, left, over. It
decides nothing and reads no file. Called by ``replay`` and by the simulations.

A record knows more than a tap at the same age did in one respect: the time per token is the mean
over the whole answer, where the tap has the mean up to that age.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from llmrollouts.analysis.counts import Counts, Metric, Outcomes, Stream
from llmrollouts.analysis.evalue import Cell, FloatArray
from llmrollouts.analysis.evalues import IntArray
from llmrollouts.analysis.grid import BOUNDS, BUCKETS

BoolArray: TypeAlias = npt.NDArray[np.bool_]
CodeArray: TypeAlias = npt.NDArray[np.int8]

CLIENT_LEFT: Final = 499
# Seconds whose counts are made at once, as they are asked for one after the other.
_BLOCK: Final = 1024
_BOUNDS: Final = np.array(BOUNDS)


class Fate(IntEnum):
    """What a request says at one age. NOTHING: it is no request of this metric."""

    NOTHING = 0
    DONE = 1
    LEFT = 2
    OVER = 3


@dataclass(frozen=True, eq=False)
class Trace:
    """One row a request. arrival: seconds, rising; canary: whether the canary answered; ttft,
    tpot, e2e: seconds, NaN where never; tokens: 0 where none; status: 0 where there is none;
    end: the moment at which the record ends: who has no answer by then has none; worker: which
    worker of the canary answered, as numbers; None: the canary's workers are not told apart.

    Raises ValueError when the columns differ in length or the arrivals fall.
    """

    arrival: FloatArray
    canary: BoolArray
    ttft: FloatArray
    tpot: FloatArray
    e2e: FloatArray
    tokens: IntArray
    status: IntArray
    end: float
    worker: IntArray | None = None

    def __post_init__(self) -> None:
        columns = [self.canary, self.ttft, self.tpot, self.e2e, self.tokens, self.status]
        if self.worker is not None:
            columns.append(self.worker)
        if any(len(column) != len(self.arrival) for column in columns):
            raise ValueError("the columns of a trace differ in length")
        if len(self.arrival) and np.any(np.diff(self.arrival) < 0):
            raise ValueError("the arrivals of a trace rise")

    def __len__(self) -> int:
        return len(self.arrival)

    @cached_property
    def second(self) -> IntArray:
        """The arrival second of each request."""
        return np.floor(self.arrival).astype(np.int64)

    @cached_property
    def empty(self) -> BoolArray:
        """Ended with a good status and without a single token."""
        ended = ~np.isnan(self.e2e)
        hollow = (self.status < 400) & (self.tokens == 0) & np.isnan(self.ttft)
        return np.asarray(ended & hollow, dtype=np.bool_)

    @cached_property
    def failed(self) -> BoolArray:
        return (self.status >= 500) | self.empty

    @cached_property
    def refused(self) -> BoolArray:
        return (self.status >= 400) & (self.status < 500) & ~self.left

    @cached_property
    def left(self) -> BoolArray:
        """Its client went away before the end."""
        return np.asarray(self.status == CLIENT_LEFT)

    @cached_property
    def token_time(self) -> FloatArray:
        """Mean seconds a token after the first; NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            derived = (self.e2e - self.ttft) / (self.tokens - 1)
        known = np.where(np.isnan(self.tpot), np.maximum(derived, 0.0), self.tpot)
        return np.where(self.tokens >= 2, known, np.nan)

    def part(self, rows: slice | BoolArray) -> Trace:
        """Some rows, up to the same end."""
        return Trace(
            self.arrival[rows], self.canary[rows], self.ttft[rows], self.tpot[rows],
            self.e2e[rows], self.tokens[rows], self.status[rows], self.end,
            None if self.worker is None else self.worker[rows],
        )  # fmt: skip


def read_fates(trace: Trace, stream: Stream, reference: int) -> tuple[CodeArray, FloatArray]:
    """The ``Fate`` of each request at the stream's lag, and its value in seconds (of one that
    left: its age). ``reference``: R of E2E."""
    match stream.metric:
        case Metric.TTFT:
            value, spoken = trace.ttft, ~np.isnan(trace.ttft)
        case Metric.TPOT:
            value, spoken = _token_times(trace, stream.lag)
        case Metric.E2E:
            value, spoken = _times_to_token(trace, reference)
        case Metric.DURATION:
            value, spoken = trace.e2e, ~np.isnan(trace.e2e)
    if stream.metric in {Metric.E2E, Metric.DURATION}:
        # A client that left did not wait for the rest: its answer had no end of its own.
        short = trace.tokens < reference if stream.metric is Metric.E2E else True
        spoken = spoken & ~(trace.left & short)
    fate = np.full(len(trace), Fate.NOTHING, dtype=np.int8)
    # Neither a value nor an end: still unanswered, or still running.
    fate[np.isnan(trace.e2e) & ~trace.left] = Fate.OVER
    fate[spoken] = Fate.DONE
    # A rate says nothing of when it was known; the first token does.
    known_at = trace.ttft if stream.metric is Metric.TPOT else value
    fate[spoken & (known_at > stream.lag)] = Fate.OVER
    if stream.metric is not Metric.TPOT:
        gone = trace.left & ~spoken & ~np.isnan(trace.e2e)
        fate[gone] = np.where(trace.e2e[gone] <= stream.lag, Fate.LEFT, Fate.OVER)
        value = np.where(gone, trace.e2e, value)
    fate[trace.failed] = Fate.OVER
    fate[trace.refused] = Fate.NOTHING
    return fate, value


def _token_times(trace: Trace, lag: float) -> tuple[FloatArray, BoolArray]:
    rate = trace.token_time
    running = np.isnan(trace.e2e) & ~np.isnan(trace.ttft) & np.isnan(rate)
    # No second token by now: it takes at least this long.
    waiting = np.maximum(lag - trace.ttft, 0.0) / np.maximum(trace.tokens, 1)
    value = np.where(running, waiting, rate)
    return value, ~np.isnan(value)


def _times_to_token(trace: Trace, reference: int) -> tuple[FloatArray, BoolArray]:
    """Seconds to output token R: streamed answers at their own rate, the others in proportion."""
    streamed = trace.ttft + np.where(
        reference > 1, np.nan_to_num(trace.token_time, nan=0.0) * (reference - 1), 0.0
    )
    has_rate = (trace.tokens >= 2) & ~np.isnan(trace.token_time) | (
        (reference == 1) & (trace.tokens == 1)
    )
    whole = trace.e2e * reference / np.maximum(trace.tokens, 1)
    plain = np.isnan(trace.ttft) & ~np.isnan(trace.e2e) & (trace.tokens >= 1)
    if reference > 1:
        plain &= trace.tokens >= 2
    value = np.where(plain, whole, np.where(has_rate, streamed, np.nan))
    return value, ~np.isnan(value)


class Tally:
    """The counts of one stream, second by second, both arms; built in one pass over the columns.

    ``exact``: values in seconds counted beside the buckets; ``bounds``: of the canary and of the
    control, where both are compared. Seconds without a request are empty.
    """

    def __init__(
        self,
        trace: Trace,
        stream: Stream,
        exact: tuple[float, ...],
        reference: int,
        bounds: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
    ) -> None:
        self.stream = stream
        fate, value = read_fates(trace, stream, reference)

        def tally(rows: BoolArray, values: tuple[float, ...], own: tuple[int, ...]) -> _ArmTally:
            at = np.array(values, dtype=np.float64)
            return _ArmTally(trace.second[rows], fate[rows], value[rows], at, own)

        arms = zip((trace.canary, ~trace.canary), bounds, strict=True)
        self._arms = tuple(tally(rows, exact, own) for rows, own in arms)
        worker = trace.worker if trace.worker is not None else np.zeros(len(trace))
        numbers = np.unique(worker[trace.canary]).tolist()
        # Of a single worker everything is known already.
        self._workers = {
            str(number): tally(trace.canary & (worker == number), (), ())
            for number in (numbers if len(numbers) > 1 else ())
        }

    def canary(self, second: int) -> Counts:
        return self._arms[0].counts(second)

    def control(self, second: int) -> Counts:
        return self._arms[1].counts(second)

    def workers(self, second: int) -> dict[str, Counts]:
        """The canary's counts by worker; empty where they are not told apart."""
        return {name: each.counts(second) for name, each in self._workers.items()}

    def cells(self, second: int) -> list[Cell]:
        """Both arms at each of their bounds."""
        canary, control = self._arms
        return list(map(_make_cell, *canary.exceeding(second), *control.exceeding(second)))

    def control_sum(self) -> Counts:
        """The control's counts of all seconds together."""
        return self._arms[1].whole()


# Seconds of few requests repeat each other.
_make_cell: Final = lru_cache(maxsize=65_536)(Cell)

# How many requests of a second exceed each of some values, and of how many each.
_Exceeding: TypeAlias = list[list[int]]


class _ArmTally:
    """Rows sorted by second and code; a code is a bucket, of those that left a bucket further
    on, or the one code of those that are over."""

    _LEFT: Final = BUCKETS + 1
    _OVER: Final = 2 * (BUCKETS + 1)
    _CODES: Final = _OVER + 1

    def __init__(
        self,
        second: IntArray,
        fate: CodeArray,
        value: FloatArray,
        exact: FloatArray,
        bounds: tuple[int, ...],
    ) -> None:
        spoken = fate != Fate.NOTHING
        second, fate, value = second[spoken], fate[spoken], value[spoken]
        if len(second) and np.any(np.diff(second) < 0):
            raise ValueError("the seconds of an arm rise")
        # Seconds with a request alone: at one request a second most arms have few.
        self._seconds, at = np.unique(second, return_inverse=True)
        length = len(self._seconds)
        value = np.where(fate == Fate.OVER, math.inf, value)
        code = np.searchsorted(_BOUNDS, value, side="left")
        code = np.where(fate == Fate.LEFT, code + self._LEFT, code)
        code = np.where(fate == Fate.OVER, self._OVER, code)
        keys, self._counts = np.unique(at * self._CODES + code, return_counts=True)
        self._codes = keys % self._CODES
        self._starts = np.searchsorted(keys, np.arange(length + 1) * self._CODES)
        # Of one that left, only values below its age are known to be exceeded.
        beyond = value[:, None] > exact
        says = (fate != Fate.LEFT)[:, None] | beyond
        self._beyond = np.empty((length, 2, len(exact)), dtype=np.int32)
        for i in range(len(exact)):
            self._beyond[:, 0, i] = np.bincount(at, beyond[:, i], length)
            self._beyond[:, 1, i] = np.bincount(at, says[:, i], length)
        # The same of the bounds: one that left says nothing of those that it did not reach.
        gone = fate == Fate.LEFT
        bucket = np.where(gone, code - self._LEFT, code)
        self._exceeding = np.empty((length, 2, len(bounds)), dtype=np.int32)
        for i, bound in enumerate(bounds):
            self._exceeding[:, 0, i] = np.bincount(at, bucket > bound, length)
            self._exceeding[:, 1, i] = np.bincount(at, ~gone | (bucket > bound), length)
        self._nothing = Counts(beyond=((0, 0),) * len(exact)), [[0] * len(bounds)] * 2
        self._block = -1
        self._made: dict[int, tuple[Counts, _Exceeding]] = {}

    def counts(self, second: int) -> Counts:
        return self._read(second)[0]

    def exceeding(self, second: int) -> _Exceeding:
        """For each bound how many exceeded it; and of how many that say something about it."""
        return self._read(second)[1]

    def _read(self, second: int) -> tuple[Counts, _Exceeding]:
        block = second // _BLOCK
        if block != self._block:
            self._block, self._made = block, dict(self._make(block * _BLOCK, _BLOCK))
        return self._made.get(second, self._nothing)

    def whole(self) -> Counts:
        sums = np.bincount(self._codes, self._counts, self._CODES).astype(np.int64)
        codes = np.flatnonzero(sums)
        return self._sort_out(codes.tolist(), sums[codes].tolist(), ())

    def _make(self, first: int, seconds: int) -> Iterator[tuple[int, tuple[Counts, _Exceeding]]]:
        """The counts of so many seconds from ``first`` on, but for those without a request."""
        begin, end = np.searchsorted(self._seconds, (first, first + seconds)).tolist()
        starts = self._starts[begin : end + 1].tolist()
        rows = slice(starts[0], starts[-1])
        codes, counts = self._codes[rows].tolist(), self._counts[rows].tolist()
        named = zip(
            self._seconds[begin:end].tolist(),
            pairwise(starts),
            self._beyond[begin:end].tolist(),
            self._exceeding[begin:end].tolist(),
            strict=True,
        )
        for second, (a, b), exact, exceeding in named:
            part = slice(a - rows.start, b - rows.start)
            beyond = tuple(zip(*exact, strict=True))
            yield second, (self._sort_out(codes[part], counts[part], beyond), exceeding)

    def _sort_out(
        self, codes: list[int], counts: list[int], beyond: tuple[tuple[int, int], ...]
    ) -> Counts:
        """``codes``: rising, each once."""
        if not codes or codes[-1] < self._LEFT:
            return Counts(dict(zip(codes, counts, strict=True)), {}, 0, beyond)
        done: dict[int, int] = {}
        left: dict[int, int] = {}
        over = 0
        for code, count in zip(codes, counts, strict=True):
            if code == self._OVER:
                over = count
            elif code >= self._LEFT:
                left[code - self._LEFT] = count
            else:
                done[code] = count
        return Counts(done, left, over, beyond)


class OutcomeTally:
    """Ends by arrival second, as known at ``lag``, of both arms."""

    def __init__(self, trace: Trace, lag: float) -> None:
        self.lag = lag
        ended = np.isnan(trace.e2e) | (trace.e2e <= lag)
        counted = ~(trace.left & np.isnan(trace.ttft))
        self._first = int(trace.second[0]) if len(trace) else 0
        at = trace.second - self._first
        self._length = int(at[-1]) + 1 if len(trace) else 0

        def count(rows: BoolArray) -> list[int]:
            counts: list[int] = np.bincount(at[rows], minlength=self._length).tolist()
            return counts

        self._arms = tuple(
            (
                count(arm & counted),
                count(arm & counted & trace.failed & ended),
                count(arm & counted & trace.refused & ended),
            )
            for arm in (trace.canary, ~trace.canary)
        )

    def canary(self, second: int) -> Outcomes:
        return self._outcomes(0, second)

    def control(self, second: int) -> Outcomes:
        return self._outcomes(1, second)

    def _outcomes(self, arm: int, second: int) -> Outcomes:
        at = second - self._first
        if not 0 <= at < self._length:
            return Outcomes()
        total, failed, refused = (column[at] for column in self._arms[arm])
        return Outcomes(total, failed, refused)


def count_tokens(trace: Trace) -> Mapping[int, int]:
    """Finished answers by the whole part of log2 of their tokens."""
    finished = trace.tokens[(trace.tokens >= 1) & ~np.isnan(trace.e2e) & ~trace.failed]
    powers, counts = np.unique(np.log2(finished).astype(np.int64), return_counts=True)
    return dict(zip(powers.tolist(), counts.tolist(), strict=True))
