"""The canary gate over recorded requests: what would it have decided, and when?

The very same ``Gate`` as in the operator takes the same seconds in the same order: a cohort is
read when it is ``lag`` seconds old, and the verdict is asked for after each second. Pure: the
caller has read the trace and the policy. Called by `kubectl llm replay`.

Thresholds come from stable's requests in the first part of the trace: all that arrived before the
canary's first, if these are enough; otherwise the first ten seconds or thousand requests of
stable, and never fewer than ``MIN_BASELINE``. Canary requests of that time are not compared. In
the operator the baseline was collected before the step, so there the same canary is judged from
its first request on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np

from llmrollouts.analysis.baseline import (
    MIN_BASELINE,
    Baseline,
    baseline_measurement,
    choose_reference,
)
from llmrollouts.analysis.counts import LatencySecond, OutcomeSecond, Stream
from llmrollouts.analysis.evalues import IntArray
from llmrollouts.analysis.gate import Gate, GateState, start_state
from llmrollouts.analysis.judgement import Judgement, Outcome
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.stage import Stage, freeze_stage
from llmrollouts.analysis.trace import OutcomeTally, Tally, Trace, count_tokens

# A baseline among mixed traffic: enough for a p99, and no longer than a regression may go unseen.
_MIXED_REQUESTS: Final = 1000
_MIXED_SECONDS: Final = 10
# Seconds without any request: a longer pause of the trace is left out, as the step's clock stops.
_LONGEST_PAUSE: Final = 60
_LOOK_AGAIN: Final = 10  # seconds
_ABSOLUTE: Final = ":absolute"
_READS_AT_ONCE: Final = 65_536


class TraceError(ValueError):
    """The trace cannot be replayed; the message is one sentence for people."""


class Verdict(StrEnum):
    """What became of the canary by the end of the trace. INCONCLUSIVE never promotes."""

    ROLLED_BACK = "RolledBack"
    PROMOTABLE = "Promotable"
    INCONCLUSIVE = "Inconclusive"
    FROZEN = "Frozen"


@dataclass(frozen=True)
class Replay:
    """decided_at: seconds on the trace's clock, the end of the second that decided; None: nothing
    did. compared_from: the first arrival second that was compared; baseline: stable's requests
    that set the thresholds; skipped: canary requests of that time."""

    verdict: Verdict
    decided_at: float | None
    judgement: Judgement
    stage: Stage
    state: GateState
    compared_from: int
    baseline: int
    skipped: int


def replay(
    trace: Trace,
    policy: Policy,
    *,
    level: float,
    ticks: int,
    canary_workers: int,
    min_requests: int = 0,
) -> Replay:
    """Run the gate over the trace. level: of the step; ticks: its planned length in seconds;
    min_requests: canary requests below which nothing is promotable. Raises TraceError."""
    begin = _find_begin(trace)
    row = int(np.searchsorted(trace.second, begin))
    baseline = read_baseline(trace.part(slice(0, row)))
    try:
        stage = freeze_stage("replay", policy, baseline, level, ticks, canary_workers)
    except ValueError as problem:
        raise TraceError(str(problem)) from problem
    compared = trace.part(slice(row, len(trace)))
    if not compared.canary.any():
        raise TraceError(
            "no request of the canary is left after the baseline: the trace is too short"
        )
    judgement, state, when, verdict = _run(stage, compared, begin, min_requests)
    skipped = int(trace.canary[:row].sum())
    return Replay(
        verdict, when, judgement, stage, state, begin, int((~trace.canary[:row]).sum()), skipped
    )


def _find_begin(trace: Trace) -> int:
    """The first second that is compared: all before it is baseline."""
    stable, canary = trace.second[~trace.canary], trace.second[trace.canary]
    if not len(canary):
        raise TraceError("the trace holds no request of the canary")
    if len(stable) < MIN_BASELINE:
        raise TraceError(
            f"the trace holds {len(stable)} requests of stable; {MIN_BASELINE} are needed before "
            "thresholds can be set"
        )
    alone = int(np.searchsorted(stable, canary[0]))
    if alone >= MIN_BASELINE:
        return int(canary[0])
    within = int(np.searchsorted(stable, stable[0] + _MIXED_SECONDS))
    wanted = max(MIN_BASELINE, min(within, _MIXED_REQUESTS))
    return int(stable[min(wanted, len(stable)) - 1]) + 1


def read_baseline(trace: Trace) -> Baseline:
    """Stable's histogram and lengths of answers over the first part."""
    stable = trace.part(~trace.canary)
    tokens = count_tokens(stable)
    baseline = Baseline().add_tokens(tokens)
    reference = choose_reference(baseline.tokens)
    baseline = Baseline(tokens=baseline.tokens, reference_tokens=reference)
    for metric, (lag,) in baseline_measurement(reference).lags.items():
        stream = Stream(metric, lag)
        baseline = baseline.add(stream, Tally(stable, stream, (), reference).control_sum())
    return baseline


