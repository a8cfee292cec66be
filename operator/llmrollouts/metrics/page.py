"""One answer of a worker's tap, read strictly: what is not exactly a page is an error, not data.

Decides what counts as a page: NaN, negative numbers, another version, a bucket that the grid does
not have, a stream that nobody asked for are all PageErrors that name the worker. The wire format
(version 1) is served by the launcher on its own port under /samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias
from urllib.parse import urlencode

import msgspec

from llmrollouts.analysis.counts import Counts, Measurement, Outcomes, Stream
from llmrollouts.analysis.grid import OVERFLOW

LONGEST_PAGE: Final = 1 << 20
# log2 of the tokens of an answer: no model writes 2**40 of them.
TOKEN_CLASSES: Final = 40
_LONGEST_BOOT: Final = 128

_Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
_Bucket: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=OVERFLOW)]
_Pairs: TypeAlias = list[tuple[_Bucket, _Whole]]
# Name of the metric, lag, cohort, over, done, left, exact.
_Closed: TypeAlias = tuple[
    str, float, _Whole, _Whole, _Pairs, _Pairs, tuple[tuple[_Whole, _Whole], ...]
]
# Lag, cohort, total, failed, refused.
_Ends: TypeAlias = tuple[float, _Whole, _Whole, _Whole, _Whole]


class _Arrivals(msgspec.Struct, gc=False):
    live: _Whole = 0
    mirrored: _Whole = 0


class _Raw(msgspec.Struct, gc=False):
    """The page as it is sent. What a field may hold is checked while it is parsed, which is far
    cheaper than looking at each number afterwards; fields that are unknown here are passed over."""

    version: Literal[1]
    boot: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST_BOOT)]
    now: _Seconds
    since: _Seconds
    tap: bool
    closed: list[_Closed] = []
    outcomes: list[_Ends] = []
    arrivals: _Arrivals = msgspec.field(default_factory=_Arrivals)
    other: _Whole = 0
    cut: _Whole = 0
    lost: _Whole = 0
    in_flight: _Whole = 0
    oldest: _Seconds = 0.0
    processes: _Whole = 0
    tokens: list[tuple[_Whole, _Whole]] = []


# Strict JSON: NaN and Infinity are none, 1.0 and true are no counts.
_DECODER: Final = msgspec.json.Decoder(_Raw)


class PageError(Exception):
    """A worker gave no usable page; the message names the worker and says what is wrong."""


class NoTap(PageError):
    """The worker's image has no tap: it will never answer."""


def has_no_tap(worker: str) -> NoTap:
    """Of a worker, by name, whose page says so itself."""
    return NoTap(f"{worker} runs without the tap")


@dataclass(frozen=True, slots=True)
class Page:
    """What one worker has counted.

    boot: names this life of the worker; now: seconds on its clock, which starts anew with a boot.
    since: cohorts that closed after it are here, up to ``now``; cohorts without a request are left
    out. closed, ends: by stream (lag) and cohort. live, mirrored, cut, lost: totals since boot;
    other: requests that came like users' and are not measured, such as the list of models;
    tokens: finished answers since boot by log2 of their length.
    """

    boot: str
    now: float
    since: float
    closed: tuple[tuple[Stream, int, Counts], ...] = ()
    ends: tuple[tuple[float, int, Outcomes], ...] = ()
    live: int = 0
    mirrored: int = 0
    other: int = 0
    cut: int = 0
    lost: int = 0
    in_flight: int = 0
    oldest: float = 0.0
    processes: int = 1
    tap: bool = True
    tokens: tuple[int, ...] = ()


def make_parameters(measurement: Measurement | None, since: float | None, boot: str | None) -> str:
    """The query string of one read."""
    asked: dict[str, str] = {}
    if since is not None:
        asked["since"] = repr(since)
    if boot is not None:
        asked["boot"] = boot
    if measurement is not None:
        lags = {metric.value: values for metric, values in measurement.lags.items()}
        if measurement.outcome_lags:
            lags["errors"] = measurement.outcome_lags
        asked["lags"] = _join(lags)
        exact = {metric.value: values for metric, values in measurement.exact.items() if values}
        if exact:
            asked["exact"] = _join(exact)
        asked["reference"] = str(measurement.reference_tokens)
    return urlencode(asked)


