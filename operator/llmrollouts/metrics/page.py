"""One answer of a worker's tap, read strictly: what is not exactly a page is an error, not data.

Decides what counts as a page: NaN, negative numbers, another version, a bucket that the grid does
not have, a stream that nobody asked for are all PageErrors that name the worker. The wire format
(version 1) is served by the launcher on its own port under /samples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlencode

from llmrollouts.analysis.counts import Counts, Measurement, Metric, Outcomes, Stream
from llmrollouts.analysis.grid import OVERFLOW

VERSION: Final = 1
LONGEST_PAGE: Final = 1 << 20
# log2 of the tokens of an answer: no model writes 2**40 of them.
TOKEN_CLASSES: Final = 40
_LONGEST_BOOT: Final = 128
_METRICS: Final = {metric.value: metric for metric in Metric}


class PageError(Exception):
    """A worker gave no usable page; the message names the worker and says what is wrong."""


class NoTap(PageError):
    """The worker's image has no tap: it will never answer."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one worker has counted.

    boot: names this life of the worker; now: seconds on its clock, which starts anew with a boot.
    since: cohorts that closed after it are here, up to ``now``; cohorts without a request are left
    out. closed, ends: by stream (lag) and cohort. live, mirrored, cut, lost: totals since boot;
    tokens: finished answers since boot by log2 of their length.
    """

    boot: str
    now: float
    since: float
    closed: tuple[tuple[Stream, int, Counts], ...] = ()
    ends: tuple[tuple[float, int, Outcomes], ...] = ()
    live: int = 0
    mirrored: int = 0
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
        raw = json.loads(body, parse_constant=_refuse_constant)
        return _read(raw, measurement)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
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
    asked = _Asked(measurement)
    latest = math.floor(now)
    closed = tuple(asked.read_closed(entry, latest) for entry in raw.get("closed", ()))
    ends = tuple(asked.read_ends(entry, latest) for entry in raw.get("outcomes", ()))
    arrivals = raw.get("arrivals", {})
    return Page(
        boot=boot,
        now=now,
        since=since,
        closed=closed,
        ends=ends,
        live=_count(arrivals.get("live", 0)),
        mirrored=_count(arrivals.get("mirrored", 0)),
        cut=_count(raw.get("cut", 0)),
        lost=_count(raw.get("lost", 0)),
        in_flight=_count(raw.get("in_flight", 0)),
        oldest=_seconds(raw.get("oldest", 0.0)),
        processes=_count(raw.get("processes", 0)),
        tap=tap,
        tokens=_read_tokens(raw.get("tokens", ())),
    )


class _Asked:
    """Reads entries of exactly the streams that were asked for, each cohort once."""

    def __init__(self, measurement: Measurement | None) -> None:
        self._streams: dict[tuple[str, float], Stream] = {}
        self._exact: dict[str, int] = {}
        self._ends: frozenset[float] = frozenset()
        self._seen: set[tuple[str, float, int]] = set()
        if measurement is not None:
            self._streams = {
                (metric.value, lag): Stream(metric, lag)
                for metric, lags in measurement.lags.items()
                for lag in lags
            }
            self._exact = {m.value: len(values) for m, values in measurement.exact.items()}
            self._ends = frozenset(measurement.outcome_lags)

    def read_closed(self, entry: Any, latest: int) -> tuple[Stream, int, Counts]:
        name, lag, cohort, over, done, left, exact = entry
        stream = self._streams.get((name, lag))
        if stream is None:
            raise ValueError(f"a stream that was not asked for: {str(name)[:20]} {str(lag)[:20]}")
        self._once(name, lag, cohort, latest)
        beyond = tuple((_count(over_it), _count(of)) for over_it, of in exact)
        if len(beyond) != self._exact.get(name, 0) or any(k > n for k, n in beyond):
            raise ValueError(f"{name} counts other exact values than were asked for")
        return stream, cohort, Counts(_buckets(done), _buckets(left), _count(over), beyond)

    def read_ends(self, entry: Any, latest: int) -> tuple[float, int, Outcomes]:
        lag, cohort, total, failed, refused = entry
        if lag not in self._ends:
            raise ValueError(f"ends at a lag that was not asked for: {str(lag)[:20]}")
        self._once("errors", lag, cohort, latest)
        return float(lag), cohort, Outcomes(_count(total), _count(failed), _count(refused))

    def _once(self, name: str, lag: float, cohort: Any, latest: int) -> None:
        if _count(cohort) > latest:
            raise ValueError(f"cohort {cohort} of a time that is still to come")
        if (name, lag, cohort) in self._seen:
            raise ValueError(f"cohort {cohort} of {name} stands there twice")
        self._seen.add((name, lag, cohort))


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


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _join(values: Mapping[str, tuple[float, ...]]) -> str:
    return ";".join(
        f"{name}:{','.join(repr(value) for value in each)}" for name, each in values.items()
    )
