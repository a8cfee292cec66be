"""Makes the page `/samples` from the cohorts. Changes nothing: asked twice, it says the same.

A cohort of a stream is told once, in the answer to the first question after it closed: `lag`
seconds after its second was over, and SETTLE_SECONDS more for records that are on their way.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .cohorts import Request
from .fates import DONE, LEFT, OVER, read_fate, read_outcome
from .grid import bucket_of
from .http_server import Page
from .sampler import Sampler
from .samples_query import BadQuery, Query, parse_query

VERSION = 1
SETTLE_SECONDS = 0.15
MOST_BYTES = 1024 * 1024
HEAD_BYTES = 4096  # room for everything but the rows
# The launcher answers the kubelet on the same loop: after so many requests others get their turn.
REQUESTS_IN_A_ROW = 2000


@dataclass(frozen=True)
class Row:
    """One line of `closed` (or of `outcomes`), as it is sent, and when its cohort closed."""

    closed_at: float
    outcome: bool
    text: str


async def make_samples(sampler: Sampler, query_text: str) -> Page:
    """The page; 400 and a sentence for a bad query."""
    sampler.receive()
    now = round(sampler.now(), 6)
    sampler.cohorts.forget_old(now)
    try:
        query = parse_query(query_text)
        if query.since is not None and query.since > now and query.boot in ("", sampler.boot):
            raise BadQuery(f"since lies {query.since - now:.3f} s in the future of this worker.")
    except BadQuery as error:
        return Page(400, f"{error}\n")
    # Another boot's time says nothing here: the clock alone is told, with the boot that is.
    asked = now if query.since is None or query.boot not in ("", sampler.boot) else query.since
    gone = sampler.cohorts.gone_before + query.longest_lag + SETTLE_SECONDS
    since = min(now, max(asked, gone))
    rows = await _make_rows(sampler, query, since, now)
    rows, since = _fit(rows, since, MOST_BYTES - HEAD_BYTES)
    return Page(200, _render(sampler, rows, since, now), "application/json")


async def _make_rows(sampler: Sampler, query: Query, since: float, now: float) -> list[Row]:
    rows: list[Row] = []
    read = 0
    for metric, lag in [*query.streams, *(("", lag) for lag in query.outcome_lags)]:
        closing = 1 + lag + SETTLE_SECONDS  # after the beginning of the cohort's second
        first, last = math.floor(since - closing) + 1, math.floor(now - closing)
        for second, requests in sampler.cohorts.between(first, last):
            text = (
                _count_latency(requests, second, metric, lag, query)
                if metric
                else _count_outcomes(requests, second, lag)
            )
            if text:
                rows.append(Row(second + closing, not metric, text))
            read += len(requests)
            if read > REQUESTS_IN_A_ROW:
                read = 0
                await asyncio.sleep(0)
    rows.sort(key=lambda row: row.closed_at)
    return rows


def _count_latency(
    requests: Sequence[Request], second: int, metric: str, lag: float, query: Query
) -> str:
    """["ttft",2.0,second,over,[[bucket,n],..],[[bucket,n],..],[[k,n],..]], or "" without any."""
    fates = [read_fate(request, metric, lag, query.reference) for request in requests]
    told = [fate for fate in fates if fate is not None]
    if not told:
        return ""
    done = [value for kind, value in told if kind == DONE]
    left = [value for kind, value in told if kind == LEFT]
    over = sum(1 for kind, _ in told if kind == OVER)
    exact = []
    for bound in query.exact.get(metric, ()):
        beyond = over + sum(value > bound for value in done)
        left_beyond = sum(age > bound for age in left)
        exact.append([beyond + left_beyond, over + len(done) + left_beyond])
    return _encode([metric, lag, second, over, _histogram(done), _histogram(left), exact])


def _count_outcomes(requests: Sequence[Request], second: int, lag: float) -> str:
    """[2.0,second,total,failed,refused]; "" without any."""
    outcomes = [read_outcome(request, lag) for request in requests]
    total, failed, refused = (sum(column) for column in zip(*outcomes))
    return _encode([lag, second, total, failed, refused]) if total else ""


def _histogram(values: Sequence[float]) -> list[tuple[int, int]]:
    return sorted(Counter(map(bucket_of, values)).items())


def _fit(rows: list[Row], since: float, room: int) -> tuple[list[Row], float]:
    """The newest rows that fit into `room` bytes, and the time from which they are complete."""
    for place in range(len(rows) - 1, -1, -1):
        room -= len(rows[place].text) + 1
        if room < 0:
            since = rows[place].closed_at
            return [row for row in rows[place + 1 :] if row.closed_at > since], since
    return rows, since


def _render(sampler: Sampler, rows: Sequence[Row], since: float, now: float) -> str:
    head = {
        "version": VERSION,
        "boot": sampler.boot,
        "now": now,
        "since": since,
        "processes": sampler.processes,
        "lost": sampler.lost,
        "tap": sampler.heard,
        "arrivals": sampler.arrivals,
        "other": sampler.others,
        "in_flight": sampler.cohorts.in_flight,
        "oldest": round(sampler.cohorts.oldest(now), 3),
        "tokens": sorted(sampler.answer_lengths.items()),
        "cut": sampler.cut_streams,
    }
    closed = ",".join(row.text for row in rows if not row.outcome)
    outcomes = ",".join(row.text for row in rows if row.outcome)
    return _encode(head)[:-1] + f',"closed":[{closed}],"outcomes":[{outcomes}]}}\n'


def _encode(content: object) -> str:
    return json.dumps(content, separators=(",", ":"))