def _run(
    stage: Stage, trace: Trace, begin: int, min_requests: int
) -> tuple[Judgement, GateState, float | None, Verdict]:
    gate, state = Gate(stage), start_state(stage)
    frozen: tuple[Judgement, float] | None = None
    proven: float | None = None
    feeds = _list_feeds(stage, trace)
    limits = _list_limits(gate, state)
    before: object = None
    for now, reads in groupby(_order_reads(feeds, trace, begin), key=itemgetter(0)):
        state = gate.take(state, [feeds[number].read(second) for _, number, second in reads])
        # Nothing but these can change what the judgement is.
        marks = _outcome_marks(state, limits, now)
        if marks == before:
            continue
        before = marks
        standing = gate.standing(state)
        if standing.outcome is Outcome.ROLL_BACK:
            return gate.judge(state), state, now, Verdict.ROLLED_BACK
        if standing.outcome is Outcome.FREEZE and frozen is None:
            frozen = gate.judge(state), now
        enough = standing.canary_requests >= min_requests
        proven = (proven or now) if standing.proven and enough else None
    judgement = gate.judge(state)
    if frozen is not None:
        return frozen[0], state, frozen[1], Verdict.FROZEN
    if proven is not None:
        return judgement, state, proven, Verdict.PROMOTABLE
    return judgement, state, None, Verdict.INCONCLUSIVE


def _list_limits(gate: Gate, state: GateState) -> Mapping[str, float]:
    """The tests of hard limits by name, each with the ln E at which the limit is broken."""
    return {
        name: -math.log(gate.levels[name.removesuffix(_ABSOLUTE)])
        for name in state.runs
        if name.endswith(_ABSOLUTE)
    }


def _outcome_marks(state: GateState, limits: Mapping[str, float], now: float) -> object:
    """What an outcome follows from: decisions, accepted quantiles, hard limits that are broken;
    and from time to time, as a metric that nobody uses stops being waited for."""
    accepted = sum(test.proven for test in state.proof.tests.values())
    broken = [name for name, needed in limits.items() if state.runs[name].log_e >= needed]
    return len(state.decided), accepted, broken, int(now) // _LOOK_AGAIN


class _LatencyFeed:
    """One latency stream of the stage over the trace."""

    def __init__(self, stage: Stage, trace: Trace, stream: Stream) -> None:
        self.lag = stream.lag
        measured, places = stage.measurement, stage.thresholds.get(stream.metric)
        bounds = (places.canary_bounds, places.control_bounds) if places is not None else ((), ())
        exact = measured.exact.get(stream.metric, ())
        self._tally = Tally(trace, stream, exact, measured.reference_tokens, bounds)
        self._stream = stream

    def read(self, second: int) -> LatencySecond:
        canary, control = self._tally.canary(second), self._tally.control(second)
        cells, workers = self._tally.cells(second), self._tally.workers(second)
        return LatencySecond(self._stream, second, canary, control, cells, workers)


class _OutcomeFeed:
    """One stream of ends over the trace."""

    def __init__(self, trace: Trace, lag: float) -> None:
        self.lag = lag
        self._tally = OutcomeTally(trace, lag)

    def read(self, second: int) -> OutcomeSecond:
        canary, control = self._tally.canary(second), self._tally.control(second)
        return OutcomeSecond(self.lag, second, canary, control)


_Feed = _LatencyFeed | _OutcomeFeed


def _list_feeds(stage: Stage, trace: Trace) -> list[_Feed]:
    latency = [_LatencyFeed(stage, trace, stream) for stream in stage.streams]
    return [*latency, *(_OutcomeFeed(trace, lag) for lag in stage.measurement.outcome_lags)]


def _order_reads(
    feeds: Sequence[_Feed], trace: Trace, begin: int
) -> Iterator[tuple[float, int, int]]:
    """(moment, number of the feed, arrival second), in the order in which they are read; cohorts
    that have not reached their lag when the trace ends are never read."""
    seconds = _cohorts(trace, begin)
    moments = np.concatenate([seconds + 1 + feed.lag for feed in feeds])
    numbers = np.repeat(np.arange(len(feeds)), len(seconds))
    cohorts = np.tile(seconds, len(feeds))
    read = moments <= trace.end
    moments, numbers, cohorts = moments[read], numbers[read], cohorts[read]
    order = np.lexsort((cohorts, numbers, moments))
    # Some at a time: of a trace of weeks, all of them as objects would fill the memory.
    for first in range(0, len(order), _READS_AT_ONCE):
        rows = order[first : first + _READS_AT_ONCE]
        yield from zip(
            moments[rows].tolist(), numbers[rows].tolist(), cohorts[rows].tolist(), strict=True
        )


def _cohorts(trace: Trace, begin: int) -> IntArray:
    """The arrival seconds that are taken in, those without a request too, but no long pause."""
    busy = np.unique(np.concatenate([[begin], trace.second]))
    parts = [
        np.arange(a, b if b - a <= _LONGEST_PAUSE else a + 1)
        for a, b in zip(busy[:-1].tolist(), busy[1:].tolist(), strict=True)
    ]
    return np.concatenate([*parts, busy[-1:]])