def parse_page(body: bytes, worker: str, measurement: Measurement | None) -> Page:
    """``worker``: its name, for messages. Raises PageError."""
    if len(body) > LONGEST_PAGE:
        raise PageError(f"{worker} answered more than {LONGEST_PAGE} bytes")
    try:
        return _read(_DECODER.decode(body), measurement)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        told = f"{type(error).__name__}: {error}"[:200]
        raise PageError(f"{worker} answered no page of samples: {told}") from error


def _read(raw: _Raw, measurement: Measurement | None) -> Page:
    if raw.since > raw.now:
        raise ValueError("it covers a time that is still to come")
    asked, latest = _prepare(measurement), math.floor(raw.now)
    arrivals = raw.arrivals
    return Page(
        boot=raw.boot,
        now=raw.now,
        since=raw.since,
        closed=asked.read_closed(raw.closed, latest),
        ends=asked.read_ends(raw.outcomes, latest),
        live=arrivals.live,
        mirrored=arrivals.mirrored,
        other=raw.other,
        cut=raw.cut,
        lost=raw.lost,
        in_flight=raw.in_flight,
        oldest=raw.oldest,
        processes=raw.processes,
        tap=raw.tap,
        tokens=_read_tokens(raw.tokens),
    )


class _Asked:
    """Reads entries of exactly the streams that were asked for."""

    def __init__(self, measurement: Measurement | None) -> None:
        # Held, so that its id stays its own while it is looked up by it.
        self.measurement = measurement
        self._streams: dict[tuple[str, float], tuple[Stream, int]] = {}
        self._ends: dict[float, float] = {}
        if measurement is not None:
            self._streams = {
                (metric.value, lag): (Stream(metric, lag), len(measurement.exact.get(metric, ())))
                for metric, lags in measurement.lags.items()
                for lag in lags
            }
            self._ends = {lag: lag for lag in measurement.outcome_lags}

    def read_closed(
        self, entries: list[_Closed], latest: int
    ) -> tuple[tuple[Stream, int, Counts], ...]:
        closed = []
        for name, lag, cohort, over, done, left, exact in entries:
            found = self._streams.get((name, lag))
            if found is None:
                raise ValueError(f"a stream that was not asked for: {name[:20]} {str(lag)[:9]}")
            stream, wanted = found
            if len(exact) != wanted:
                raise ValueError(f"{name} counts other exact values than were asked for")
            for beyond, of in exact:
                if beyond > of:
                    raise ValueError(f"no counts: {str(beyond)[:20]} of {str(of)[:20]}")
            counts, gone = dict(done), dict(left) if left else {}
            if len(counts) != len(done) or len(gone) != len(left):
                raise ValueError("a bucket is named twice")
            closed.append((stream, cohort, Counts(counts, gone, over, exact)))
        _check_cohorts([(stream, cohort) for stream, cohort, _ in closed], latest)
        return tuple(closed)

    def read_ends(
        self, entries: list[_Ends], latest: int
    ) -> tuple[tuple[float, int, Outcomes], ...]:
        ends = []
        for lag, cohort, total, failed, refused in entries:
            if lag not in self._ends:
                raise ValueError(f"ends at a lag that was not asked for: {str(lag)[:20]}")
            ends.append((lag, cohort, Outcomes(total, failed, refused)))
        _check_cohorts([(lag, cohort) for lag, cohort, _ in ends], latest)
        return tuple(ends)


_asked: dict[int, _Asked] = {}
_MOST_ASKED: Final = 512


def _prepare(measurement: Measurement | None) -> _Asked:
    """The same measurement is asked for every second: its tables are made once."""
    found = _asked.get(id(measurement))
    if found is None or found.measurement is not measurement:
        if len(_asked) >= _MOST_ASKED:
            _asked.clear()
        found = _asked[id(measurement)] = _Asked(measurement)
    return found


def _check_cohorts(told: Sequence[tuple[object, int]], latest: int) -> None:
    """Each cohort of a stream once, and none of the future."""
    if len(set(told)) != len(told):
        raise ValueError("a cohort stands there twice")
    for _, cohort in told:
        if cohort > latest:
            raise ValueError(f"no cohort of the past: {str(cohort)[:20]}")


def _read_tokens(pairs: list[tuple[int, int]]) -> tuple[int, ...]:
    counts = [0] * TOKEN_CLASSES
    for power, count in pairs:
        counts[min(power, TOKEN_CLASSES - 1)] += count
    while counts and counts[-1] == 0:
        counts.pop()
    return tuple(counts)


def _join(values: Mapping[str, tuple[float, ...]]) -> str:
    return ";".join(
        f"{name}:{','.join(repr(value) for value in each)}" for name, each in values.items()
    )
