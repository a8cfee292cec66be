"""One answer of a worker's tap, read strictly: what is not exactly a page is an error, not data.

Decides what counts as a page: NaN, negative numbers, another version, a bucket that the grid does
not have, a stream that nobody asked for are all PageErrors that name the worker. The wire format
(version 1) is served by the launcher on its own port under /samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from llmrollouts.analysis.counts import Counts, Measurement, Outcomes, Stream
from llmrollouts.analysis.grid import OVERFLOW

VERSION: Final = 1
LONGEST_PAGE: Final = 1 << 20
# log2 of the tokens of an answer: no model writes 2**40 of them.
TOKEN_CLASSES: Final = 40
_LONGEST_BOOT: Final = 128
# Strict JSON: NaN and Infinity are none. Several times as fast as the standard library's, which
# was most of what a page cost.
_DECODER: Final = msgspec.json.Decoder()


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
    except (
        msgspec.DecodeError, ValueError, TypeError, LookupError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        told = f"{type(error).__name__}: {error}"[:200]
        raise PageError(f"{worker} answered no page of samples: {told}") from error


def _read(raw: Any, measurement: Measurement | None) -> Page:
    if not isinstance(raw, dict):
        raise ValueError("it is no object")
    if raw.get("version") != VERSION:
        raise ValueError(f"version {str(raw.get('version'))[:20]}, not {VERSION}")
    boot = raw["boot"]
    if not isinstance(boot, str) or not 0 < len(boot) <= _LONGEST_BOOT:
        raise ValueError("boot is no name of a life")
    now, since = _seconds(raw["now"]), _seconds(raw["since"])
    if since > now:
        raise ValueError("it covers a time that is still to come")
    tap = raw["tap"]
    if not isinstance(tap, bool):
        raise ValueError("tap is neither true nor false")
    asked, latest = _prepare(measurement), math.floor(now)
    cohorts: set[tuple[object, int]] = set()
    closed = tuple(asked.read_closed(raw.get("closed", ()), latest, cohorts))
    ends = tuple(asked.read_ends(raw.get("outcomes", ()), latest, cohorts))
    arrivals = raw.get("arrivals", {})
    return Page(
        boot=boot,
        now=now,
        since=since,
        closed=closed,
        ends=ends,
        live=_count(arrivals.get("live", 0)),
        mirrored=_count(arrivals.get("mirrored", 0)),
        other=_count(raw.get("other", 0)),
        cut=_count(raw.get("cut", 0)),
        lost=_count(raw.get("lost", 0)),
        in_flight=_count(raw.get("in_flight", 0)),
        oldest=_seconds(raw.get("oldest", 0.0)),
        processes=_count(raw.get("processes", 0)),
        tap=tap,
        tokens=_read_tokens(raw.get("tokens", ())),
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
        self, entries: Any, latest: int, cohorts: set[tuple[object, int]]
    ) -> Iterator[tuple[Stream, int, Counts]]:
        for name, lag, cohort, over, done, left, exact in entries:
            found = self._streams.get((name, lag))
            if found is None:
                raise ValueError(
                    f"a stream that was not asked for: {str(name)[:20]} {str(lag)[:9]}"
                )
            stream, wanted = found
            _once(stream, cohort, latest, cohorts)
            if len(exact) != wanted:
                raise ValueError(f"{name} counts other exact values than were asked for")
            for beyond, of in exact:
                if type(beyond) is not int or type(of) is not int or not 0 <= beyond <= of:
                    raise ValueError(f"no counts: {str(beyond)[:20]} of {str(of)[:20]}")
            beyond_all = tuple(map(tuple, exact))
            yield stream, cohort, Counts(_buckets(done), _buckets(left), _count(over), beyond_all)

    def read_ends(
        self, entries: Any, latest: int, cohorts: set[tuple[object, int]]
    ) -> Iterator[tuple[float, int, Outcomes]]:
        for lag, cohort, total, failed, refused in entries:
            if lag not in self._ends:
                raise ValueError(f"ends at a lag that was not asked for: {str(lag)[:20]}")
            _once(self._ends[lag], cohort, latest, cohorts)
            yield self._ends[lag], cohort, Outcomes(_count(total), _count(failed), _count(refused))


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


def _once(key: object, cohort: Any, latest: int, cohorts: set[tuple[object, int]]) -> None:
    if type(cohort) is not int or not 0 <= cohort <= latest:
        raise ValueError(f"no cohort of the past: {str(cohort)[:20]}")
    if (key, cohort) in cohorts:
        raise ValueError(f"cohort {cohort} stands there twice")
    cohorts.add((key, cohort))


def _buckets(pairs: Any) -> Mapping[int, int]:
    counts: dict[int, int] = {}
    for bucket, count in pairs:
        if type(bucket) is not int or not 0 <= bucket <= OVERFLOW or bucket in counts:
            raise ValueError(f"no bucket of the grid, or one named twice: {str(bucket)[:20]}")
        if type(count) is not int or count < 0:
            raise ValueError(f"no count: {str(count)[:20]}")
        counts[bucket] = count
    return counts


def _read_tokens(pairs: Any) -> tuple[int, ...]:
    counts = [0] * TOKEN_CLASSES
    for power, count in pairs:
        counts[min(_count(power), TOKEN_CLASSES - 1)] += _count(count)
    while counts and counts[-1] == 0:
        counts.pop()
    return tuple(counts)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"no count: {str(value)[:20]}")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"no time: {str(value)[:20]}")
    return float(value)


def _join(values: Mapping[str, tuple[float, ...]]) -> str:
    return ";".join(
        f"{name}:{','.join(repr(value) for value in each)}" for name, each in values.items()
    )
